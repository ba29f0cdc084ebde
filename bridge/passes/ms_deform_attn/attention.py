"""Deformable attention in a graph: from a sum of samples to the tensors that bridge::ms_deform_attn takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.nodes import arguments, aten, same_extents, value
from bridge.passes.ms_deform_attn.axes import Axes, follow, name_axes, sources

_JOINS = {aten.cat.default, aten.concat.default}
_SAMPLERS = {aten.grid_sampler.default, aten.grid_sampler_2d.default}


class Declined(Exception):
    """Why what looks like deformable attention is none that bridge::ms_deform_attn computes."""


@dataclass(frozen=True)
class Attention:
    """`root` is [N, Q, H D], attention to the levels of `value` [N, S, H, D], whose (height, width) and first position
    are `levels` and `starts`, and which are viewed as `maps` [N H, D, height, width].

    locations: [N, Q, H, L, P, 2] or [N, Q, H, L P, 2]; weights: the same without 2. extents: of the axes n, q, h, l, p.
    """

    root: Node
    value: Node
    levels: tuple[tuple[Any, Any], ...]
    starts: tuple[Any, ...]
    maps: tuple[Node, ...]
    locations: Node
    weights: Node
    extents: Mapping[str, Any]


@dataclass(frozen=True)
class Samplers:
    """The samplers that a sum is over, what joins them, and the two factors of what is summed."""

    nodes: list[Node]
    joined: Node
    samples: Node
    weights: Node


def find_samplers(total: Node) -> Samplers | None:
    """What a sum is over, if that is a product of joined samples and something else; None where it is not."""
    product = total.args[0]
    if not isinstance(product, Node) or product.target is not aten.mul.Tensor:
        return None
    if not all(isinstance(side, Node) and value(side) is not None for side in product.args):
        return None
    for samples, weights in (product.args, product.args[::-1]):
        joined = sources(samples)[-1]  # type: ignore[arg-type]
        if joined.target in (aten.stack.default, *_JOINS, *_SAMPLERS):
            nodes = [joined] if joined.target in _SAMPLERS else list(joined.args[0])  # type: ignore[arg-type]
            if all(isinstance(node, Node) and node.target in _SAMPLERS for node in nodes):
                return Samplers(nodes, joined, samples, weights)  # type: ignore[arg-type]
    return None


def find_attention(total: Node, samplers: Samplers, same: Mapping[Node, Node]) -> Attention:
    """The attention that a sum of samples is. Declined: it is something else."""
    for node in samplers.nodes:
        _check_sampler(node)
    count = len(samplers.nodes)
    shapes = [node.meta["val"].shape for node in samplers.nodes]
    if not all(same_extents(shape, shapes[0]) for shape in shapes):
        raise Declined(
            f"its levels have {', '.join(str(shape[3]) for shape in shapes)} points; expected as many for each"
        )
    values = [_find_value(node) for node in samplers.nodes]
    base = _first(values[0].node, same)
    if any(_first(found.node, same) is not base for found in values):
        raise Declined("its levels are cut from several tensors")
    n, _, heads, head_dim = base.meta["val"].shape
    queries, points = shapes[0][2:]
    extents = {"n": n, "h": heads, "d": head_dim, "q": queries, "l": count, "p": points, "c": 2}
    grids = [_find_locations(node, level, extents) for level, node in enumerate(samplers.nodes)]
    if any(_first(grid, same) is not _first(grids[0], same) for grid in grids):
        raise Declined("the locations of its levels are cut from several tensors")
    summed = _sum_axes(total, samplers, extents)
    weights = _find_weights(samplers, summed, extents)
    root = _find_root(total, summed, extents)
    if root.meta["val"].dtype != base.meta["val"].dtype:
        raise Declined(f"its values are {base.meta['val'].dtype}, and its result {root.meta['val'].dtype}")
    levels, starts = tuple(found.size for found in values), tuple(found.start for found in values)
    _check_starts(levels, starts)
    maps = tuple(node.args[0] for node in samplers.nodes)
    return Attention(root, base, levels, starts, maps, grids[0], weights, extents)  # type: ignore[arg-type]


def _check_starts(levels: Sequence[tuple[Any, Any]], starts: Sequence[Any]) -> None:
    """Declined: the positions of levels depend on the inputs, and they do not lie one after the other."""
    if all(isinstance(start, int) for start in starts):
        return
    place: Any = 0
    for (height, width), start in zip(levels, starts, strict=True):
        if not same_extents([start], [place]):
            raise Declined(f"a level starts at position {start}, expected {place}, where the one before ends")
        place = place + height * width


def _first(node: Node, same: Mapping[Node, Node]) -> Node:
    """The first node that computes the same; one that a pass put in is its own."""
    return same.get(node, node)


def _check_sampler(node: Node) -> None:
    given = arguments(node)
    mode, padding, corners = given["interpolation_mode"], given["padding_mode"], given["align_corners"]
    if (mode, padding, corners) != (0, 0, False):
        raise Declined(
            f"a level is sampled with mode {mode}, padding {padding} and align_corners={corners}; expected bilinear (0)"
            " with zeros (0), and align_corners=False"
        )


@dataclass(frozen=True)
class _Level:
    node: Node
    start: Any
    size: tuple[Any, Any]


def _find_value(sampler: Node) -> _Level:
    """[N, S, H, D], of which a sampler samples one level as [N H, D, height, width]."""
    maps = sampler.args[0]
    assert isinstance(maps, Node)
    height, width = maps.meta["val"].shape[2:]
    chain = sources(maps)
    for place, node in reversed(list(enumerate(chain))):  # what all levels are cut from comes first
        if node.meta["val"].dim() != 4:
            continue
        n, s, heads, head_dim = node.meta["val"].shape
        axes = name_axes(["n", "s", "h", "d"], {"n": n, "s": s, "h": heads, "d": head_dim})
        found = follow(axes, chain[:place][::-1])
        if found is not None and _is_level(found, axes, height, width):
            return _Level(node, _start(found), (height, width))
    raise Declined("a level is not cut from [N, S, H, D] and viewed as [N H, D, height, width]")


def _is_level(found: Axes, base: Axes, height: Any, width: Any) -> bool:
    """Whether the dimensions are those of a level, one row after the other."""
    n, _, h, d = base.names
    longer = [not (isinstance(extent, int) and extent == 1) for extent in (height, width)]
    rows = ["s0", "s1"] if all(longer) else ["s" if each else "" for each in longer]
    cut = found.picked.keys() | found.ranges.keys()
    return found.names == [n + h, d, *rows] and cut <= {"s"}


def _start(found: Axes) -> Any:
    """The first position of a level."""
    return found.picked.get("s", found.ranges.get("s", (0, 0))[0])


def _find_locations(sampler: Node, level: int, extents: dict[str, Any]) -> Node:
    """[N, Q, H, L, P, 2] or [N, Q, H, L P, 2], of which a sampler takes a level as [N H, Q, P, 2], times 2 minus 1."""
    grid = sampler.args[1]
    assert isinstance(grid, Node)
    before = sources(grid)
    scaled = _unscaled(before[-1])
    if scaled is None:
        raise Declined("a level is not sampled at 2 location - 1")
    after = sources(scaled)
    wanted = name_axes(["nh", "q", "p", "c"], extents)
    for place, node in enumerate(after):
        path = [*after[:place][::-1], *before[:-1][::-1]]
        for names in (["n", "q", "h", "l", "p", "c"], ["n", "q", "h", "lp", "c"]):
            axes = _fit(node, names, extents)
            found = None if axes is None else follow(axes, path)
            if found is not None and found.groups == wanted.groups and _picks(found, level, extents["l"]):
                return node
    raise Declined(f"the locations of level {level} are not cut from [N, Q, H, L, P, 2]")


def _picks(found: Axes, level: int, count: int) -> bool:
    if found.ranges or found.picked.keys() != ({"l"} if count > 1 else set()):
        return False
    return all(isinstance(index, int) and index == level for index in found.picked.values())


def _unscaled(node: Node) -> Node | None:
    """x of 2 x - 1."""
    shift = {aten.sub.Tensor: 1, aten.add.Tensor: -1}.get(node.target)  # type: ignore[call-overload]
    if shift is None or node.args[1] != shift or node.kwargs.get("alpha", 1) != 1:
        return None
    double = node.args[0]
    if not isinstance(double, Node) or double.target not in (aten.mul.Tensor, aten.mul.Scalar) or double.args[1] != 2:
        return None
    return double.args[0]  # type: ignore[return-value]


def _fit(node: Node, names: Sequence[str], extents: dict[str, Any]) -> Axes | None:
    """The axes of a node whose dimensions have these names; None where its shape is another."""
    shape = [_extent(word, extents) for word in names]
    return name_axes(names, extents) if same_extents(node.meta["val"].shape, shape) else None


def _extent(word: str, extents: dict[str, Any]) -> Any:
    total: Any = 1
    for letter in word:
        total = total * extents[letter]
    return total


def _sum_axes(total: Node, samplers: Samplers, extents: dict[str, Any]) -> Axes:
    """The axes of what is summed: samples of [N H, D, Q, P] joined, with levels before points."""
    names = ["nh", "d", "q", "p"]
    joined = samplers.joined
    if joined.target is aten.stack.default:
        names.insert(arguments(joined)["dim"] % 5, "l")
    elif joined.target in _JOINS:
        dim = arguments(joined)["dim"] % 4
        names[dim] = "l" + names[dim]
    axes = name_axes(names, extents)
    found = follow(axes, sources(samplers.samples)[:-1][::-1]) if axes.describes(joined) else None
    dims = _summed_dims(total)
    if found is None or not found.whole or [found.names[dim] for dim in dims] not in _orders(extents):
        raise Declined("the sum is not over the levels and points of samples that are joined in their order")
    return found


def _orders(extents: dict[str, Any]) -> list[list[str]]:
    """How the summed dimensions may be called."""
    levels, points = name_axes(["l", "p"], extents).names
    return [[levels + points], [levels, points]]


def _summed_dims(total: Node) -> list[int]:
    given = arguments(total)
    rank = total.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if given["keepdim"] or not given["dim"] or total.meta["val"].dtype != total.args[0].meta["val"].dtype:  # type: ignore[union-attr]
        raise Declined("the sum keeps the dimensions that it sums over, or changes the dtype")
    return sorted(dim % rank for dim in given["dim"])


def _find_weights(samplers: Samplers, summed: Axes, extents: dict[str, Any]) -> Node:
    """[N, Q, H, L, P] or [N, Q, H, L P], by which the samples of all channels are multiplied."""
    (channels,) = name_axes(["d"], extents).groups
    wanted = tuple(() if group == channels else group for group in summed.groups)
    chain = sources(samplers.weights)
    for place, node in enumerate(chain):
        for names in (["n", "q", "h", "l", "p"], ["n", "q", "h", "lp"]):
            axes = _fit(node, names, extents)
            found = None if axes is None else follow(axes, chain[:place][::-1])
            if found is not None and found.groups == wanted and found.whole:
                return node
    raise Declined("the samples are not multiplied by weights of [N, Q, H, L, P]")


def _find_root(total: Node, summed: Axes, extents: dict[str, Any]) -> Node:
    """[N, Q, H D], what views make of the sum."""
    dims = _summed_dims(total)
    kept = tuple(group for dim, group in enumerate(summed.groups) if dim not in dims)
    axes, root = Axes(kept), total
    wanted = name_axes(["n", "q", "hd"], extents).groups
    while axes.groups != wanted or not axes.whole:
        users = list(root.users)
        found = follow(axes, users) if len(users) == 1 else None
        if found is None:
            raise Declined("the sum is not viewed as [N, Q, H D]")
        axes, root = found, users[0]
    return root
