"""What the locations and weights of deformable attention are made of, as bridge::ms_deform_attn_fused computes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, same_extents, value
from bridge.passes.ms_deform_attn.axes import Axes, follow, name_axes, sources

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
    """What locations and weights are computed from; None where it is not as the fused op has it.

    levels: (height, width) of each. extents: of the axes n, q, h, l and p.
    """
    logits = _find_logits(weights, extents)
    locations = _sum_of(locations, extents)
    if logits is None or locations.target is not aten.add.Tensor or locations.kwargs.get("alpha", 1) != 1:
        return None
    for point, shift in (locations.args, locations.args[::-1]):
        found = _find_offsets(locations, point, shift, levels, extents, constants)
        if found is not None:
            return Sampling(*found, logits)
    return None


def _sum_of(locations: Node, extents: Mapping[str, Any]) -> Node:
    """[N, Q, H, L, P, 2], or with L P for the two, that locations are a view of; they themselves if they are none."""
    chain = sources(locations)
    shapes = {5: ["n", "q", "h", "lp", "c"], 6: ["n", "q", "h", "l", "p", "c"]}
    names = shapes.get(chain[-1].meta["val"].dim())
    wanted = name_axes(shapes[locations.meta["val"].dim()], extents)
    found = None if names is None else follow(name_axes(names, extents), chain[:-1][::-1])
    whole = found is not None and found.groups == wanted.groups and found.whole
    return chain[-1] if whole else locations


def _find_logits(weights: Node, extents: Mapping[str, Any]) -> Node | None:
    """[N, Q, H, L P], whose softmax over the last axis the weights are."""
    chain = sources(weights)
    softmax = chain[-1]
    if softmax.target not in _SOFTMAX or softmax.meta["val"].dim() != 4 or arguments(softmax)["dim"] not in (-1, 3):
        return None
    logits: Node = softmax.args[0]  # type: ignore[assignment]
    axes = name_axes(["n", "q", "h", "lp"], extents)
    wanted = name_axes(["n", "q", "h", "l", "p"], extents) if weights.meta["val"].dim() == 5 else axes
    found = follow(axes, chain[:-1][::-1])
    same_dtype = logits.meta["val"].dtype == softmax.meta["val"].dtype
    return logits if found is not None and found.groups == wanted.groups and found.whole and same_dtype else None


def _find_offsets(
    locations: Node,
    point: Any,
    shift: Any,
    levels: Sequence[tuple[Any, Any]],
    extents: Mapping[str, Any],
    constants: Constants,
) -> tuple[Node, Node] | None:
    """References and offsets of point + shift."""
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
    wanted = (
        torch.full((len(levels), points, 2), 0.5 / points, dtype=torch.float64)
        if boxes
        else 1 / torch.tensor([[[width, height]] * points for height, width in levels], dtype=torch.float64)
    )
    return (references, offsets[0]) if _is(scale, wanted, rank) else None


def _is(scale: Tensor, wanted: Tensor, rank: int) -> bool:
    """Whether constants that offsets [N, Q, H, L, P, 2], or [N, Q, H, L P, 2], are multiplied by are [L, P, 2]."""
    shape = wanted.shape if rank == 6 else (wanted.shape[0] * wanted.shape[1], 2)
    try:
        found = scale.broadcast_to((1, 1, 1, *shape))
    except RuntimeError:  # it varies with the query or the head
        return False
    return bool(torch.allclose(found.reshape(wanted.shape), wanted, rtol=1e-6, atol=0))


def _factors(node: Any, constants: Constants) -> Iterator[tuple[Any, bool]]:
    """The factors of a product: nodes, and numbers and known tensors, each with whether it divides."""
    known = constants.value(node)
    if not isinstance(node, Node) or known is not None:
        yield node if known is None else known, False
    elif node.target in (aten.mul.Tensor, aten.mul.Scalar):
        for side in node.args[:2]:
            yield from _factors(side, constants)
    elif node.target in (aten.div.Tensor, aten.div.Scalar) and not isinstance(_known(node.args[1], constants), Node):
        yield from _factors(node.args[0], constants)
        yield _known(node.args[1], constants), True
    else:
        yield node, False


def _known(argument: Any, constants: Constants) -> Any:
    found = constants.value(argument)
    return argument if found is None else found


def _find_references(node: Any, start: int, rank: int, extents: Mapping[str, Any]) -> Node | None:
    """[N, Q, L or 1, 2 or 4], of which the two coordinates from `start` on are spread over heads and points.

    rank: 6 for [N, Q, 1, L or 1, 1, 2], 5 for [N, Q, 1, 1, 2].
    """
    if value(node) is None:
        return None
    chain = sources(node)
    last = name_axes(["c"], {"c": 2}).groups
    for place, base in enumerate(chain):
        shape = base.meta["val"].shape
        if len(shape) != 4 or shape[3] not in (2, 4) or shape[2] not in (extents["l"], 1):
            continue
        if not same_extents(shape[:2], (extents["n"], extents["q"])):
            continue
        axes = name_axes(["n", "q", "l", "c"], {**extents, "l": shape[2], "c": shape[3]})
        found = follow(axes, chain[:place][::-1])
        n, q, spread, _ = axes.groups
        spread_out = (n, q, (), spread, (), *last) if rank == 6 else (n, q, (), (), *last)
        same = rank == 6 or not spread  # where levels and points are one dimension: for all levels
        if found is not None and same and found.groups == spread_out and _range(found) == min(start, shape[3] - 2):
            return base
    return None


def _range(found: Axes) -> int | None:
    if found.picked or found.ranges.keys() - {"c"}:
        return None
    start = found.ranges.get("c", (0, 2))[0]
    return start if isinstance(start, int) else None
