"""Layers that torch_tensorrt gives integers as float32, with 24 bits, or mixed with integers of another width.

An engine's integers may have 32 bits where the model's have 64: extents, counts and indices do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt.converters.extents import Rule
from bridge.tensorrt.converters.layers import Layers

_ATEN = torch.ops.aten


def _reduce(name: str, wide: bool = False) -> Callable[..., Any]:
    """A reduction. wide: whether the result may need 64 bits if the operand has 32."""

    def add(layers: Layers, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
        rank = len(x.shape)
        dims = [dim] if isinstance(dim, int) else dim or range(rank)
        axes = sum(1 << (axis % rank) for axis in dims)
        operand = layers.cast(x, layers.trt.DataType.INT64) if wide else x
        operation = getattr(layers.trt.ReduceOperation, name)
        return layers.output(layers.network.add_reduce(operand, operation, axes, keepdim))

    return add


def _of_all(reduce: Callable[..., Any]) -> Callable[..., Any]:
    return lambda layers, x, **_: reduce(layers, x)


def _scatter(layers: Layers, x: Any, dim: int, index: Any, src: Any) -> Any:
    """Writes src at the positions in index, whose extents may be smaller than those of x."""
    positions = layers.cast(index, layers.trt.DataType.INT32)
    layer = layers.network.add_scatter(x, positions, layers.cast(src, x.dtype), layers.trt.ScatterMode.ELEMENT)
    layer.axis = dim % len(x.shape)
    return layers.output(layer)


def _is_of_integers(node: Node) -> bool:
    """Whether a node takes an integer tensor of rank 1 or more, and sets no dtype."""
    x = node.args[0].meta.get("val") if isinstance(node.args[0], Node) else None
    fits = isinstance(x, torch.Tensor) and x.dtype in (torch.int32, torch.int64) and x.dim() > 0
    return fits and node.kwargs.get("dtype") is None


INTEGER_RULES: Sequence[Rule] = (
    Rule(_ATEN.amax.default, _reduce("MAX"), _is_of_integers),
    Rule(_ATEN.amin.default, _reduce("MIN"), _is_of_integers),
    Rule(_ATEN.max.default, _of_all(_reduce("MAX")), _is_of_integers),
    Rule(_ATEN.min.default, _of_all(_reduce("MIN")), _is_of_integers),
    Rule(_ATEN.sum.dim_IntList, _reduce("SUM", wide=True), _is_of_integers),
    Rule(_ATEN.sum.default, _of_all(_reduce("SUM", wide=True)), _is_of_integers),
    Rule(_ATEN.prod.dim_int, _reduce("PROD", wide=True), _is_of_integers),
    Rule(_ATEN.prod.default, _of_all(_reduce("PROD", wide=True)), _is_of_integers),
    Rule(_ATEN.scatter.src, _scatter),
)
