"""Deformable attention in a graph: from a sum of samples to the tensors that bridge::ms_deform_attn takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.axes import Axes, follow, name_axes, sources
from bridge.passes.common.nodes import arguments, aten, same_extents, value

_JOINS = {aten.cat.default, aten.concat.default}
_SAMPLERS = {aten.grid_sampler.default, aten.grid_sampler_2d.default}


class Declined(Exception):
    """Why something like deformable attention is not what bridge::ms_deform_attn computes."""


@dataclass(frozen=True)
class Attention:
    """Deformable attention in a graph.

    root: its result, [N, Q, H D]. value: [N, S, H, D]. levels: (height, width) of each. starts: first position of each.
    maps: the views of the levels, [N H, D, height, width]. locations: [N, Q, H, L, P, 2] or [N, Q, H, L P, 2].
    weights: [N, Q, H, L, P] or [N, Q, H, L P]. extents: of the axes n, q, h, l, p.
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
    """The samplers under a sum, the node that joins them, and the two factors of the summed product."""

    nodes: list[Node]
    joined: Node
    samples: Node
    weights: Node


def find_samplers(total: Node) -> Samplers | None:
    """The samplers under a sum of (joined samples) x (weights); None for any other sum."""
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


def find_attention(total: Node, samplers: Samplers, canonical: Mapping[Node, Node]) -> Attention:
    """The attention that a sum of samples computes. Declined: it computes something else."""
    for node in samplers.nodes:
        _check_sampler(node)
    count = len(samplers.nodes)
    shapes = [node.meta["val"].shape for node in samplers.nodes]
    if not all(same_extents(shape, shapes[0]) for shape in shapes):
        raise Declined(
            f"its levels have {', '.join(str(shape[3]) for shape in shapes)} points; expected as many for each"
        )
    values = [_find_value(node) for node in samplers.nodes]
    base = _canonical(values[0].node, canonical)
    if any(_canonical(level.node, canonical) is not base for level in values):
        raise Declined("its levels are cut from several tensors")
    n, _, heads, head_dim = base.meta["val"].shape
    queries, points = shapes[0][2:]
    extents = {"n": n, "h": heads, "d": head_dim, "q": queries, "l": count, "p": points, "c": 2}
    grids = [_find_locations(node, level, extents) for level, node in enumerate(samplers.nodes)]
    if any(_canonical(grid, canonical) is not _canonical(grids[0], canonical) for grid in grids):
        raise Declined("the locations of its levels are cut from several tensors")
    summed = _sum_axes(total, samplers, extents)
    weights = _find_weights(samplers, summed, extents)
    root = _find_root(total, summed, extents)
    if root.meta["val"].dtype != base.meta["val"].dtype:
        raise Declined(f"its values are {base.meta['val'].dtype}, and its result {root.meta['val'].dtype}")
    levels, starts = tuple(level.size for level in values), tuple(level.start for level in values)
    _check_starts(levels, starts)
    maps = tuple(node.args[0] for node in samplers.nodes)
    return Attention(root, base, levels, starts, maps, grids[0], weights, extents)  # type: ignore[arg-type]


def _check_starts(levels: Sequence[tuple[Any, Any]], starts: Sequence[Any]) -> None:
    """Declined: the starts of the levels depend on the inputs, and the levels are not contiguous."""
    if all(isinstance(start, int) for start in starts):
        return
    position: Any = 0
    for (height, width), start in zip(levels, starts, strict=True):
        if not same_extents([start], [position]):
            raise Declined(f"a level starts at position {start}, expected {position}, where the one before ends")
        position = position + height * width


def _canonical(node: Node, canonical: Mapping[Node, Node]) -> Node:
    """The first node with the same value; nodes that a pass inserted are not in the map."""
    return canonical.get(node, node)


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
    """[N, S, H, D], from which a sampler takes one level as [N H, D, height, width]."""
    maps = sampler.args[0]
    assert isinstance(maps, Node)
    height, width = maps.meta["val"].shape[2:]
    chain = sources(maps)
    for index, node in reversed(list(enumerate(chain))):  # the tensor with all levels comes last in the chain
        if node.meta["val"].dim() != 4:
            continue
        n, s, heads, head_dim = node.meta["val"].shape
        axes = name_axes(["n", "s", "h", "d"], {"n": n, "s": s, "h": heads, "d": head_dim})
        moved = follow(axes, chain[:index][::-1])
        if moved is not None and _is_level(moved, axes, height, width):
            return _Level(node, _start(moved), (height, width))
    raise Declined("a level is not cut from [N, S, H, D] and viewed as [N H, D, height, width]")


def _is_level(moved: Axes, base: Axes, height: Any, width: Any) -> bool:
    """Whether the dimensions are those of a level, in row-major order."""
    n, _, h, d = base.names
    longer = [not (isinstance(extent, int) and extent == 1) for extent in (height, width)]
    rows = ["s0", "s1"] if all(longer) else ["s" if each else "" for each in longer]
    cut = moved.picked.keys() | moved.ranges.keys()
    return moved.names == [n + h, d, *rows] and cut <= {"s"}


