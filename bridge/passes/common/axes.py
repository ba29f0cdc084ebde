"""Tracks named axes through views, permutations and slices, for any extents.

Each dimension of a tensor is a group of axes of the tensor it comes from. A view of [N, H, D] as [N H, D] has the
dimensions (n, h) and (d). Axes of extent 1 are left out. Selected indices and ranges of an axis are recorded. A
dimension that is expanded gets an axis of its own. So the result does not depend on which views, permutations and
slices a model uses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.nodes import (
    CONVERSIONS,
    CUTS,
    SAME_ORDER,
    arguments,
    aten,
    changes_dtype,
    is_traced,
    same_extents,
    slice_start,
    value,
)


class Axis(NamedTuple):
    """A named axis of the tensor at which tracking starts."""

    name: str
    extent: Any

    @property
    def is_expanded(self) -> bool:
        """Whether all indices along it are one element."""
        return self.name.startswith(_EXPANDED)


_EXPANDED = "*"
Group = tuple[Axis, ...]


@dataclass(frozen=True)
class Axes:
    """The dimensions of a tensor, each a group of axes.

    picked: for each axis that was selected from, its index. ranges: for each axis that was sliced, (start, extent).
    Both count from the first element of the original axis.
    """

    groups: tuple[Group, ...]
    picked: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The axes of each dimension, one letter each: ["nh", "d"]."""
        return ["".join(axis.name for axis in group) for group in self.groups]

    @property
    def in_order(self) -> list[str]:
        """The letters of all axes in order, where the parts of each lie together and in order; else none."""
        names = [axis.name for group in self.groups for axis in group]
        letters = list(dict.fromkeys(name[0] for name in names))
        return letters if names == sorted(names, key=lambda name: (letters.index(name[0]), name)) else []

    @property
    def is_whole(self) -> bool:
        """Whether no axis was selected from or sliced."""
        return not self.picked and not self.ranges

    def describes(self, node: Node) -> bool:
        """Whether a node's extents are those of the groups."""
        return same_extents([extent_of(group) for group in self.groups], node.meta["val"].shape)


def name_axes(names: Sequence[str], extents: Mapping[str, Any]) -> Axes:
    """Axes for dimensions such as ["nh", "d"], one letter per axis. extents: by letter."""
    return Axes(tuple(_group(Axis(letter, extents[letter]) for letter in word) for word in names))


def extent_of(group: Group) -> Any:
    """The extent of a dimension."""
    total: Any = 1
    for axis in group:
        total = total * axis.extent
    return total


def sources(node: Node, expands: bool = False) -> list[Node]:
    """A node and its chain of inputs through operators that only move data.

    expands: also through those that expand dimensions.
    """
    chain = [node]
    while _is_move(chain[-1], expands):
        source = chain[-1].args[0]
        chain.append(source.args[0] if _is_cut(source) else source)  # type: ignore[union-attr, arg-type]
    return chain


def follow(axes: Axes, path: Sequence[Node]) -> Axes | None:
    """The axes after a path of data movements; None where an axis does not stay in one piece."""
    for node in path:
        move = _MOVES.get(node.target, _split_result) if _is_move(node, expands=True) else None
        moved = None if move is None else move(axes, node)
        if moved is None or not moved.describes(node):
            return None
        axes = moved
    return axes


def is_move(node: Node) -> bool:
    """Whether an operator only moves data."""
    return _is_move(node, expands=False)


def regrouped(axes: Axes, node: Node) -> Axes | None:
    """The axes of a view that has a node's shape; None where an axis does not stay in one piece."""
    return _reshape(axes, node)


def _is_move(node: Node, expands: bool) -> bool:
    if node.op != "call_function" or value(node) is None or not is_traced(node):
        return False
    if node.target in CONVERSIONS:
        return not changes_dtype(node)
    if node.target is aten.expand.default:
        return expands
    return node.target in _MOVES or _is_cut(node.args[0] if node.args else None)


def _is_cut(node: Any) -> bool:
    return isinstance(node, Node) and node.target in CUTS


def _group(axes: Any) -> Group:
    return tuple(axis for axis in axes if not (isinstance(axis.extent, int) and axis.extent == 1))


def _equal(a: Any, b: Any) -> bool:
    return statically_known_true(a == b)


def _reshape(axes: Axes, node: Node) -> Axes | None:
    """Regroups the axes; an axis that spans several dimensions is split."""
    left = [axis for group in axes.groups for axis in group]
    targets = list(node.meta["val"].shape)
    groups: list[Group] = []
    while targets:
        target = targets.pop(0)
        if isinstance(target, int) and target == 1:
            groups.append(())
            continue
        taken: Group = ()
        while left and not _equal(extent_of(taken), target):
            parts = _split(left[0], [target, *targets]) if not taken else None
            if parts is not None:
                left[:1] = parts
            taken = (*taken, left.pop(0))
        if not _equal(extent_of(taken), target):
            return None
        groups.append(taken)
    return None if left else replace(axes, groups=tuple(groups))


