"""Formulas of tensors whose elements come from other places of one tensor, or are converted."""

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch.fx import Node

from bridge.passes.common.nodes import same_extents, slice_start, value
from bridge.passes.window_attention.formulas import (
    EXACT,
    Formula,
    Unread,
    axis,
    expression,
    formula,
    is_one,
    plain,
    vmap_index,
    where,
)
from bridge.passes.window_attention.reader import Reader


def same_order(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """A view that adds or drops extents of 1, and merges dimensions of which all but the first have known extents."""
    source, shape = reader.formula(node.args[0]), node.meta["val"].shape
    if source.dtype != node.meta["val"].dtype:
        raise Unread("a view in another dtype")
    before, after = (
        [dim for dim, extent in enumerate(extents) if not is_one(extent)] for extents in (source.shape, shape)
    )
    sources: dict[int, Any] = dict.fromkeys(range(len(source.shape)), sympy.Integer(0))
    for to in after:
        merged = _merged(source.shape, before, shape[to])
        sources |= _places(axis(to), [(dim, source.shape[dim]) for dim in merged])
        before = before[len(merged) :]
    if before:
        raise Unread("a view splits dimensions")
    return source.moved(shape, sources)


def _merged(extents: Sequence[Any], dims: Sequence[int], extent: Any) -> Sequence[int]:
    """The first of the dimensions, as many as give one of an extent."""
    for count in range(1, len(dims) + 1):
        product = extents[dims[0]]
        for dim in dims[1:count]:
            product = product * extents[dim]
        if same_extents([product], [extent]):
            return dims[:count]
    raise Unread("a view splits dimensions")


def _places(place: Any, dims: Sequence[tuple[int, Any]]) -> dict[int, Any]:
    """The indices of merged dimensions for an index of what they are merged to."""
    found, step = {}, 1
    for dim, extent in reversed(dims[1:]):
        if not isinstance(extent, int):
            raise Unread("a view merges dimensions of unknown extents")
        found[dim] = _quotient(place, step) - extent * _quotient(place, step * extent)
        step *= extent
    return found | {dims[0][0]: _quotient(place, step)}


def _quotient(place: Any, size: int) -> Any:
    return place if size == 1 else sympy.floor(place / size)


def repeated(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """Each element along a dimension several times."""
    repeats, dim = given.get("repeats"), given.get("dim")
    if not isinstance(repeats, int) or not isinstance(dim, int) or repeats < 1:
        raise Unread("elements repeated a number of times that is not known")
    source = reader.formula(given["self"])
    dim %= len(source.shape)
    return source.moved(node.meta["val"].shape, {dim: _quotient(axis(dim), repeats)})


def looked_up(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """An element of a tensor, as torch traces `table[b, h, q // 64, k // 64]` within mask_mod."""
    name, (table, *indices) = node.args[2], node.args[3:]
    if name != "torch._dynamo._trace_wrapped_higher_order_op.ModIndex" or value(table) is None:
        raise Unread(f"{node.target} has no rule for {name}")
    source, shape = reader.formula(table), node.meta["val"].shape
    numbers = all(isinstance(each, (Node, int)) and not isinstance(each, bool) for each in indices)
    if len(indices) != len(source.shape) or not numbers:
        raise Unread("some dimensions of a table are not looked up")
    places = [reader.operand(each, shape).integer for each in indices]
    return source.moved(shape, {dim: _from_start(each, source.shape[dim]) for dim, each in enumerate(places)})


def conversion(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """To another dtype."""
    return converted(reader.formula(node.args[0]), node.meta["val"].dtype)


def converted(source: Formula, dtype: torch.dtype) -> Formula:
    """The formula in another dtype. Unread: an integer expression would become real, or lose bits."""
    if source.dtype == dtype:
        return source
    if dtype == torch.bool:
        return formula(source.shape, dtype, [(source.condition, True), (sympy.Not(source.condition), False)])
    return formula(
        source.shape, dtype, [(condition, _converted(each, source.dtype, dtype)) for condition, each in source.cases]
    )


def _converted(each: Any, before: torch.dtype, dtype: torch.dtype) -> Any:
    if isinstance(each, (bool, float)) or each.is_Integer:
        number = int(each) if isinstance(each, sympy.Basic) else each
        return plain(torch.tensor(number, dtype=before).to(dtype))
    if dtype not in EXACT:
        raise Unread(f"positions as {dtype}")
    return each


def permute(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """Dimensions in another order."""
    source = reader.formula(given["self"])
    order = [dim % len(source.shape) for dim in given["dims"]]
    return source.moved(node.meta["val"].shape, {dim: axis(to) for to, dim in enumerate(order)})


def transpose(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """Two dimensions exchanged."""
    source = reader.formula(given["self"])
    a, b = (given[name] % len(source.shape) for name in ("dim0", "dim1"))
    return source.moved(node.meta["val"].shape, {a: axis(b), b: axis(a)})


def cut(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """Adjacent elements along a dimension."""
    source, shape = reader.formula(given["self"]), node.meta["val"].shape
    dim = given["dim"] % len(shape)
    start = slice_start(given["start"], source.shape[dim], shape[dim])
    if start is None or given["step"] != 1:
        raise Unread("a slice with steps, or with a start that is not known")
    return source.moved(shape, {dim: axis(dim) + expression(start)})


def select(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """One element along a dimension."""
    source = reader.formula(given["self"])
    dim = given["dim"] % len(source.shape)
    index = _from_start(reader.integer(given["index"]), source.shape[dim])
    later = {each: axis(each - 1) for each in range(dim + 1, len(source.shape))}
    return source.moved(node.meta["val"].shape, later | {dim: index})


def index(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """By tensors of integers for adjacent dimensions, whole slices for the others."""
    source, shape = reader.formula(given["self"]), node.meta["val"].shape
    indices = [*given["indices"], *[None] * (len(source.shape) - len(given["indices"]))]
    used = [dim for dim, each in enumerate(indices) if each is not None]
    if not used or used[-1] - used[0] + 1 != len(used):
        raise Unread("indices of dimensions that are not adjacent")
    rank = len(shape) - len(source.shape) + len(used)  # of the indices, broadcast together
    first = used[0]
    sources = {}
    for dim in range(len(source.shape)):
        if dim < first:
            sources[dim] = axis(dim)
        elif dim > used[-1]:
            sources[dim] = axis(dim - len(used) + rank)
        else:
            place = reader.operand(indices[dim], shape[first : first + rank])
            moved = place.moved(shape, {each: axis(each + first) for each in range(rank)})
            sources[dim] = _from_start(moved.integer, source.shape[dim])
    return source.moved(shape, sources)


def enter_vmap(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """One element along a dimension, that at the index of a vmap's level."""
    args: Any = node.args
    tensor, dim, level = args
    source = reader.formula(tensor)
    later = {each: axis(each - 1) for each in range(dim + 1, len(source.shape))}
    return source.moved(node.meta["val"].shape, later | {dim: vmap_index(level)})


def leave_vmap(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """All elements of a vmap's level, along a new dimension."""
    args: Any = node.args
    tensor, level, _, dim = args
    source = reader.formula(tensor)
    later = {each: axis(each + 1) for each in range(dim, len(source.shape))}
    return source.moved(node.meta["val"].shape, later, {vmap_index(level): axis(dim)})


def joined(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """One element before others along a dimension."""
    shape, parts = node.meta["val"].shape, given["tensors"]
    dim = given["dim"] % len(shape)
    if len(parts) != 2 or not is_one(parts[0].meta["val"].shape[dim]):
        raise Unread("tensors are joined otherwise than one element with others")
    first, rest = (reader.formula(part) for part in parts)
    if first.dtype != rest.dtype:
        raise Unread("tensors of several dtypes are joined")
    is_first = sympy.Eq(axis(dim), 0)
    return where(shape, is_first, first.moved(shape, {dim: 0}), rest.moved(shape, {dim: axis(dim) - 1}))


def _from_start(place: Any, extent: Any) -> Any:
    """An index counted from 0. Unread: its sign is not known."""
    if place.is_nonnegative:
        return place
    if place.is_negative:
        return place + expression(extent)
    raise Unread(f"the index {place} may be negative")
