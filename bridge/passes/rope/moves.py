"""Which element of which tensor stands in each lane of another: what moves data along the last axes, undone.

An operator that moves lanes (a slice, a concatenation, a view, ...) is stepped through; any other ends the way. So
however a model writes a permutation of a head's elements, the same lanes come out of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from bridge.passes.common.nodes import (
    CONVERSIONS,
    CUTS,
    SAME_ORDER,
    arguments,
    changes_dtype,
    first_index,
    is_traced,
    same_extents,
    value,
)
from bridge.passes.rope.lanes import Index, Lane, axis_of, moved_to, ravel, shape, unravel

aten = torch.ops.aten
Given = Mapping[str, Any]  # the arguments of a call, by name


def step(lane: Lane) -> Lane | None:
    """The lane that a lane is a copy of; None where the operator does more, or moves what is before the last axes."""
    node = lane.node
    if node.op != "call_function" or value(node) is None or not is_traced(node):
        return None
    if getattr(node.target, "__name__", "") == "getitem":
        return _of_several(node, lane.at)
    move = _MOVES.get(node.target)
    return None if move is None else move(node, arguments(node), lane.at)


def row_source(lane: Lane) -> Lane | None:
    """The same lane of the tensor whose rows a node gives, some of them, repeated or under new axes; or None."""
    node, count = lane.node, len(lane.at)
    if node.target not in (aten.unsqueeze.default, aten.expand.default, aten.slice.Tensor) or not is_traced(node):
        return None
    given = arguments(node)
    source = given["self"]
    rank = node.meta["val"].dim()
    before, after = shape(source), shape(node)
    kept = len(after) - count
    if len(before) < count or before[len(before) - count :] != after[kept:] or given.get("dim", 0) % rank >= kept:
        return None
    return Lane(source, lane.at)


def cast_from(node: Node) -> Node | None:
    """What a node converts to another dtype, or None."""
    casts = node.target in CONVERSIONS and is_traced(node) and changes_dtype(node)
    return node.args[0] if casts else None  # type: ignore[return-value]


def _numbers(extents: Sequence[Any]) -> bool:
    return all(isinstance(extent, int) for extent in extents)


def _reshape(node: Node, given: Given, index: Index) -> Lane | None:
    """All that keeps the order of elements: views, copies, axes of extent 1."""
    source: Node = node.args[0]  # type: ignore[assignment]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) < kept or not same_extents(before[:kept], after[:kept]):
        return None
    if not _numbers(before[kept:]) or not _numbers(after[kept:]):
        return None
    if math.prod(before[kept:]) != math.prod(after[kept:]):
        return None
    return Lane(source, unravel(ravel(index, after[kept:]), before[kept:]))


def _convert(node: Node, given: Given, index: Index) -> Lane | None:
    return None if changes_dtype(node) else _reshape(node, given, index)


def _slice(node: Node, given: Given, index: Index) -> Lane | None:
    source, stride = given["self"], given["step"]
    axis = axis_of(node, index, given["dim"], node.meta["val"].dim())
    if axis < 0:
        return Lane(source, index) if same_extents(shape(source), shape(node)) else None
    dim = given["dim"] % node.meta["val"].dim()
    start = first_index(given["start"], shape(source)[dim], shape(node)[dim])
    if not _numbers((start, stride)):
        return None
    return Lane(source, moved_to(index, axis, start + stride * index[axis]))


def _narrow(node: Node, given: Given, index: Index) -> Lane | None:
    return _slice(node, {**given, "step": 1}, index)


def _select(node: Node, given: Given, index: Index) -> Lane | None:
    source, place, rank = given["self"], given["index"], node.meta["val"].dim() + 1
    axis = axis_of(node, index, given["dim"], rank)
    extent = shape(source)[given["dim"] % rank]
    if axis < 0 or not _numbers((place, extent)):
        return None
    return Lane(source, (*index[:axis], place % extent, *index[axis:]))


def _expand(node: Node, given: Given, index: Index) -> Lane | None:
    source = given["self"]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) != len(after) or not same_extents(before[:kept], after[:kept]):
        return None
    return Lane(source, tuple(0 if before[kept + axis] == 1 else place for axis, place in enumerate(index)))


def _cat(node: Node, given: Given, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    axis = axis_of(node, index, given["dim"], rank)
    if axis < 0:
        return None
    place = index[axis]
    for tensor in given["tensors"]:
        extent = shape(tensor)[given["dim"] % rank] if tensor.meta["val"].dim() == rank else None
        if not isinstance(extent, int):
            return None
        if place < extent:
            return Lane(tensor, moved_to(index, axis, place))
        place -= extent
    return None


def _stack(node: Node, given: Given, index: Index) -> Lane | None:
    axis = axis_of(node, index, given["dim"], node.meta["val"].dim())
    return None if axis < 0 else Lane(given["tensors"][index[axis]], (*index[:axis], *index[axis + 1 :]))


def _slice_scatter(node: Node, given: Given, index: Index) -> Lane | None:
    """x with a slice of it written over, as x[..., ::2] = y does."""
    rank = node.meta["val"].dim()
    axis, dim, stride = axis_of(node, index, given["dim"], rank), given["dim"] % rank, given["step"]
    source = given["src"]
    start, taken = first_index(given["start"], shape(node)[dim], shape(source)[dim]), shape(source)[dim]
    if axis < 0 or not _numbers((start, taken, stride)) or _dtype(source) != _dtype(node):
        return None
    place, rest = divmod(index[axis] - start, stride)
    if rest or not 0 <= place < taken:
        return _of_same_dtype(node, given["self"], index)
    return Lane(source, moved_to(index, axis, place))


def _select_scatter(node: Node, given: Given, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    axis, place, extent = axis_of(node, index, given["dim"], rank), given["index"], shape(node)[given["dim"] % rank]
    if axis < 0 or not _numbers((place, extent)) or _dtype(given["src"]) != _dtype(node):
        return None
    if index[axis] != place % extent:
        return _of_same_dtype(node, given["self"], index)
    return Lane(given["src"], (*index[:axis], *index[axis + 1 :]))


def _written_over(node: Node, given: Given, index: Index) -> Lane | None:
    """All of a tensor, written over."""
    source = given["src"]
    fits = value(source) is not None and same_extents(shape(source), shape(node))
    return _of_same_dtype(node, source, index) if fits else None


def _of_same_dtype(node: Node, source: Node, index: Index) -> Lane | None:
    return Lane(source, index) if _dtype(source) == _dtype(node) else None


def _dtype(node: Node) -> torch.dtype:
    return node.meta["val"].dtype


def _permute(node: Node, given: Given, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    dims, tail = [dim % rank for dim in given["dims"]], len(shape(node)) - rank
    kept = rank + tail - len(index)
    if dims[:kept] != list(range(kept)):
        return None
    moved = dict(zip(dims[kept:], index, strict=False))
    return Lane(given["self"], (*(moved[dim] for dim in range(kept, rank)), *index[len(index) - tail :][:tail]))


def _transpose(node: Node, given: Given, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    dims = list(range(rank))
    a, b = given["dim0"], given["dim1"]
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(node, {**given, "dims": dims}, index)


def _repeat(node: Node, given: Given, index: Index) -> Lane | None:
    source = given["self"]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) != len(after) or not same_extents(before[:kept], after[:kept]) or not _numbers(before[kept:]):
        return None
    return Lane(source, tuple(place % extent for place, extent in zip(index, before[kept:], strict=True)))


def _repeat_interleave(node: Node, given: Given, index: Index) -> Lane | None:
    axis = -1 if given["dim"] is None else axis_of(node, index, given["dim"], node.meta["val"].dim())
    if axis < 0 or not _numbers([given["repeats"]]):
        return None
    return Lane(given["self"], moved_to(index, axis, index[axis] // given["repeats"]))


def _of_several(node: Node, index: Index) -> Lane | None:
    """A result of an operator that cuts a tensor into several."""
    whole, place = node.args
    if not isinstance(whole, Node) or not isinstance(place, int) or whole.target not in CUTS:
        return None
    given = arguments(whole)
    rank = node.meta["val"].dim()
    if whole.target is aten.unbind.int:
        unbound = {"self": given["self"], "dim": given["dim"] % (rank + 1), "index": place}
        return _select(node, unbound, index)
    axis = axis_of(node, index, given["dim"], rank)
    sizes = [part.shape[given["dim"]] for part in whole.meta["val"][:place]]
    if axis < 0 or not _numbers(sizes):
        return None
    return Lane(given["self"], moved_to(index, axis, sum(sizes) + index[axis]))


_MOVES: dict[Any, Callable[[Node, Given, Index], Lane | None]] = {
    **dict.fromkeys(SAME_ORDER, _reshape),
    **dict.fromkeys(CONVERSIONS, _convert),
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.expand.default: _expand,
    aten.expand_as.default: _expand,
    aten.cat.default: _cat,
    aten.concat.default: _cat,
    aten.stack.default: _stack,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.copy.default: _written_over,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
}