def _split(axis: Axis, targets: Sequence[Any]) -> list[Axis] | None:
    """An axis split in two, if the first two dimensions span it; else None."""
    if len(targets) < 2 or _equal(axis.extent, targets[0]) or not _equal(axis.extent, targets[0] * targets[1]):
        return None
    return [Axis(f"{axis.name}{index}", extent) for index, extent in enumerate(targets[:2])]


def _permute(axes: Axes, node: Node) -> Axes | None:
    dims = arguments(node)["dims"]
    return replace(axes, groups=tuple(axes.groups[dim] for dim in dims))


def _transpose(axes: Axes, node: Node) -> Axes | None:
    given, groups = arguments(node), list(axes.groups)
    a, b = given["dim0"], given["dim1"]
    groups[a], groups[b] = groups[b], groups[a]
    return replace(axes, groups=tuple(groups))


def _slice(axes: Axes, node: Node) -> Axes | None:
    given = arguments(node)
    before, after = given["self"].meta["val"].shape[given["dim"]], node.meta["val"].shape[given["dim"]]
    if _equal(before, after):
        return axes
    start = slice_start(given["start"], before, after)
    return None if start is None or given["step"] != 1 else _cut(axes, given["dim"], start, after)


def _narrow(axes: Axes, node: Node) -> Axes | None:
    given = arguments(node)
    dim = given["dim"]
    before, after = given["self"].meta["val"].shape[dim], node.meta["val"].shape[dim]
    start = slice_start(given["start"], before, after)
    return None if start is None else axes if _equal(before, after) else _cut(axes, dim, start, after)


def _select(axes: Axes, node: Node) -> Axes | None:
    given = arguments(node)
    dim, index = given["dim"], given["index"]
    if not isinstance(index, int):
        return None
    return _pick(axes, dim, index, given["self"].meta["val"].shape[dim])


def _split_result(axes: Axes, node: Node) -> Axes | None:
    """One result of a split."""
    split, index = node.args
    assert isinstance(split, Node) and isinstance(index, int)
    dim = arguments(split)["dim"]
    if split.target is aten.unbind.int:
        return _pick(axes, dim, index, len(split.meta["val"]))
    sizes = [part.shape[dim] for part in split.meta["val"]]
    return axes if len(sizes) == 1 else _cut(axes, dim, sum(sizes[:index]), sizes[index])


def _pick(axes: Axes, dim: int, index: int, extent: Any) -> Axes | None:
    groups = list(axes.groups)
    group = groups.pop(dim)
    if not group:
        return replace(axes, groups=tuple(groups))
    if len(group) > 1 or not isinstance(extent, int):
        return None
    return _with_picked(axes, groups, group[0].name, index % extent)


def _with_picked(axes: Axes, groups: Sequence[Group], name: str, index: Any) -> Axes:
    """The axes with one index of an axis selected, and these groups."""
    ranges = dict(axes.ranges)
    first, _ = ranges.pop(name, (0, None))
    return Axes(tuple(groups), {**axes.picked, name: first + index}, ranges)


def _cut(axes: Axes, dim: int, start: Any, extent: Any) -> Axes | None:
    """A slice of a dimension: a range of its axis, or, with two axes, one index of the first."""
    groups = list(axes.groups)
    group = groups[dim]
    if len(group) == 1 and isinstance(extent, int) and extent == 1 and isinstance(start, int):
        groups[dim] = ()
        return _with_picked(axes, groups, group[0].name, start)
    if len(group) == 1:
        name = group[0].name
        first, _ = axes.ranges.get(name, (0, None))
        groups[dim] = _group([Axis(name, extent)])
        return replace(axes, groups=tuple(groups), ranges={**axes.ranges, name: (first + start, extent)})
    if len(group) > 1 and _equal(extent_of(group[1:]), extent) and isinstance(extent, int) and isinstance(start, int):
        groups[dim] = group[1:]
        index, remainder = divmod(start, extent)
        return None if remainder else _with_picked(axes, groups, group[0].name, index)
    return None


def _expand(axes: Axes, node: Node) -> Axes | None:
    shape = node.meta["val"].shape
    groups: list[Group] = [()] * (len(shape) - len(axes.groups)) + list(axes.groups)
    for dim, (group, extent) in enumerate(zip(groups, shape, strict=True)):
        if not group:
            groups[dim] = _group([Axis(f"{_EXPANDED}{node.name}.{dim}", extent)])
    return replace(axes, groups=tuple(groups))


_MOVES: dict[Any, Callable[[Axes, Node], Axes | None]] = {
    **dict.fromkeys(SAME_ORDER | CONVERSIONS, _reshape),
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.expand.default: _expand,
}
