"""Reads the formula of a node. What no rule reads is an unknown function of its indices, named after its node."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, is_copy, value, vmap_step
from bridge.passes.window_attention.formulas import (
    EXACT,
    Formula,
    Unread,
    axis,
    combined,
    constant,
    expression,
    formula,
    plain,
    vmap_index,
)
from bridge.passes.window_attention.tensors import of_tensor

Rule = Callable[["Reader", Node, dict[str, Any]], Formula]


class Reader:
    """Formulas of a graph's nodes, computed once each.

    rules: by operator packet; a rule raises Unread for what it cannot express. changing: the nodes whose values change
    during a call; `changed` collects those that were read. element_of: the indices of the one element that a graph
    computes, as mask_mod's does: what is unknown in it may depend on them.
    """

    def __init__(
        self, rules: dict[Any, Rule], constants: Constants, changing: set[Node], element_of: Sequence[Any] = ()
    ) -> None:
        self.rules = rules
        self._element_of = element_of
        self.unknown: dict[str, Node] = {}
        self.changed: set[Node] = set()
        self._constants = constants
        self._changing = changing
        self._known: dict[Node, Formula] = {}

    def formula(self, node: Any) -> Formula:
        """The formula of a node's tensor, or of a number. Unread: it is a tensor of unknown real numbers."""
        if not isinstance(node, Node):
            return number(node)
        if node not in self._known:
            if node in self._changing:
                self.changed.add(node)
            self._known[node] = self._read(node)
        return self._known[node]

    def operand(self, argument: Any, shape: Sequence[Any]) -> Formula:
        """The formula of a tensor or number, broadcast to a shape."""
        return self.formula(argument).broadcast(shape)

    def integer(self, argument: Any) -> Any:
        """An integer argument of a call, or one that the graph computes, as an expression."""
        return expression(argument.meta.get("val") if isinstance(argument, Node) else argument)

    def is_element(self, node: Node, source: Node, index: Sequence[Any], shape: Sequence[Any]) -> bool:
        """Whether each element of a node, broadcast to a shape, is that of `source` at an index."""
        element = sympy.Function(source.name)
        own = element(*(axis(dim) for dim in range(len(index))))
        tensor = source.meta["val"]
        reader = self.within({source: constant(tensor.shape, tensor.dtype, own)})
        cases = reader.operand(node, shape).cases
        return cases == ((sympy.true, element(*index)),)

    def within(self, known: dict[Node, Formula], element_of: Sequence[Any] = ()) -> "Reader":
        """A reader of this graph, or of another one for one element, to which the formulas of some nodes are given."""
        reader = Reader(self.rules, self._constants, self._changing, element_of)
        reader._known.update(known)
        reader.changed, reader.unknown = self.changed, self.unknown
        return reader

    def _read(self, node: Node) -> Formula:
        tensor = value(node)
        if tensor is None:
            return number(node.meta.get("val"))
        fixed = self._constants.held(node)
        if fixed is not None:
            return of_tensor(fixed) or self._unknown(node, tensor)
        try:
            return self._by_rule(node)
        except Unread:
            if tensor.dtype.is_floating_point:
                raise
        return self._unknown(node, tensor)

    def _by_rule(self, node: Node) -> Formula:
        if vmap_step(node) in self.rules:
            return self.rules[vmap_step(node)](self, node, {})
        if node.op == "call_function" and node.target in self.rules:
            return self.rules[node.target](self, node, {})
        if not isinstance(node.target, OpOverload) or (node.target._schema.is_mutable and not is_copy(node)):
            raise Unread(f"{node.target} has no rule")
        rule = self.rules.get(node.target.overloadpacket)
        if rule is not None:
            return rule(self, node, arguments(node))
        if torch.Tag.pointwise in node.target.tags and torch.Tag.nondeterministic_seeded not in node.target.tags:
            return pointwise(self, node, None)
        raise Unread(f"{node.target} has no rule")

    def _unknown(self, node: Node, tensor: Tensor) -> Formula:
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            raise Unread(f"{node.name} holds real numbers that are not known")
        name = f"mask_mod.{node.name}" if self._element_of else node.name
        self.unknown[name] = node
        indices = (*(axis(dim) for dim in range(tensor.dim())), *self._element_of, *_vmap_indices(node))
        element = sympy.Function(name, integer=True)(*indices)
        value = sympy.Ne(element, 0) if tensor.dtype == torch.bool else element
        if tensor.dtype == torch.bool:
            return formula(tensor.shape, torch.bool, [(value, True), (sympy.Not(value), False)])
        return constant(tensor.shape, tensor.dtype, value)


def _vmap_indices(node: Node) -> list[Any]:
    """The indices of the levels of torch.vmap that a node may be within."""
    pending, seen, levels = [node], set[Node](), set[int]()
    while pending:
        each = pending.pop()
        if each not in seen:
            seen.add(each)
            pending += each.all_input_nodes
            levels |= {each.args[2]} if vmap_step(each) == "_add_batch_dim" else set()  # type: ignore[arg-type]
    return [vmap_index(level) for level in sorted(levels)]


def number(given: Any) -> Formula:
    """The formula of a number of Python or of the graph."""
    if isinstance(given, (bool, torch.SymBool)):
        dtype = torch.bool
    elif isinstance(given, (int, torch.SymInt)):
        dtype = torch.int64
    else:
        dtype = torch.float64
    return constant((), dtype, given if isinstance(given, bool) else expression(given))


def pointwise(reader: Reader, node: Node, symbolic: Callable[..., Any] | None) -> Formula:
    """An element-wise operator. On numbers torch itself computes it; `symbolic` does on integer expressions."""
    assert isinstance(node.target, OpOverload)
    tensor = node.meta["val"]
    given = arguments(node)
    names = [name for name, each in given.items() if isinstance(each, Node)]
    operands = [reader.operand(given[name], tensor.shape) for name in names]

    def compute(*values: Any) -> Any:
        if all(_is_number(each) for each in values):
            return _computed(node, dict(zip(names, values, strict=True)))
        if symbolic is None or tensor.dtype not in (torch.bool, *EXACT):
            raise Unread(f"{node.target} has no rule for integers")
        return symbolic(**(given | dict(zip(names, values, strict=True))))

    return combined(tensor.shape, tensor.dtype, operands, compute)


def _is_number(each: Any) -> bool:
    return isinstance(each, (bool, int, float)) or (isinstance(each, sympy.Basic) and each.is_Integer)


def _computed(node: Node, values: dict[str, Any]) -> Any:
    """The operator's value for one element, with each argument's dtype and rank, which decide about promotion."""
    given = _in_order(node)
    for name, each in values.items():
        tensor = value(given[name])
        scalar = int(each) if isinstance(each, sympy.Basic) else each
        given[name] = scalar if tensor is None else torch.full((1,) * tensor.dim(), scalar, dtype=tensor.dtype)
    assert isinstance(node.target, OpOverload)
    by_name = {each.name for each in node.target._schema.arguments if each.kwarg_only}
    args = [each for name, each in given.items() if name not in by_name]
    with torch.no_grad():
        result = node.target(*args, **{name: given[name] for name in by_name})
    return plain(result.to(node.meta["val"].dtype))


def _in_order(node: Node) -> dict[str, Any]:
    """A call's arguments by name, in the order of the schema."""
    assert isinstance(node.target, OpOverload)
    given = arguments(node)
    return {each.name: given[each.name] for each in node.target._schema.arguments}
