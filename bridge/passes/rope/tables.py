"""The tables of a rotary embedding: from the lanes that a model multiplies by to tensors that bridge::rope takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import CONVERSIONS, arguments, same_extents
from bridge.passes.rope.lanes import Lane, flat

aten = torch.ops.aten
LAYOUTS = {"bhsd": (1, 2), "bshd": (2, 1)}  # axis of the heads, of the sequence


class TableError(Exception):
    """Why lanes are no table that bridge::rope takes."""


@dataclass(frozen=True)
class Span:
    """Lanes of a node at equal distances: `width` of them from `start` on, `stride` apart, counted over its last `axes`
    axes. part: 0 for the real, 1 for the imaginary part of a complex node; None of a real one."""

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
    """The lanes as a span; None where they do not stand in this order, at equal distances."""
    node, axes = lanes[0].node, len(lanes[0].at)
    if any(lane.node is not node or len(lane.at) != axes for lane in lanes):
        return None
    places = [flat(lane) for lane in lanes]
    part = None
    if node.meta["val"].is_complex():
        axes, part = axes - 1, places[0] % 2
        if any(place % 2 != part for place in places):
            return None
        places = [place // 2 for place in places]
    stride = places[1] - places[0] if len(places) > 1 else 1
    if stride < 1 or any(place != places[0] + stride * count for count, place in enumerate(places)):
        return None
    return Span(node, axes, places[0], len(places), stride, part)


@dataclass(frozen=True)
class Table:
    """A span with a row for each position. layouts: those of bridge::rope in which it fits; heads: for each the axis
    of its extent of 1 in the place of the heads, None where there is none."""

    span: Span
    heads: tuple[tuple[str, int | None], ...]

    @property
    def layouts(self) -> list[str]:
        """The layouts in which it fits."""
        return [layout for layout, _ in self.heads]


def find_table(span: Span, outer: Sequence[Any], same: Mapping[Node, Node]) -> Table:
    """The table that a span is. outer: of what is rotated, [batch, heads and sequence in either order]. same: for each
    node the first that computes the same.

    TableError: it varies with the head, or lacks rows.
    """
    span = _unexpanded(span, same)
    extents = (*[1] * (3 - len(span.outer)), *span.outer)
    if len(extents) != 3:
        raise TableError(f"a table has the shape {_spell(span.outer)} before its last axis, too many dimensions")
    missing = 3 - len(span.outer)
    fitting = []
    for layout, (head, seq) in LAYOUTS.items():
        batch_fits = _is_one(extents[0]) or same_extents(extents[:1], outer[:1])
        fits = batch_fits and _is_one(extents[head]) and same_extents([extents[seq]], [outer[seq]])
        if fits and seq >= missing:
            fitting.append((layout, head - missing if head >= missing else None))
    if not fitting:
        raise TableError(
            f"a table of {_spell(span.outer)} rows does not fit {_spell(outer)}: it must be the same for all heads, and"
            " have a row for each position"
        )
    return Table(span, tuple(fitting))


def _is_one(extent: Any) -> bool:
    return isinstance(extent, int) and extent == 1


def _spell(extents: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, extents))}]"


def _unexpanded(span: Span, same: Mapping[Node, Node]) -> Span:
    """The same before it was repeated along the axes before its lanes."""
    while span.node.target in (aten.expand.default, aten.expand_as.default):
        source: Node = span.node.args[0]  # type: ignore[assignment]
        before, after = source.meta["val"].shape, span.node.meta["val"].shape
        if len(before) < span.axes or not same_extents(before[-span.axes :], after[-span.axes :]):
            break
        span = replace(span, node=same[source])
    return span


class Placer:
    """Puts spans and tables into a graph as tensors, each once."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._parts: dict[tuple[Node, int], Node] = {}

    def table(self, table: Table, layout: str, dtype: torch.dtype) -> Node:
        """[S, W], or [B or 1, S, W], in `dtype` or float32. TableError: its numbers are wider, or of unknown parts."""
        span, axis = table.span, dict(table.heads)[layout]
        node = span.node
        if node.target is aten.unsqueeze.default and arguments(node)["dim"] % node.meta["val"].dim() == axis:
            span, axis = replace(span, node=node.args[0]), None  # type: ignore[arg-type]
        rows = self.span(span, span.node)
        if axis is not None and (rows.meta["val"].dim() > 3 or axis > 0):
            rows = self._editor.once(aten.squeeze.dim, (rows, axis), rows)
        found = rows.meta["val"].dtype
        if found in (dtype, torch.float32):
            return rows
        if torch.promote_types(found, torch.float32) != torch.float32:
            raise TableError(f"a table is {found}, which float32 does not hold")
        return self._editor.cast(rows, torch.float32)

    def span(self, span: Span, like: Node) -> Node:
        """[..., width], the lanes of a span."""
        node = span.node if span.part is None else self._part(span.node, span.part)
        extents = node.meta["val"].shape
        whole = 1
        for extent in extents[len(extents) - span.axes :]:
            whole *= extent
        if span.axes != 1:
            sizes = self._editor.extents(node, len(extents) - span.axes)
            node = self._editor.once(aten.reshape.default, (node, [*sizes, whole]), like)
        if span.width == whole:
            return node
        last = node.meta["val"].dim() - 1
        end = span.start + span.stride * (span.width - 1) + 1
        return self._editor.once(aten.slice.Tensor, (node, last, span.start, end, span.stride), like)

    def _part(self, node: Node, part: int) -> Node:
        """The real or imaginary part of a complex tensor. TableError: how it is computed is not known."""
        key = (node, part)
        if key not in self._parts:
            self._parts[key] = self._make_part(node, part)
        return self._parts[key]

    def _make_part(self, node: Node, part: int) -> Node:
        if node.op in ("placeholder", "get_attr"):
            pairs = self._editor.once(aten.view_as_real.default, (node,), node)
            return self._editor.once(aten.select.int, (pairs, pairs.meta["val"].dim() - 1, part), node)
        if node.target is aten.view_as_complex.default:
            pairs = node.args[0]  # type: ignore[assignment]
            return self._editor.once(aten.select.int, (pairs, pairs.meta["val"].dim() - 1, part), node)
        if node.target is aten.complex.default:
            return node.args[part]  # type: ignore[return-value]
        if node.target is aten.polar.default:
            radius, angle = node.args
            unit = self._editor.once((aten.cos, aten.sin)[part].default, (angle,), node)
            return unit if _is_ones(radius) else self._editor.once(aten.mul.Tensor, (radius, unit), node)
        first = node.args[0] if node.args else None
        if isinstance(first, Node) and _is_complex(first):
            if node.target in CONVERSIONS and first.meta["val"].dtype == node.meta["val"].dtype:
                return self._part(first, part)
            scales = node.target is aten.mul.Tensor and not _is_complex(node.args[1])
            if scales or node.target in _PART_BY_PART:
                return self._editor.once(node.target, (self._part(first, part), *node.args[1:]), node)  # type: ignore[arg-type]
        raise TableError(f"the parts of the complex numbers that {node.target} gives are not known")


def _is_complex(node: Any) -> bool:
    return isinstance(node, Node) and node.meta["val"].is_complex()


def _is_ones(node: Any) -> bool:
    if node.target in (aten.full.default, aten.full_like.default):
        return bool(node.args[1] == 1)
    return node.target in (aten.ones_like.default, aten.ones.default, aten.new_ones.default)


# What does the same to both parts of complex numbers.
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
