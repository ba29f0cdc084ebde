"""Writes to a part of a tensor with dynamic extents, such as mask[-3:] = 1.

PyTorch copies the value to a tensor of the part's shape, and scatters that into the tensor. torch_tensorrt's
decompositions of the scatter fix the other extents to the example's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.tensorrt.converters.layers import Layers

COPY = torch.ops.aten.copy.default


def copies_scalar(node: Node) -> bool:
    """Whether a node copies a scalar to a part; torch_tensorrt returns the scalar without broadcasting it."""
    value = node.args[1].meta.get("val") if isinstance(node.args[1], Node) else None
    return isinstance(value, torch.Tensor) and value.dim() == 0 < node.meta["val"].dim()


def convert_copy(layers: Layers, part: Any, scalar: Any) -> Any:
    """The scalar broadcast to the shape of the part, in its dtype."""
    single = layers.reshape(layers.cast(scalar, part.dtype), [1] * len(part.shape))
    return layers.expand(single, layers.extents(part))


def slice_scatter(x: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    """x with x[start:end:step] along a dimension replaced by src."""
    count = src.shape[dim]
    if statically_known_true(count == x.shape[dim]):
        return src.clone()
    if statically_known_true(count == 0):
        return x.clone()
    before = torch.ops.aten.slice(x, dim, None, start or 0)
    first = before.shape[dim]
    if step == 1:
        return torch.cat((before, src, torch.ops.aten.slice(x, dim, first + count)), dim)
    offsets = torch.arange(x.shape[dim], device=x.device) - first
    rows = torch.div(offsets, step, rounding_mode="floor")
    written = (offsets >= 0) & (rows < count) & (rows * step == offsets)
    spread = src.index_select(dim, rows.clamp(0, count - 1))
    return torch.where(written.view([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]), spread, x)


def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """x with one index of a dimension replaced by src."""
    return slice_scatter(x, src.unsqueeze(dim), dim, index)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.slice_scatter.default: slice_scatter,
    torch.ops.aten.select_scatter.default: select_scatter,
}
