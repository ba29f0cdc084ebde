"""Leaky ReLU of several operators, or clipped, as bridge::relu. Off unless a setting names it.

Activations that TensorRT has as one layer (ReLU, ReLU6, leaky ReLU, a clamp from 0) stay. So does a slope of 0, where
bridge.relu returns NaN for -inf and torch.relu 0. The others take two or more layers. TensorRT fuses those with each
other and with their neighbours, but not with a plugin. bridge.relu measured no faster than one PyTorch kernel of the
same traffic. Enable the pass only where a measurement of the engine shows a gain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import arguments, aten, canonical_nodes, mutated_nodes, nodes_between, value
from bridge.passes.common.outcome import MUTATED, Outcome

NAME = "relu"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Activation:
    """min(x if x >= 0 else slope * x, limit), and the number of operators that compute it."""

    x: Node
    slope: float
    limit: float = math.inf
    operators: int = 1


class Declined(Exception):
    """Why a clipped or leaky ReLU is not replaced."""


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces activations in a graph, in place."""
    canonical, mutated = canonical_nodes(graph), mutated_nodes(graph)
    editor = Editor(graph)
    covered: set[Node] = set()

    def rewrite(node: Node) -> str | None:
        activation = None if node in covered else _match(node, canonical)
        if activation is None or activation.operators == 1:
            return None
        covered.update(nodes_between(node, (activation.x,)) - {activation.x})
        _check(activation, mutated & ({node, activation.x} | covered))
        limit = None if math.isinf(activation.limit) else activation.limit
        args = (activation.x, activation.slope, limit)
        editor.replace(node, editor.call(OPS[NAME].overload, args, node))
        return f"bridge.relu, negative_slope={activation.slope:g}, max_value={activation.limit:g}"

    return rewrite_each(reversed(list(graph.nodes)), rewrite, (Declined, LayoutError), NAME, editor)[::-1]


def _check(activation: Activation, mutated: set[Node]) -> None:
    if activation.slope == 0:
        raise Declined("its slope is 0, and for -inf bridge.relu gives NaN, where the model gives 0")
    if mutated:
        raise Declined(MUTATED)


def _match(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    """The activation that a node computes, or None."""
    tensor = value(node)
    match = _MATCHERS.get(node.target)
    if match is None or tensor is None or tensor.dtype not in _DTYPES:
        return None
    activation = match(node, canonical)
    source = None if activation is None else value(activation.x)
    return activation if source is not None and source.dtype == tensor.dtype else None


def _relu(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    return Activation(node.args[0], 0.0)  # type: ignore[arg-type]


def _leaky_relu(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    given = arguments(node)
    return Activation(given["self"], float(given["negative_slope"]))


def _clamp(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    """A clamp from 0 is a ReLU; a clamp without a lower bound clips the activation before it."""
    given = arguments(node)
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if isinstance(low, (int, float)) and low == 0 and (high is None or isinstance(high, (int, float))):
        return Activation(given["self"], 0.0, math.inf if high is None else float(high))
    return _clip(given["self"], high, canonical) if low is None else None


def _clip(node: Any, high: Any, canonical: dict[Node, Node]) -> Activation | None:
    clipped = _match(node, canonical) if isinstance(node, Node) else None
    if clipped is None or not isinstance(high, (int, float)) or math.isnan(high):
        return None
    return replace(clipped, limit=min(clipped.limit, float(high)), operators=clipped.operators + 1)


def _where(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    """where(x > 0, x, slope * x), or where(x < 0, slope * x, x)."""
    condition, on_true, on_false = node.args
    if not all(isinstance(argument, Node) for argument in node.args):
        return None
    is_positive = _COMPARISONS.get(condition.target)  # type: ignore[union-attr, arg-type]
    if is_positive is None or condition.args[1] != 0:  # type: ignore[union-attr]
        return None
    x, on_true, on_false = (canonical[argument] for argument in (condition.args[0], on_true, on_false))  # type: ignore[index, union-attr]
    positive, negative = (on_true, on_false) if is_positive else (on_false, on_true)
    slope = _scale(negative, x, canonical)
    return Activation(x, slope, operators=3) if positive is x and slope is not None else None


def _maximum(node: Node, canonical: dict[Node, Node]) -> Activation | None:
    """max(x, slope * x), a leaky ReLU for slopes from 0 to 1."""
    for x, scaled in (node.args, node.args[::-1]):
        if isinstance(x, Node) and isinstance(scaled, Node):
            slope = _scale(canonical[scaled], canonical[x], canonical)
            if slope is not None and 0 <= slope <= 1:
                return Activation(canonical[x], slope, operators=2)
    return None


def _scale(node: Node, x: Node, canonical: dict[Node, Node]) -> float | None:
    """The number by which x is multiplied; None if the node is no such product."""
    if node.target not in (aten.mul.Tensor, aten.mul.Scalar) or not isinstance(node.args[0], Node):
        return None
    number = node.args[1]
    return float(number) if canonical[node.args[0]] is x and isinstance(number, (int, float)) else None


_COMPARISONS = {aten.gt.Scalar: True, aten.ge.Scalar: True, aten.lt.Scalar: False, aten.le.Scalar: False}
_MATCHERS: dict[Any, Callable[[Node, dict[Node, Node]], Activation | None]] = {
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.where.self: _where,
    aten.maximum.default: _maximum,
}


# After the others: a clipped or leaky ReLU may be part of their patterns.
PASS = Pass(NAME, apply, default=False, rank=1)
