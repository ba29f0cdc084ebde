"""Windows of a map: how a tensor [windows..., tokens..., C] was cut from [N, H, W, C], and how one is put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.axes import Axes, Axis, Group, extent_of, follow, is_move, name_axes, regrouped, sources
from bridge.passes.common.nodes import arguments, aten, users_of
from bridge.passes.swin_attention.products import is_idle_dropout

_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_LINEAR = aten.linear.default


@dataclass(frozen=True)
class Partition:
    """map: [N, H, W, C]. window, shift: along H and W. grid: as bridge.swin_attention's. axes: of windows, tokens and
    channels, three dimensions of names that begin with n, y, x and c."""

    map: Node
    window: tuple[int, int]
    shift: tuple[int, int]
    grid: bool
    axes: Axes

    @property
    def moves(self) -> bool:
        """Whether tokens lie in another order in the windows than in the map."""
        names = [axis.name for group in self.axes.groups[:2] for axis in group]
        return any(self.shift) or names != sorted(names, key=lambda name: ("nyx".index(name[0]), name))


def find_partition(windows: Node, lead: int) -> Partition | None:
    """How a tensor was cut from a map. lead: its dimensions before tokens. None where it was not."""
    chain = _without_padding(sources(windows))
    rolled, shift = chain[-1], (0, 0)
    if rolled.target is aten.roll.default:
        found = _shift(rolled)
        if found is None or any(each < 0 for each in found):
            return None
        shift = found
    for index, base in reversed(list(enumerate(chain))[1:]):
        if base.meta["val"].dim() != 4 or (any(shift) and base is not rolled):
            continue
        axes = name_axes("nyxc", dict(zip("nyxc", base.meta["val"].shape, strict=True)))
        moved = follow(axes, [node for node in chain[:index][::-1] if not _is_no_padding(node)])
        cut = None if moved is None else _cut(moved, lead)
        if cut is not None:
            source: Any = base.args[0] if any(shift) else base
            window, grid, pieces = cut
            return Partition(source, window, shift, grid, pieces) if _fits(window, shift) else None
    return None


def _fits(window: tuple[int, int], shift: tuple[int, int]) -> bool:
    return all(0 <= each < extent for each, extent in zip(shift, window, strict=True))


def _without_padding(chain: list[Node]) -> list[Node]:
    """The chain, and on through a padding of nothing."""
    while _is_no_padding(chain[-1]):
        chain = [*chain, *sources(chain[-1].args[0])]  # type: ignore[arg-type]
    return chain


def _is_no_padding(node: Node) -> bool:
    return node.target in _PADS and all(isinstance(each, int) and each == 0 for each in node.args[1])  # type: ignore[union-attr]


def _shift(roll: Node) -> tuple[int, int] | None:
    """How far a roll of a map moves rows and columns up and left; None for another roll."""
    given, rank = arguments(roll), roll.meta["val"].dim()
    if rank != 4 or not all(isinstance(each, int) for each in (*given["shifts"], *given["dims"])):
        return None
    by_dim = {dim % rank: -shift for dim, shift in zip(given["dims"], given["shifts"], strict=True)}
    if len(by_dim) != len(given["dims"]) or by_dim.keys() - {1, 2}:
        return None
    return by_dim.get(1, 0), by_dim.get(2, 0)


def _cut(moved: Axes, lead: int) -> tuple[tuple[int, int], bool, Axes] | None:
    """Window, grid, and the axes of windows, tokens and channels, of what was cut from [n, y, x, c]."""
    windows, tokens = (_flat(groups) for groups in (moved.groups[:lead], moved.groups[lead:-1]))
    if not moved.is_whole or [axis.name for axis in moved.groups[-1]] != ["c"] or not tokens:
        return None
    sides = [_window_axis(windows, tokens, letter) for letter in "yx"]
    if any(side is None for side in sides):
        return None
    (height, by_rows), (width, by_columns) = (side for side in sides if side is not None)
    grids = {grid for grid in (by_rows, by_columns) if grid is not None}
    in_order = all(_letters(group) == sorted(_letters(group), key="nyx".index) for group in (windows, tokens))
    if len(grids) > 1 or not in_order or "n" in _letters(tokens):
        return None
    return (height, width), grids == {True}, Axes((windows, tokens, moved.groups[-1]))


def _window_axis(windows: Group, tokens: Group, letter: str) -> tuple[int, bool | None] | None:
    """A window's extent along an axis of the map, and whether windows are spread over it, None where both are one."""
    outside, inside = ([axis for axis in group if axis.name[0] == letter] for group in (windows, tokens))
    extent = extent_of(tuple(inside))
    if len(outside) > 1 or len(inside) > 1 or not isinstance(extent, int):
        return None
    if not outside or not inside:
        return extent, None
    names = inside[0].name, outside[0].name
    if names == (f"{letter}1", f"{letter}0"):
        return extent, False
    return (extent, True) if names == (f"{letter}0", f"{letter}1") else None


def _letters(group: Group) -> list[str]:
    return [axis.name[0] for axis in group]


def _flat(groups: Sequence[Group]) -> Group:
    return tuple(axis for group in groups for axis in group)


@dataclass(frozen=True)
class Reverse:
    """map: the result, [N, H, W, C]. layers: the projections on the way to it, from first to last."""

    map: Node
    layers: tuple[Node, ...]


def find_reverse(windows: Node, partition: Partition) -> Reverse | None:
    """How a tensor of windows like those of a partition is put together, through projections of each token.

    None where it is not, or where something else uses it on the way.
    """
    *pieces, channels = partition.axes.groups
    axes = regrouped(Axes((*pieces, _renamed(channels, windows))), windows)
    node, layers, shift = windows, list[Node](), partition.shift
    while axes is not None:
        if not any(shift) and _is_map(axes):
            return Reverse(node, tuple(layers))
        users = users_of(node)
        if len(users) != 1:
            return None
        (user,) = users
        if user.target is _LINEAR and user.args[0] is node:
            layers.append(user)
            axes = Axes((*axes.groups[:-1], _renamed(axes.groups[-1], user)))
        elif user.target is aten.roll.default:
            back = _shift(user)
            if back is None or not _is_map(axes) or [-each for each in back] != list(shift):
                return None
            shift = (0, 0)
        elif not is_idle_dropout(user):
            axes = follow(axes, [user]) if is_move(user) else None
        node = user
    return None


def _renamed(channels: Group, node: Node) -> Group:
    """The channels of a node whose last dimension has them."""
    return (Axis("c", node.meta["val"].shape[-1]),) if channels else ()


def _is_map(axes: Axes) -> bool:
    """Whether the dimensions are [n, y, x, c] again, each in order."""
    if len(axes.groups) != 4 or not axes.is_whole:
        return False
    for letter, group in zip("nyxc", axes.groups, strict=True):
        names = [axis.name for axis in group]
        if names != sorted(names) or any(name[0] != letter for name in names):
            return False
    return True
