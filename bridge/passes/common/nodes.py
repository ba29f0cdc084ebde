"""What the passes read of a graph's nodes."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten
# Operators that convert to another dtype, or may; and those that keep the elements and their order.
CONVERSIONS = {
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten.type_as.default,
    torch.ops.prims.convert_element_type.default,
}
SAME_ORDER = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,  # which torch.export leaves after a tensor that the model makes of numbers; it writes nothing
    aten.lift_fresh_copy.default,
    aten.view_as_real.default,
    aten.view_as_complex.default,
    aten.reshape_as.default,
    aten.view_as.default,
}
# Those that cut a tensor into several.
CUTS = {
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
}
# What says where in the model a node comes from.
ORIGIN = ("stack_trace", "nn_module_stack")


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call of an ATen operator by the names of its schema, defaults filled in."""
    assert isinstance(node.target, OpOverload)
    schema = node.target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | dict(zip([argument.name for argument in schema], node.args, strict=False)) | dict(node.kwargs)


def value(node: Any) -> Tensor | None:
    """The tensor that a node gives, as traced; None for a number, several tensors, or what is no node."""
    found = node.meta.get("val") if isinstance(node, Node) else None
    return found if isinstance(found, Tensor) else None


def is_traced(node: Node) -> bool:
    """Whether it is known what a node gives, and what its arguments are."""
    return all(each.meta.get("val") is not None for each in (node, *node.all_input_nodes))


def same_extents(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two shapes are equal whatever the symbols in them stand for."""
    return len(some) == len(others) and all(statically_known_true(a == b) for a, b in zip(some, others, strict=True))


def number(argument: Any) -> Any:
    """An integer argument of a call; as it was traced, where the graph computes it."""
    return argument.meta.get("val") if isinstance(argument, Node) else argument


def first_index(start: Any, extent: Any, taken: Any) -> Any:
    """Where a slice begins, counted from 0; None where that is not known for every extent.

    start: as the call has it: None, negative, or beyond the end. taken: how many elements the slice has.
    """
    start = 0 if start is None else number(start)
    if start is None:  # computed, but not traced
        return None
    if isinstance(start, int) and isinstance(extent, int):
        return min(max(start + extent if start < 0 else start, 0), extent)
    if statically_known_true(start >= 0):
        return start if (isinstance(start, int) and start == 0) or statically_known_true(taken >= 1) else None
    return extent + start if statically_known_true(taken == -start) else None


def changes_dtype(node: Node) -> bool:
    """Whether a node's dtype is not that of its first argument."""
    return node.args[0].meta["val"].dtype != node.meta["val"].dtype  # type: ignore[union-attr]


def is_copy(node: Node) -> bool:
    """Whether a node gives its first argument as it is."""
    if node.target not in CONVERSIONS | SAME_ORDER:
        return False
    source, result = value(node.args[0]), value(node)
    if source is None or result is None or source.dtype != result.dtype:
        return False
    return same_extents(source.shape, result.shape)


def canonical(graph: Graph) -> dict[Node, Node]:
    """For each node the first one that computes the same: equal operators on equal arguments, and no randomness."""
    first: dict[Hashable, Node] = {}
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        key = _key(node, found)
        if is_copy(node):
            found[node] = found[node.args[0]]
        else:
            found[node] = node if key is None else first.setdefault(key, node)
    return found


def _key(node: Node, found: dict[Node, Node]) -> Hashable | None:
    if node.op == "get_attr":
        return ("get_attr", node.target)
    if node.op != "call_function" or _varies(node.target):
        return None
    key = (node.target, _freeze(node.args, found), _freeze(node.kwargs, found))
    try:
        hash(key)
    except TypeError:  # a symbolic number among the arguments
        return None
    return key


def _varies(target: Any) -> bool:
    """Whether an operator writes to its arguments or may give other results for the same ones."""
    if not isinstance(target, OpOverload):
        return getattr(target, "__module__", "") not in ("_operator", "math")
    return target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags


def _freeze(argument: Any, found: dict[Node, Node]) -> Hashable:
    if isinstance(argument, Node):
        return found[argument]
    if isinstance(argument, (tuple, list)):
        return tuple(_freeze(item, found) for item in argument)
    if isinstance(argument, dict):
        return tuple((name, _freeze(item, found)) for name, item in argument.items())
    return (type(argument), argument)


def written(graph: Graph) -> set[Node]:
    """The nodes whose memory an in-place operator writes to: what they held may not be what they hold later."""
    owners = {node: _owner(node) for node in graph.nodes}
    touched = {owners[target] for node in graph.nodes for target in targets_of_writes(node)}
    return {node for node, owner in owners.items() if owner in touched}


def targets_of_writes(node: Node) -> list[Node]:
    """The arguments that a node writes to."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable or is_copy(node):
        return []
    given = arguments(node)
    names = [argument.name for argument in node.target._schema.arguments if argument.is_write]
    return [given[name] for name in names if isinstance(given.get(name), Node)]


def _owner(node: Node) -> Node:
    """The node whose memory a view lies in. An operator that may copy counts as one that does not."""
    while True:
        source = _viewed(node)
        if source is None:
            return node
        node = source


def _viewed(node: Node) -> Node | None:
    if not isinstance(node.target, OpOverload):
        first = node.args[0] if node.op == "call_function" and node.args else None
        return first if getattr(node.target, "__name__", "") == "getitem" and isinstance(first, Node) else None
    aliased = [argument.name for argument in node.target._schema.arguments if argument.alias_info is not None]
    source = arguments(node).get(aliased[0]) if aliased else None
    if source is None and node.target is torch.ops.aten.type_as.default:
        source = node.args[0]
    return source if isinstance(source, Node) else None


def between(node: Node, starts: Collection[Node]) -> set[Node]:
    """The nodes that compute one from others, with it and them."""
    first = min(starts)
    found, pending = set(starts), [node]
    while pending:
        each = pending.pop()
        if each not in found and first < each:
            found.add(each)
            pending += each.all_input_nodes
    return found


_CHECK = aten._assert_tensor_metadata.default


def remove_unused(graph: Graph) -> None:
    """Removes what nothing uses any more, and what only torch.export's checks of dtypes and devices use."""
    graph.eliminate_dead_code()
    while idle := [check for check in graph.find_nodes(op="call_function", target=_CHECK) if _is_idle(check)]:
        for check in idle:
            graph.erase_node(check)
        graph.eliminate_dead_code()


def _is_idle(check: Node) -> bool:
    """Whether nothing but checks uses the tensor that is checked, and it is no input."""
    checked = check.all_input_nodes[0]
    return checked.op == "call_function" and all(user.target is _CHECK for user in checked.users)
