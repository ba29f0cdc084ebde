"""Queries on a graph's nodes: arguments, values, equal computations, in-place writes."""

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten
# Operators that may convert to another dtype, and those that keep the elements and their order.
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
    aten.detach_.default,  # which torch.export leaves after a tensor made of Python numbers; it writes nothing
    aten.lift_fresh_copy.default,
    aten.view_as_real.default,
    aten.view_as_complex.default,
    aten.reshape_as.default,
    aten.view_as.default,
}
# Operators that split a tensor into several.
CUTS = {
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
}
# The meta entries that say where in the model a node comes from.
ORIGIN = ("stack_trace", "nn_module_stack")


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call of an ATen operator by schema name, with defaults."""
    assert isinstance(node.target, OpOverload)
    schema = node.target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | dict(zip([argument.name for argument in schema], node.args, strict=False)) | dict(node.kwargs)


def value(node: Any) -> Tensor | None:
    """The traced tensor of a node; None for a number, several tensors, or a non-node."""
    meta_value = node.meta.get("val") if isinstance(node, Node) else None
    return meta_value if isinstance(meta_value, Tensor) else None


def is_traced(node: Node) -> bool:
    """Whether a node and all its inputs have traced values."""
    return all(each.meta.get("val") is not None for each in (node, *node.all_input_nodes))


def same_extents(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for all values of their symbols."""
    return len(a) == len(b) and all(statically_known_true(x == y) for x, y in zip(a, b, strict=True))


def traced_integer(argument: Any) -> Any:
    """An integer argument of a call, or its traced value where the graph computes it."""
    return argument.meta.get("val") if isinstance(argument, Node) else argument


def extents_text(extents: Sequence[Any]) -> str:
    """Extents or strides for a message, such as "[1, s0, 64]"."""
    return f"[{', '.join(map(str, extents))}]"


def slice_start(start: Any, extent: Any, count: Any) -> Any:
    """The first index of a slice, counted from 0; None where it is not known for every extent.

    start: the call's argument: None, negative, or beyond the end. count: the number of elements in the slice.
    """
    start = 0 if start is None else traced_integer(start)
    if start is None:  # computed by the graph without a traced value
        return None
    if isinstance(start, int) and isinstance(extent, int):
        return min(max(start + extent if start < 0 else start, 0), extent)
    if statically_known_true(start >= 0):
        return start if (isinstance(start, int) and start == 0) or statically_known_true(count >= 1) else None
    return extent + start if statically_known_true(count == -start) else None


def changes_dtype(node: Node) -> bool:
    """Whether a node's dtype is not that of its first argument."""
    return node.args[0].meta["val"].dtype != node.meta["val"].dtype  # type: ignore[union-attr]


def is_copy(node: Node) -> bool:
    """Whether a node returns its first argument unchanged."""
    if node.target not in CONVERSIONS | SAME_ORDER:
        return False
    source, result = value(node.args[0]), value(node)
    if source is None or result is None or source.dtype != result.dtype:
        return False
    return same_extents(source.shape, result.shape)


def before_copies(node: Any) -> Any:
    """What a node is a copy of, however often; itself where it is none."""
    while isinstance(node, Node) and is_copy(node):
        node = node.args[0]
    return node


def transpose_of(node: Any, first: int, second: int) -> Node | None:
    """What a node is the transpose of, along these two of its dimensions, which may be negative; else None."""
    tensor = value(node)
    if tensor is None or tensor.dim() < 2 or node.target not in (aten.transpose.int, aten.permute.default):
        return None
    given, rank = arguments(node), tensor.dim()
    pair = {first % rank, second % rank}
    if node.target is aten.permute.default:
        order = [dim % rank for dim in given["dims"]]
        swapped = {place for place, dim in enumerate(order) if place != dim} == pair
    else:
        swapped = {given["dim0"] % rank, given["dim1"] % rank} == pair
    return given["self"] if swapped else None


def canonical_nodes(graph: Graph) -> dict[Node, Node]:
    """Maps each node to the first that computes the same value: equal operators on equal arguments, not random."""
    first: dict[Hashable, Node] = {}
    firsts: dict[Node, Node] = {}
    for node in graph.nodes:
        key = _key(node, firsts)
        if is_copy(node):
            firsts[node] = firsts[node.args[0]]
        else:
            firsts[node] = node if key is None else first.setdefault(key, node)
    return firsts


