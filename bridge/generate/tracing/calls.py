"""From a node of a graph to the call that is traced: the operator's body, its tensors, and their extents' ranges."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from bridge.core import foreign
from bridge.core.op import OPS
from bridge.errors import UnsupportedOpError
from bridge.generate.program import Extent, Symbol, TensorType
from bridge.generate.tracing.trace import Axis, Body, Call, Input, Scalar

WRITTEN_BY = "inductor"
"""The namespace of plugins that are made of torch's own operators."""

_OF_TORCH = ("aten", "prims", "prim")
_MOST = (1 << 31) - 1  # of an extent without an upper limit


def body_of(target: Any) -> Body | None:
    """The Python code that computes an operator on a GPU, or None: there is none that bridge can see."""
    if not isinstance(target, OpOverload):
        return None
    definition = OPDEFS.get(target._schema.name)
    if definition is not None:
        functions = definition._backend_fns
        return functions.get("cuda") or functions.get(None) or definition._init_fn
    own = next((op for op in OPS.values() if op.overload is target), None)
    return None if own is None else own.reference


def overload_of(operator: Any) -> OpOverload | None:
    """The operator that a model calls; None: it is a function around some."""
    if isinstance(operator, OpOverloadPacket):
        return getattr(operator, operator.overloads()[0])
    if isinstance(operator, OpOverload):
        return operator
    own = next((name for name, definition in OPDEFS.items() if definition is operator), None)
    return None if own is None else foreign.overload_of(own)


def call_of(node: Node, body: Body) -> tuple[Call, list[Node]]:
    """The call that a node stands for; the nodes of its tensors, in order.

    UnsupportedOpError: the operator writes into an argument, or an argument is nothing that can be traced.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    if schema.is_mutable:
        written = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
        raise UnsupportedOpError(
            f"{schema.name} writes into {', '.join(written)}, and an engine only reads its inputs: have it return a new"
            " tensor"
        )
    reader = Reader()
    read = {name: reader.read(name, value) for name, value in _arguments(node).items()}
    keywords = {each.name for each in schema.arguments if each.kwarg_only}
    positional = [value for name, value in read.items() if name not in keywords]
    by_name = {name: value for name, value in read.items() if name in keywords}
    return reader.call(_name(node.target), body, tuple(positional), by_name), reader.nodes


def _name(target: Any) -> str:
    """An operator's name; that of torch's own moves to a namespace where bridge may define plugins."""
    namespace, _, name = target._schema.name.partition("::")
    return f"{WRITTEN_BY}::{name}" if namespace in _OF_TORCH else f"{namespace}::{name}"


def _arguments(node: Node) -> dict[str, Any]:
    """The arguments of a node by name, defaults included."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {each.name: each.default_value for each in arguments if each.has_default_value()}
    given = dict(zip([each.name for each in arguments], node.args, strict=False)) | dict(node.kwargs)
    return {each.name: given.get(each.name, defaults.get(each.name)) for each in arguments}


@dataclass
class Reader:
    """Collects tensors, and a symbol for each extent that is no number."""

    inputs: list[TensorType | None] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    symbols: dict[sympy.Expr, Symbol] = field(default_factory=dict)
    axes: dict[sympy.Symbol, Axis] = field(default_factory=dict)

    def call(self, operator: str, body: Body, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
        """The call of these arguments, which were read."""
        return Call(
            operator=operator,
            body=body,
            arguments=arguments,
            keywords=keywords,
            inputs=tuple(self.inputs),
            symbols=tuple(self.symbols.values()),
            names=tuple(self.names),
            axes=tuple(self.axes[symbol] for symbol in sorted(self.axes, key=str)),
            extents={each.symbol: expression for expression, each in self.symbols.items()},
        )

    def read(self, name: str, value: Any) -> Any:
        """An argument as Call has it."""
        if isinstance(value, Node):
            return self._node(name, value)
        if isinstance(value, (list, tuple)) and any(isinstance(each, Node) for each in value):
            return [self.read(f"{name}{index}", each) for index, each in enumerate(value)]
        return value

    def _node(self, name: str, node: Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            if node in self.nodes:
                return Input(self.nodes.index(node))
            place = len(self.inputs)
            self.nodes.append(node)
            self.names.append(name)
            self.inputs.append(TensorType(value.dtype, tuple(self._extents(place, value))))
            return Input(place)
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return self.number(name, value)
        if isinstance(value, (int, float, bool)):
            return value
        raise UnsupportedOpError(f"its argument {name} is {value!r}, which is no tensor and no number")

    def _extents(self, place: int, tensor: torch.Tensor) -> Iterator[Extent]:
        for axis, extent in enumerate(tensor.shape):
            if not isinstance(extent, torch.SymInt) or extent.node.expr.is_Integer:
                yield int(extent)
                continue
            expression = extent.node.expr
            if expression not in self.symbols:
                self.symbols[expression] = _symbol(len(self.symbols), place, axis, extent.node)
                self.axes |= {each: _axis(each, extent.node) for each in expression.free_symbols - self.axes.keys()}
            yield self.symbols[expression].symbol

    def number(self, name: str, value: int | torch.SymInt | torch.SymFloat) -> "int | float | Scalar":
        """A number as an expression of the extents met so far. UnsupportedOpError: they do not tell it."""
        if isinstance(value, int):
            return value
        known = {expression: each.symbol for expression, each in self.symbols.items()}
        found = value.node.expr.xreplace(known)
        if found.free_symbols - set(known.values()):
            raise UnsupportedOpError(f"its argument {name} is {value}, which no extent of its tensors tells")
        if found.is_Float:
            return float(found)
        return int(found) if found.is_Integer else Scalar(found)


def _axis(symbol: sympy.Symbol, node: Any) -> Axis:
    known = node.shape_env.var_to_range[symbol]
    low, high = _limits(_from_one(known))
    return Axis(symbol, low, high, int(_hint(node, symbol)), _limits(known)[0])


def _hint(node: Any, symbol: sympy.Symbol) -> Any:
    env = node.shape_env
    known = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val  # torch 2.11 renamed it
    return known[symbol]


def _limits(limits: Any) -> tuple[int, int]:
    low = int(limits.lower) if limits.lower.is_Integer else 0
    high = int(limits.upper) if limits.upper.is_Integer else _MOST
    return max(low, 0), min(high, _MOST)


def _symbol(index: int, place: int, axis: int, node: Any) -> Symbol:
    if node.hint is None:
        raise UnsupportedOpError(f"an extent of its tensors, {node.expr}, depends on values")
    low, high = _limits(bound_sympy(node.expr, {name: _from_one(e) for name, e in node.shape_env.var_to_range.items()}))
    symbol = sympy.Symbol(f"s{index}", integer=True, nonnegative=True)
    return Symbol(symbol, place, axis, low, high, int(node.hint))


def _from_one(limits: ValueRanges[Any]) -> ValueRanges[Any]:
    """The range that a profile has: torch.export's begins at 2 for one that begins at 1."""
    return ValueRanges(1, limits.upper) if limits.lower == 2 else limits
