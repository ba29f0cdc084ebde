"""Locations and weights of deformable attention as bridge::ms_deform_attn_fused computes them from its inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.passes.common.axes import Axes, follow, name_axes, sources
from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, same_extents, value

_SOFTMAX = {aten.softmax.int, aten._softmax.default}


@dataclass(frozen=True)
class Sampling:
    """references: [N, Q, L or 1, 2 or 4]; offsets: [N, Q, H, L, P, 2] or [N, Q, H, L P, 2]; logits: [N, Q, H, L P]."""

    references: Node
    offsets: Node
    logits: Node


def find_sampling(
    locations: Node, weights: Node, levels: Sequence[tuple[Any, Any]], extents: Mapping[str, Any], constants: Constants
) -> Sampling | None:
    """The inputs of the fused op from which locations and weights are computed; None where they are not.

    levels: (height, width) of each. extents: of the axes n, q, h, l and p.
    """
    logits = _find_logits(weights, extents)
    locations = _unviewed(locations, extents)
    if logits is None or locations.target is not aten.add.Tensor or locations.kwargs.get("alpha", 1) != 1:
        return None
    for point, shift in (locations.args, locations.args[::-1]):
        factors = _find_offsets(locations, point, shift, levels, extents, constants)
        if factors is not None:
            return Sampling(*factors, logits)
    return None


def _unviewed(locations: Node, extents: Mapping[str, Any]) -> Node:
    """The tensor [N, Q, H, L, P, 2] or [N, Q, H, L P, 2] that locations are a view of, or locations themselves."""
    chain = sources(locations)
    shapes = {5: ["n", "q", "h", "lp", "c"], 6: ["n", "q", "h", "l", "p", "c"]}
    names = shapes.get(chain[-1].meta["val"].dim())
    expected = name_axes(shapes[locations.meta["val"].dim()], extents)
    moved = None if names is None else follow(name_axes(names, extents), chain[:-1][::-1])
    is_whole = moved is not None and moved.groups == expected.groups and moved.is_whole
    return chain[-1] if is_whole else locations


def _find_logits(weights: Node, extents: Mapping[str, Any]) -> Node | None:
    """The logits [N, Q, H, L P] whose softmax over the last axis gives the weights."""
    chain = sources(weights)
    softmax = chain[-1]
    if softmax.target not in _SOFTMAX or softmax.meta["val"].dim() != 4 or arguments(softmax)["dim"] not in (-1, 3):
        return None
    logits: Node = softmax.args[0]  # type: ignore[assignment]
    axes = name_axes(["n", "q", "h", "lp"], extents)
    expected = name_axes(["n", "q", "h", "l", "p"], extents) if weights.meta["val"].dim() == 5 else axes
    moved = follow(axes, chain[:-1][::-1])
    same_dtype = logits.meta["val"].dtype == softmax.meta["val"].dtype
    return logits if moved is not None and moved.groups == expected.groups and moved.is_whole and same_dtype else None


def _find_offsets(
    locations: Node,
    point: Any,
    shift: Any,
    levels: Sequence[tuple[Any, Any]],
    extents: Mapping[str, Any],
    constants: Constants,
) -> tuple[Node, Node] | None:
    """The references in `point` and the offsets in `shift`, for locations = point + shift; None if they do not fit."""
    rank = locations.meta["val"].dim()
    references = _find_references(point, 0, rank, extents)
    if references is None or not isinstance(shift, Node):
        return None
    scale, tensors = torch.ones((), dtype=torch.float64), []
    for factor, inverse in _factors(shift, constants):
        if isinstance(factor, Node):
            tensors.append(factor)
        else:
            number = torch.as_tensor(factor).to("cpu", torch.float64)
            scale = scale / number if inverse else scale * number
    boxes = references.meta["val"].shape[3] == 4
    sizes = [node for node in tensors if boxes and _find_references(node, 2, rank, extents) is references]
    offsets = [node for node in tensors if node not in sizes]
    if len(offsets) != 1 or len(sizes) != int(boxes):
        return None
    if not same_extents(offsets[0].meta["val"].shape, locations.meta["val"].shape):
        return None
    points = extents["p"]
    if not boxes and not all(isinstance(extent, int) for level in levels for extent in level):
        return None
    expected = (
        torch.full((len(levels), points, 2), 0.5 / points, dtype=torch.float64)
        if boxes
        else 1 / torch.tensor([[[width, height]] * points for height, width in levels], dtype=torch.float64)
    )
    return (references, offsets[0]) if _is_scale(scale, expected, rank) else None


def _is_scale(scale: Tensor, expected: Tensor, rank: int) -> bool:
    """Whether the factor of the offsets, [N, Q, H, L, P, 2] or [N, Q, H, L P, 2], is the expected [L, P, 2]."""
    shape = expected.shape if rank == 6 else (expected.shape[0] * expected.shape[1], 2)
    try:
        expanded = scale.broadcast_to((1, 1, 1, *shape))
    except RuntimeError:  # it varies with the query or the head
        return False
    return bool(torch.allclose(expanded.reshape(expected.shape), expected, rtol=1e-6, atol=0))


def _factors(node: Any, constants: Constants) -> Iterator[tuple[Any, bool]]:
    """The factors of a product, each a node or a constant, and whether the product is divided by it."""
    constant = constants.value(node)
    if not isinstance(node, Node) or constant is not None:
        yield node if constant is None else constant, False
    elif node.target in (aten.mul.Tensor, aten.mul.Scalar):
        for side in node.args[:2]:
            yield from _factors(side, constants)
    elif node.target in (aten.div.Tensor, aten.div.Scalar) and not isinstance(
        divisor := _constant_or_argument(node.args[1], constants), Node
    ):
        yield from _factors(node.args[0], constants)
        yield divisor, True
    else:
        yield node, False


def _constant_or_argument(argument: Any, constants: Constants) -> Any:
    constant = constants.value(argument)
    return argument if constant is None else constant


def _find_references(node: Any, start: int, rank: int, extents: Mapping[str, Any]) -> Node | None:
    """The references, [N, Q, L or 1, 2 or 4], of which two coordinates from `start` on are broadcast.

    rank: of the broadcast view. 6: [N, Q, 1, L or 1, 1, 2]. 5: [N, Q, 1, 1, 2].
    """
    if value(node) is None:
        return None
    chain = sources(node)
    last = name_axes(["c"], {"c": 2}).groups
    for index, base in enumerate(chain):
        shape = base.meta["val"].shape
        if len(shape) != 4 or shape[3] not in (2, 4) or shape[2] not in (extents["l"], 1):
            continue
        if not same_extents(shape[:2], (extents["n"], extents["q"])):
            continue
        axes = name_axes(["n", "q", "l", "c"], {**extents, "l": shape[2], "c": shape[3]})
        moved = follow(axes, chain[:index][::-1])
        n, q, level_axis, _ = axes.groups
        broadcast = (n, q, (), level_axis, (), *last) if rank == 6 else (n, q, (), (), *last)
        is_valid = rank == 6 or not level_axis  # where levels and points share a dimension, references have no level
        if moved is None or not is_valid or moved.groups != broadcast:
            continue
        if _coordinate_start(moved) == min(start, shape[3] - 2):
            return base
    return None


def _coordinate_start(moved: Axes) -> int | None:
    if moved.picked or moved.ranges.keys() - {"c"}:
        return None
    start = moved.ranges.get("c", (0, 2))[0]
    return start if isinstance(start, int) else None