def _key(node: Node, firsts: dict[Node, Node]) -> Hashable | None:
    if node.op == "get_attr":
        return ("get_attr", node.target)
    if node.op != "call_function" or _is_impure(node.target):
        return None
    key = (node.target, _freeze(node.args, firsts), _freeze(node.kwargs, firsts))
    try:
        hash(key)
    except TypeError:  # a symbolic number among the arguments
        return None
    return key


def _is_impure(target: Any) -> bool:
    """Whether an operator writes to its arguments, or is random."""
    if not isinstance(target, OpOverload):
        return getattr(target, "__module__", "") not in ("_operator", "math")
    return target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags


def _freeze(argument: Any, firsts: dict[Node, Node]) -> Hashable:
    if isinstance(argument, Node):
        return firsts[argument]
    if isinstance(argument, (tuple, list)):
        return tuple(_freeze(item, firsts) for item in argument)
    if isinstance(argument, dict):
        return tuple((name, _freeze(item, firsts)) for name, item in argument.items())
    return (type(argument), argument)


def mutated_nodes(graph: Graph) -> set[Node]:
    """The nodes whose memory an in-place operator writes to: their values change during a call."""
    owners = {node: _storage_owner(node) for node in graph.nodes}
    mutated_owners = {owners[target] for node in graph.nodes for target in mutated_arguments(node)}
    return {node for node, owner in owners.items() if owner in mutated_owners}


def mutated_arguments(node: Node) -> list[Node]:
    """The arguments that a node writes to."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable or is_copy(node):
        return []
    given = arguments(node)
    names = [argument.name for argument in node.target._schema.arguments if argument.is_write]
    return [given[name] for name in names if isinstance(given.get(name), Node)]


def _storage_owner(node: Node) -> Node:
    """The node that owns the memory of a view. An operator that may copy counts as a view."""
    while True:
        source = _view_base(node)
        if source is None:
            return node
        node = source


def _view_base(node: Node) -> Node | None:
    if not isinstance(node.target, OpOverload):
        first = node.args[0] if node.op == "call_function" and node.args else None
        return first if getattr(node.target, "__name__", "") == "getitem" and isinstance(first, Node) else None
    aliased = [argument.name for argument in node.target._schema.arguments if argument.alias_info is not None]
    source = arguments(node).get(aliased[0]) if aliased else None
    if source is None and node.target is torch.ops.aten.type_as.default:
        source = node.args[0]
    return source if isinstance(source, Node) else None


def nodes_between(node: Node, starts: Collection[Node]) -> set[Node]:
    """The nodes on the paths from `starts` to a node, both included."""
    first = min(starts)
    reached, pending = set(starts), [node]
    while pending:
        each = pending.pop()
        if each not in reached and first < each:
            reached.add(each)
            pending += each.all_input_nodes
    return reached


_METADATA_ASSERT = aten._assert_tensor_metadata.default


def users_of(node: Node) -> list[Node]:
    """Who takes a node's value, but for torch.export's assertions on dtypes and devices."""
    return [user for user in node.users if user.target is not _METADATA_ASSERT]


_NESTING = ("_vmap_increment_nesting", "_vmap_decrement_nesting")


def vmap_step(node: Node) -> str:
    """The name of a step of torch.vmap, which a graph before dispatch holds; "" for other nodes."""
    module, name = (getattr(node.target, key, "") for key in ("__module__", "__name__"))
    return name if module == "torch._functorch.predispatch" else ""


def erase_unused(nodes: Iterable[Node]) -> None:
    """Erases those without users: for torch, what draws random numbers in training is never dead code."""
    for node in sorted(nodes, reverse=True):
        if not node.users:
            node.graph.erase_node(node)


def remove_unused(graph: Graph) -> None:
    """Removes dead nodes, and those that only torch.export's assertions on dtypes and devices use."""
    _remove_dead(graph)
    while unused := list(filter(_is_unused, graph.find_nodes(op="call_function", target=_METADATA_ASSERT))):
        for assertion in unused:
            graph.erase_node(assertion)
        _remove_dead(graph)


def _remove_dead(graph: Graph) -> None:
    """As eliminate_dead_code, which takes the begins and ends of a vmap for dead."""
    graph.eliminate_dead_code(lambda node: node.is_impure() or vmap_step(node) in _NESTING)
    if not any(vmap_step(node) and node.users for node in graph.nodes):
        graph.eliminate_dead_code()


def _is_unused(assertion: Node) -> bool:
    """Whether only assertions use the asserted tensor, and it is no input."""
    tensor = assertion.all_input_nodes[0]
    return tensor.op == "call_function" and all(user.target is _METADATA_ASSERT for user in tensor.users)
