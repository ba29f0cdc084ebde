"""The tables of a rotary embedding: from lanes of the model's cosines and sines to tensors for bridge::rope."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import CONVERSIONS, arguments, extents_text, same_extents
from bridge.passes.rope.lanes import Lane, flat_index

aten = torch.ops.aten
SEQUENCE_FIRST = "sbhd"  # no layout of the op, which is called on a transpose then
LAYOUTS = {"bhsd": (1, 2), "bshd": (2, 1), SEQUENCE_FIRST: (2, 0)}  # axes of heads and sequence


class TableError(Exception):
    """Why lanes do not form a table for bridge::rope."""


@dataclass(frozen=True)
class Span:
    """Equally spaced lanes of a node: `width` lanes from `start`, `stride` apart, along its last `axes` axes.

    part: of a complex node, 0 for the real part, 1 for the imaginary part; None for a real node.
    """

    node: Node
    axes: int
    start: int
    width: int
    stride: int = 1
    part: int | None = None

    @property
    def outer(self) -> tuple[Any, ...]:
        """The extents before those axes."""
        extents = self.node.meta["val"].shape
        return tuple(extents[: len(extents) - self.axes])


def span_of(lanes: Sequence[Lane]) -> Span | None:
    """The lanes as a span; None where they are not equally spaced, in this order."""
    node, axes = lanes[0].node, len(lanes[0].at)
    if any(lane.node is not node or len(lane.at) != axes for lane in lanes):
        return None
    indices = [flat_index(lane) for lane in lanes]
    part = None
    if node.meta["val"].is_complex():
        axes, part = axes - 1, indices[0] % 2
        if any(index % 2 != part for index in indices):
            return None
        indices = [index // 2 for index in indices]
    stride = indices[1] - indices[0] if len(indices) > 1 else 1
    if stride < 1 or any(index != indices[0] + stride * count for count, index in enumerate(indices)):
        return None
    return Span(node, axes, indices[0], len(indices), stride, part)


@dataclass(frozen=True)
class Table:
    """A span with a row for each position.

    heads: for each layout of bridge::rope that fits, the table's axis of extent 1 for the heads; None without one.
    """

    span: Span
    heads: tuple[tuple[str, int | None], ...]

    @property
    def layouts(self) -> list[str]:
        """The layouts that fit."""
        return [layout for layout, _ in self.heads]


def find_table(span: Span, outer: Sequence[Any], canonical: Mapping[Node, Node]) -> Table:
    """The table of a span.

    outer: extents of the rotated tensor: of batch, heads and sequence, in the order of a layout. canonical: see
    nodes.canonical_nodes. TableError: it varies with the head, or lacks rows.
    """
    span = _unexpanded(span, canonical)
    extents = (*[1] * (3 - len(span.outer)), *span.outer)
    if len(extents) != 3:
        raise TableError(f"a table has the shape {extents_text(span.outer)} before its last axis, too many dimensions")
    missing = 3 - len(span.outer)
    fitting = []
    for layout, (head, seq) in LAYOUTS.items():
        batch = 3 - head - seq
        # With a table of its own for each sequence, a sequence is to the op a position, and the other way round.
        batch_fits = _is_one(extents[batch]) or (batch == 0 and same_extents(extents[:1], outer[:1]))
        fits = batch_fits and _is_one(extents[head]) and same_extents([extents[seq]], [outer[seq]])
        if fits and seq >= missing:
            fitting.append((layout, head - missing if head >= missing else None))
    if not fitting:
        raise TableError(
            f"a table of {extents_text(span.outer)} rows does not fit {extents_text(outer)}: it must be the same"
            " for all heads, and have a row for each position"
        )
    return Table(span, tuple(fitting))


def _is_one(extent: Any) -> bool:
    return isinstance(extent, int) and extent == 1


def _unexpanded(span: Span, canonical: Mapping[Node, Node]) -> Span:
    """The span before expansion along the axes before its lanes."""
    while span.node.target in (aten.expand.default, aten.expand_as.default):
        source: Node = span.node.args[0]  # type: ignore[assignment]
        before, after = source.meta["val"].shape, span.node.meta["val"].shape
        if len(before) < span.axes or not same_extents(before[-span.axes :], after[-span.axes :]):
            break
        span = replace(span, node=canonical[source])
    return span


class TableBuilder:
    """Inserts spans and tables into a graph as tensors, each once."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._parts: dict[tuple[Node, int], Node] = {}

    def table(self, table: Table, layout: str, dtype: torch.dtype) -> Node:
        """[S, W], or [B or 1, S, W], in `dtype` or float32. TableError: a wider dtype, or unknown complex parts."""
        span, axis = table.span, dict(table.heads)[layout]
        node = span.node
        if node.target is aten.unsqueeze.default and arguments(node)["dim"] % node.meta["val"].dim() == axis:
            span, axis = replace(span, node=node.args[0]), None  # type: ignore[arg-type]
        rows = self.span(span, span.node)
        if axis is not None and (rows.meta["val"].dim() > 3 or axis > 0):
            rows = self._editor.call_once(aten.squeeze.dim, (rows, axis), rows)
        if layout == SEQUENCE_FIRST:
            rows = self._editor.call_once(aten.squeeze.dim, (rows, 1), rows)
        table_dtype = rows.meta["val"].dtype
        if table_dtype in (dtype, torch.float32):
            return rows
        if torch.promote_types(table_dtype, torch.float32) != torch.float32:
            raise TableError(f"a table is {table_dtype}, which float32 does not hold")
        return self._editor.cast(rows, torch.float32)

    def span(self, span: Span, like: Node) -> Node:
        """The lanes of a span, [..., width]."""
        node = span.node if span.part is None else self._part(span.node, span.part)
        extents = node.meta["val"].shape
        lane_count = 1
        for extent in extents[len(extents) - span.axes :]:
            lane_count *= extent
        if span.axes != 1:
            sizes = self._editor.extents(node, len(extents) - span.axes)
            node = self._editor.call_once(aten.reshape.default, (node, [*sizes, lane_count]), like)
        if span.width == lane_count:
            return node
        last_dim = node.meta["val"].dim() - 1
        end = span.start + span.stride * (span.width - 1) + 1
        return self._editor.call_once(aten.slice.Tensor, (node, last_dim, span.start, end, span.stride), like)

    def _part(self, node: Node, part: int) -> Node:
        """The real or imaginary part of a complex tensor. TableError: the operator is not supported."""
        key = (node, part)
        if key not in self._parts:
            self._parts[key] = self._make_part(node, part)
        return self._parts[key]

    def _make_part(self, node: Node, part: int) -> Node:
        if node.op in ("placeholder", "get_attr"):
            pairs = self._editor.call_once(aten.view_as_real.default, (node,), node)
            return self._editor.call_once(aten.select.int, (pairs, pairs.meta["val"].dim() - 1, part), node)
        if node.target is aten.view_as_complex.default:
            pairs = node.args[0]  # type: ignore[assignment]
            return self._editor.call_once(aten.select.int, (pairs, pairs.meta["val"].dim() - 1, part), node)
        if node.target is aten.complex.default:
            return node.args[part]  # type: ignore[return-value]
        if node.target is aten.polar.default:
            radius, angle = node.args
            unit = self._editor.call_once((aten.cos, aten.sin)[part].default, (angle,), node)
            return unit if _is_ones(radius) else self._editor.call_once(aten.mul.Tensor, (radius, unit), node)
        first = node.args[0] if node.args else None
        if isinstance(first, Node) and _is_complex(first):
            if node.target in CONVERSIONS and first.meta["val"].dtype == node.meta["val"].dtype:
                return self._part(first, part)
            scales = node.target is aten.mul.Tensor and not _is_complex(node.args[1])
            if scales or node.target in _PART_BY_PART:
                return self._editor.call_once(node.target, (self._part(first, part), *node.args[1:]), node)  # type: ignore[arg-type]
        raise TableError(f"the parts of the complex numbers that {node.target} gives are not known")


def _is_complex(node: Any) -> bool:
    return isinstance(node, Node) and node.meta["val"].is_complex()


def _is_ones(node: Any) -> bool:
    if node.target in (aten.full.default, aten.full_like.default):
        return bool(node.args[1] == 1)
    return node.target in (aten.ones_like.default, aten.ones.default, aten.new_ones.default)


# Operators that act on real and imaginary parts alike.
_PART_BY_PART = {
    aten.slice.Tensor,
    aten.select.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.view.default,
    aten.reshape.default,
    aten.expand.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.permute.default,
    aten.transpose.int,
}
