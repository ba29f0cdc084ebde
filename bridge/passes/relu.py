"""Leaky ReLU written out, or clipped afterwards, as bridge::relu. Off unless a setting names it.

What TensorRT has in one layer (ReLU, ReLU6, leaky ReLU, a clamp from 0) is left alone, and so is a slope of 0, for
which bridge.relu gives NaN at -inf and torch.relu 0. What is left takes TensorRT two layers or more, which it fuses
with each other and with their neighbours, as it cannot with a plugin. bridge.relu was measured to be no faster than one
kernel of PyTorch's that reads and writes the same, so the pass pays only where a measurement of the engine says so.
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
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import arguments, aten, between, canonical, value, written
from bridge.passes.common.outcome import WRITTEN, Outcome

NAME = "relu"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Activation:
    """min(x if x >= 0 else slope * x, limit), and how many operators compute it."""

    x: Node
    slope: float
    limit: float = math.inf
    operators: int = 1


class Declined(Exception):
    """Why what looks like a clipped or leaky ReLU stays as it is."""


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces activations in a graph, in place."""
    same, touched = canonical(graph), written(graph)
    editor = Editor(graph)
    outcomes = []
    inner: set[Node] = set()
    for node in reversed(list(graph.nodes)):
        try:
            activation = None if node in inner else _read(node, same)
            if activation is None or activation.operators == 1:
                continue
            inner |= between(node, (activation.x,)) - {activation.x}
            _check(activation, touched & ({node, activation.x} | inner))
            limit = None if math.isinf(activation.limit) else activation.limit
            args = (activation.x, activation.slope, limit)
            editor.replace(node, editor.call(OPS[NAME].overload, args, node))
        except (Declined, LayoutError) as reason:
            outcomes.append(Outcome.at(node, NAME, False, str(reason)))
        except Exception as error:  # code of a kind that nobody thought of must not end the compile
            outcomes.append(Outcome.failed(node, NAME, error))
        else:
            what = f"bridge.relu, negative_slope={activation.slope:g}, max_value={activation.limit:g}"
            outcomes.append(Outcome.at(node, NAME, True, what))
    if outcomes:
        editor.sort()
    return outcomes[::-1]


def _check(activation: Activation, touched: set[Node]) -> None:
    if activation.slope == 0:
        raise Declined("its slope is 0, and for -inf bridge.relu gives NaN, where the model gives 0")
    if touched:
        raise Declined(WRITTEN)


def _read(node: Node, same: dict[Node, Node]) -> Activation | None:
    """The activation that a node is, or None."""
    tensor = value(node)
    read = _FORMS.get(node.target)
    if read is None or tensor is None or tensor.dtype not in _DTYPES:
        return None
    found = read(node, same)
    source = None if found is None else value(found.x)
    return found if source is not None and source.dtype == tensor.dtype else None


def _relu(node: Node, same: dict[Node, Node]) -> Activation | None:
    return Activation(node.args[0], 0.0)  # type: ignore[arg-type]


def _leaky_relu(node: Node, same: dict[Node, Node]) -> Activation | None:
    given = arguments(node)
    return Activation(given["self"], float(given["negative_slope"]))


def _clamp(node: Node, same: dict[Node, Node]) -> Activation | None:
    """A clamp from 0 is an activation; one without a lower end clips what is below it."""
    given = arguments(node)
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if isinstance(low, (int, float)) and low == 0 and (high is None or isinstance(high, (int, float))):
        return Activation(given["self"], 0.0, math.inf if high is None else float(high))
    return _clip(given["self"], high, same) if low is None else None


def _clip(node: Any, high: Any, same: dict[Node, Node]) -> Activation | None:
    inner = _read(node, same) if isinstance(node, Node) else None
    if inner is None or not isinstance(high, (int, float)) or math.isnan(high):
        return None
    return replace(inner, limit=min(inner.limit, float(high)), operators=inner.operators + 1)


def _where(node: Node, same: dict[Node, Node]) -> Activation | None:
    """where(x > 0, x, slope * x), or with the sides and the comparison turned round."""
    condition, kept, scaled = node.args
    if not all(isinstance(argument, Node) for argument in node.args):
        return None
    comparison = _COMPARISONS.get(condition.target)  # type: ignore[union-attr, arg-type]
    if comparison is None or condition.args[1] != 0:  # type: ignore[union-attr]
        return None
    x, yes, no = (same[argument] for argument in (condition.args[0], kept, scaled))  # type: ignore[index, union-attr]
    positive, negative = (yes, no) if comparison else (no, yes)
    slope = _scale(negative, x, same)
    return Activation(x, slope, operators=3) if positive is x and slope is not None else None


def _maximum(node: Node, same: dict[Node, Node]) -> Activation | None:
    """max(x, slope * x), which is leaky for slopes from 0 to 1."""
    for x, scaled in (node.args, node.args[::-1]):
        if isinstance(x, Node) and isinstance(scaled, Node):
            slope = _scale(same[scaled], same[x], same)
            if slope is not None and 0 <= slope <= 1:
                return Activation(same[x], slope, operators=2)
    return None


def _scale(node: Node, x: Node, same: dict[Node, Node]) -> float | None:
    """The number of a product of x and a number."""
    if node.target not in (aten.mul.Tensor, aten.mul.Scalar) or not isinstance(node.args[0], Node):
        return None
    number = node.args[1]
    return float(number) if same[node.args[0]] is x and isinstance(number, (int, float)) else None


_COMPARISONS = {aten.gt.Scalar: True, aten.ge.Scalar: True, aten.lt.Scalar: False, aten.le.Scalar: False}
_FORMS: dict[Any, Callable[[Node, dict[Node, Node]], Activation | None]] = {
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.where.self: _where,
    aten.maximum.default: _maximum,
}


# After the others: a clipped or leaky ReLU may be a part of what they look for.
PASS = Pass(NAME, apply, default=False, rank=1)