def _start(moved: Axes) -> Any:
    """The first position of a level."""
    return moved.picked.get("s", moved.ranges.get("s", (0, 0))[0])


def _find_locations(sampler: Node, level: int, extents: dict[str, Any]) -> Node:
    """The locations x, [N, Q, H, L, P, 2] or [N, Q, H, L P, 2].

    A sampler takes 2 x - 1 of one level, as [N H, Q, P, 2].
    """
    grid = sampler.args[1]
    assert isinstance(grid, Node)
    before = sources(grid)
    scaled = _unscaled(before[-1])
    if scaled is None:
        raise Declined("a level is not sampled at 2 location - 1")
    after = sources(scaled)
    expected = name_axes(["nh", "q", "p", "c"], extents)
    for index, node in enumerate(after):
        path = [*after[:index][::-1], *before[:-1][::-1]]
        for names in (["n", "q", "h", "l", "p", "c"], ["n", "q", "h", "lp", "c"]):
            axes = _fit(node, names, extents)
            moved = None if axes is None else follow(axes, path)
            if moved is not None and moved.groups == expected.groups and _picks(moved, level, extents["l"]):
                return node
    raise Declined(f"the locations of level {level} are not cut from [N, Q, H, L, P, 2]")


def _picks(moved: Axes, level: int, count: int) -> bool:
    if moved.ranges or moved.picked.keys() != ({"l"} if count > 1 else set()):
        return False
    return all(isinstance(index, int) and index == level for index in moved.picked.values())


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
    """The axes of a node, if its shape is that of the named dimensions; else None."""
    shape = [_extent(word, extents) for word in names]
    return name_axes(names, extents) if same_extents(node.meta["val"].shape, shape) else None


def _extent(word: str, extents: dict[str, Any]) -> Any:
    total: Any = 1
    for letter in word:
        total = total * extents[letter]
    return total


def _sum_axes(total: Node, samplers: Samplers, extents: dict[str, Any]) -> Axes:
    """The axes of the summed product: samples of [N H, D, Q, P] joined, with levels before points."""
    names = ["nh", "d", "q", "p"]
    joined = samplers.joined
    if joined.target is aten.stack.default:
        names.insert(arguments(joined)["dim"] % 5, "l")
    elif joined.target in _JOINS:
        dim = arguments(joined)["dim"] % 4
        names[dim] = "l" + names[dim]
    axes = name_axes(names, extents)
    moved = follow(axes, sources(samplers.samples)[:-1][::-1]) if axes.describes(joined) else None
    dims = _summed_dims(total)
    if moved is None or not moved.is_whole or [moved.names[dim] for dim in dims] not in _orders(extents):
        raise Declined("the sum is not over the levels and points of samples that are joined in their order")
    return moved


def _orders(extents: dict[str, Any]) -> list[list[str]]:
    """The valid names of the summed dimensions."""
    levels, points = name_axes(["l", "p"], extents).names
    return [[levels + points], [levels, points]]


def _summed_dims(total: Node) -> list[int]:
    given = arguments(total)
    rank = total.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if given["keepdim"] or not given["dim"] or total.meta["val"].dtype != total.args[0].meta["val"].dtype:  # type: ignore[union-attr]
        raise Declined("the sum keeps the dimensions that it sums over, or changes the dtype")
    return sorted(dim % rank for dim in given["dim"])


def _find_weights(samplers: Samplers, summed: Axes, extents: dict[str, Any]) -> Node:
    """The weights of the samples, the same for all channels: [N, Q, H, L, P] or [N, Q, H, L P]."""
    (channels,) = name_axes(["d"], extents).groups
    expected = tuple(() if group == channels else group for group in summed.groups)
    chain = sources(samplers.weights)
    for index, node in enumerate(chain):
        for names in (["n", "q", "h", "l", "p"], ["n", "q", "h", "lp"]):
            axes = _fit(node, names, extents)
            moved = None if axes is None else follow(axes, chain[:index][::-1])
            if moved is not None and moved.groups == expected and moved.is_whole:
                return node
    raise Declined("the samples are not multiplied by weights of [N, Q, H, L, P]")


def _find_root(total: Node, summed: Axes, extents: dict[str, Any]) -> Node:
    """The view of the sum as [N, Q, H D]."""
    dims = _summed_dims(total)
    kept = tuple(group for dim, group in enumerate(summed.groups) if dim not in dims)
    axes, root = Axes(kept), total
    expected = name_axes(["n", "q", "hd"], extents).groups
    while axes.groups != expected or not axes.is_whole:
        users = list(root.users)
        moved = follow(axes, users) if len(users) == 1 else None
        if moved is None:
            raise Declined("the sum is not viewed as [N, Q, H D]")
        axes, root = moved, users[0]
    return root
