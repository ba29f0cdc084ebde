"""Local response normalisation as bridge::local_response_norm.

PyTorch writes it as squares, padded by channels that are 0, an average pooling over channels, and a power. As layers
of TensorRT these are six passes over the map, one of them a pooling of volumes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import SAME_ORDER, arguments, aten, mutated_nodes, nodes_between, same_extents, value
from bridge.passes.common.outcome import MUTATED, Outcome

NAME = "local_response_norm"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_POOLS = (aten.avg_pool2d.default, aten.avg_pool3d.default)
_ALONE = {"padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}


class Declined(Exception):
    """Why a normalisation is not replaced."""


@dataclass(frozen=True)
class Response:
    """x / (k + alpha * mean of squares in a window of `size` channels) ^ beta."""

    x: Node
    size: int
    alpha: float
    beta: float
    k: float


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces normalisations in a graph, in place."""
    mutated, editor = mutated_nodes(graph), Editor(graph)

    def rewrite(node: Node) -> str | None:
        found = _match(node)
        if found is None:
            return None
        if mutated & nodes_between(node, (found.x,)):
            raise Declined(MUTATED)
        tensor = value(found.x)
        if tensor is None or tensor.dtype not in _DTYPES:
            raise Declined(f"it is computed in {tensor.dtype if tensor is not None else 'an unknown dtype'}")
        attributes = {name: getattr(found, name) for name in ("size", "alpha", "beta", "k")}
        editor.replace(node, editor.call(OPS[NAME].overload, (found.x,), node, attributes))
        return f"bridge.local_response_norm, window {found.size}, alpha={found.alpha:g}, beta={found.beta:g}"

    nodes = graph.find_nodes(op="call_function", target=aten.div.Tensor)
    return rewrite_each(nodes, rewrite, (Declined, LayoutError), NAME, editor)


def _match(node: Node) -> Response | None:
    """What a division computes, read backwards; None where it is none of these."""
    x, power = node.args[:2]
    steps = _scalar_steps(power)
    if steps is None or not isinstance(x, Node) or node.kwargs:
        return None
    (beta, k, alpha), means = steps
    pool = _through_views(means)
    pooled = _pooled(pool)
    squares = None if pooled is None else _through_views(pooled[0])
    if pooled is None or squares is None or not _is_square(squares, x):
        return None
    given, map_ = value(x), value(pooled[0])
    fits = given is not None and map_ is not None and same_extents(map_.shape[:3], [given.shape[0], 1, given.shape[1]])
    return Response(x, pooled[1], alpha, beta, k) if fits and _keeps(means, x) else None


def _scalar_steps(power: Any) -> tuple[list[float], Node] | None:
    """The numbers of (means * alpha + k) ** beta, the last one first, and means."""
    numbers, node = [], power
    for target in (aten.pow.Tensor_Scalar, aten.add.Tensor, aten.mul.Tensor):
        if not isinstance(node, Node) or node.target is not target or node.kwargs:
            return None
        node, number = node.args[:2]
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            return None
        numbers.append(float(number))
    return (numbers, node) if isinstance(node, Node) else None


def _through_views(node: Any) -> Node | None:
    """What a view shows, through views of views, whose elements stay in order."""
    while isinstance(node, Node) and node.target in SAME_ORDER:
        node = node.args[0]
    return node if isinstance(node, Node) else None


def _pooled(pool: Node | None) -> tuple[Node, int] | None:
    """The map that is pooled over a padded axis, its third one, and the elements of a window."""
    if pool is None or pool.target not in _POOLS:
        return None
    given = arguments(pool)
    size, *others = given["kernel_size"]
    rank = 2 if pool.target is _POOLS[0] else 3
    plain = all(_is(given[name], expected) for name, expected in _ALONE.items())
    ones = len(others) == rank - 1 and _is(others, 1) and bool(given["stride"]) and _is(given["stride"], 1)
    if not (plain and ones):
        return None
    widths = [0, 0] * (rank - 1) + [size // 2, (size - 1) // 2]
    padded = _padded(given["self"], widths)
    return None if padded is None else (padded, size)


def _padded(node: Any, widths: list[int]) -> Node | None:
    """What is padded by zeros to these widths."""
    if not isinstance(node, Node) or node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return node if isinstance(node, Node) and not any(widths) else None
    given = arguments(node)
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    return given["self"] if zeros and list(given["pad"]) == widths else None


def _is(values: Any, expected: Any) -> bool:
    """Whether an argument, or every item of it, is a value."""
    return all(each == expected for each in values) if isinstance(values, (list, tuple)) else values == expected


def _is_square(node: Node, x: Node) -> bool:
    if node.target is aten.mul.Tensor:
        return node.args[0] is x and node.args[1] is x
    return node.target is aten.pow.Tensor_Scalar and node.args[0] is x and bool(node.args[1] == 2)


def _keeps(means: Node, x: Node) -> bool:
    """Whether the means have the shape and the dtype of x."""
    a, b = value(means), value(x)
    return a is not None and b is not None and a.dtype == b.dtype and same_extents(a.shape, b.shape)


PASS = Pass(NAME, apply)
