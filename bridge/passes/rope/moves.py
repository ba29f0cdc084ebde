"""Traces lanes back through operators that move data along the last axes.

Such operators are slices, concatenations, views and the like; any other ends the trace. So every formulation of a
permutation of a head's elements leads to the same lanes.
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
    is_traced,
    same_extents,
    slice_start,
    value,
)
from bridge.passes.rope.lanes import Index, Lane, axis_of, ravel, shape, unravel, with_coordinate

aten = torch.ops.aten
Arguments = Mapping[str, Any]  # the arguments of a call, by name


def step(lane: Lane) -> Lane | None:
    """The lane that a lane is copied from; None where the operator computes, or moves data along earlier axes."""
    node = lane.node
    if node.op != "call_function" or value(node) is None or not is_traced(node):
        return None
    if getattr(node.target, "__name__", "") == "getitem":
        return _split_result(node, lane.at)
    move = _MOVES.get(node.target)
    return None if move is None else move(node, arguments(node), lane.at)


def row_source(lane: Lane) -> Lane | None:
    """The same lane before rows were sliced, repeated or given new axes; None for other operators."""
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
    """The input of a node that converts to another dtype; None for other nodes."""
    casts = node.target in CONVERSIONS and is_traced(node) and changes_dtype(node)
    return node.args[0] if casts else None  # type: ignore[return-value]


def _are_integers(extents: Sequence[Any]) -> bool:
    return all(isinstance(extent, int) for extent in extents)


def _reshape(node: Node, given: Arguments, index: Index) -> Lane | None:
    """Operators that keep the order of elements: views, copies, axes of extent 1."""
    source: Node = node.args[0]  # type: ignore[assignment]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) < kept or not same_extents(before[:kept], after[:kept]):
        return None
    if not _are_integers(before[kept:]) or not _are_integers(after[kept:]):
        return None
    if math.prod(before[kept:]) != math.prod(after[kept:]):
        return None
    return Lane(source, unravel(ravel(index, after[kept:]), before[kept:]))


def _convert(node: Node, given: Arguments, index: Index) -> Lane | None:
    return None if changes_dtype(node) else _reshape(node, given, index)


def _slice(node: Node, given: Arguments, index: Index) -> Lane | None:
    source, stride = given["self"], given["step"]
    axis = axis_of(node, index, given["dim"], node.meta["val"].dim())
    if axis < 0:
        return Lane(source, index) if same_extents(shape(source), shape(node)) else None
    dim = given["dim"] % node.meta["val"].dim()
    start = slice_start(given["start"], shape(source)[dim], shape(node)[dim])
    if not _are_integers((start, stride)):
        return None
    return Lane(source, with_coordinate(index, axis, start + stride * index[axis]))


def _narrow(node: Node, given: Arguments, index: Index) -> Lane | None:
    return _slice(node, {**given, "step": 1}, index)


def _select(node: Node, given: Arguments, index: Index) -> Lane | None:
    source, position, rank = given["self"], given["index"], node.meta["val"].dim() + 1
    axis = axis_of(node, index, given["dim"], rank)
    extent = shape(source)[given["dim"] % rank]
    if axis < 0 or not _are_integers((position, extent)):
        return None
    return Lane(source, (*index[:axis], position % extent, *index[axis:]))


def _expand(node: Node, given: Arguments, index: Index) -> Lane | None:
    source = given["self"]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) != len(after) or not same_extents(before[:kept], after[:kept]):
        return None
    return Lane(source, tuple(0 if before[kept + axis] == 1 else position for axis, position in enumerate(index)))


def _cat(node: Node, given: Arguments, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    axis = axis_of(node, index, given["dim"], rank)
    if axis < 0:
        return None
    position = index[axis]
    for tensor in given["tensors"]:
        extent = shape(tensor)[given["dim"] % rank] if tensor.meta["val"].dim() == rank else None
        if not isinstance(extent, int):
            return None
        if position < extent:
            return Lane(tensor, with_coordinate(index, axis, position))
        position -= extent
    return None


def _stack(node: Node, given: Arguments, index: Index) -> Lane | None:
    axis = axis_of(node, index, given["dim"], node.meta["val"].dim())
    return None if axis < 0 else Lane(given["tensors"][index[axis]], (*index[:axis], *index[axis + 1 :]))


def _slice_scatter(node: Node, given: Arguments, index: Index) -> Lane | None:
    """x with one slice replaced, as by x[..., ::2] = y."""
    rank = node.meta["val"].dim()
    axis, dim, stride = axis_of(node, index, given["dim"], rank), given["dim"] % rank, given["step"]
    source = given["src"]
    start, count = slice_start(given["start"], shape(node)[dim], shape(source)[dim]), shape(source)[dim]
    if axis < 0 or not _are_integers((start, count, stride)) or _dtype(source) != _dtype(node):
        return None
    position, remainder = divmod(index[axis] - start, stride)
    if remainder or not 0 <= position < count:
        return _lane_if_same_dtype(node, given["self"], index)
    return Lane(source, with_coordinate(index, axis, position))


def _select_scatter(node: Node, given: Arguments, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    axis, position, extent = axis_of(node, index, given["dim"], rank), given["index"], shape(node)[given["dim"] % rank]
    if axis < 0 or not _are_integers((position, extent)) or _dtype(given["src"]) != _dtype(node):
        return None
    if index[axis] != position % extent:
        return _lane_if_same_dtype(node, given["self"], index)
    return Lane(given["src"], (*index[:axis], *index[axis + 1 :]))


def _copy(node: Node, given: Arguments, index: Index) -> Lane | None:
    """x with all elements replaced, as by x.copy_(y)."""
    source = given["src"]
    fits = value(source) is not None and same_extents(shape(source), shape(node))
    return _lane_if_same_dtype(node, source, index) if fits else None


def _lane_if_same_dtype(node: Node, source: Node, index: Index) -> Lane | None:
    return Lane(source, index) if _dtype(source) == _dtype(node) else None


def _dtype(node: Node) -> torch.dtype:
    return node.meta["val"].dtype


def _permute(node: Node, given: Arguments, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    dims, tail = [dim % rank for dim in given["dims"]], len(shape(node)) - rank
    kept = rank + tail - len(index)
    if dims[:kept] != list(range(kept)):
        return None
    moved = dict(zip(dims[kept:], index, strict=False))
    return Lane(given["self"], (*(moved[dim] for dim in range(kept, rank)), *index[len(index) - tail :][:tail]))


def _transpose(node: Node, given: Arguments, index: Index) -> Lane | None:
    rank = node.meta["val"].dim()
    dims = list(range(rank))
    a, b = given["dim0"], given["dim1"]
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(node, {**given, "dims": dims}, index)


def _repeat(node: Node, given: Arguments, index: Index) -> Lane | None:
    source = given["self"]
    before, after = shape(source), shape(node)
    kept = len(after) - len(index)
    if len(before) != len(after) or not same_extents(before[:kept], after[:kept]) or not _are_integers(before[kept:]):
        return None
    return Lane(source, tuple(position % extent for position, extent in zip(index, before[kept:], strict=True)))


def _repeat_interleave(node: Node, given: Arguments, index: Index) -> Lane | None:
    axis = -1 if given["dim"] is None else axis_of(node, index, given["dim"], node.meta["val"].dim())
    if axis < 0 or not _are_integers([given["repeats"]]):
        return None
    return Lane(given["self"], with_coordinate(index, axis, index[axis] // given["repeats"]))


def _split_result(node: Node, index: Index) -> Lane | None:
    """One result of a split."""
    split, position = node.args
    if not isinstance(split, Node) or not isinstance(position, int) or split.target not in CUTS:
        return None
    given = arguments(split)
    rank = node.meta["val"].dim()
    if split.target is aten.unbind.int:
        unbound = {"self": given["self"], "dim": given["dim"] % (rank + 1), "index": position}
        return _select(node, unbound, index)
    axis = axis_of(node, index, given["dim"], rank)
    sizes = [part.shape[given["dim"]] for part in split.meta["val"][:position]]
    if axis < 0 or not _are_integers(sizes):
        return None
    return Lane(given["self"], with_coordinate(index, axis, sum(sizes) + index[axis]))


_MOVES: dict[Any, Callable[[Node, Arguments, Index], Lane | None]] = {
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
    aten.copy.default: _copy,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
}
