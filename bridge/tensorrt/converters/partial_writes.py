"""Writes to a part of a tensor, such as mask[-3:] = 1, where its extents are dynamic.

PyTorch makes a copy of the value, of the part's shape. The part is then scattered into the tensor; torch_tensorrt's
decompositions of that fix the other extents to the example's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.tensorrt.converters.layers import Layers

COPY = torch.ops.aten.copy.default


def is_of_number(node: Node) -> bool:
    """Whether a node copies one number to every element of a part; torch_tensorrt gives the number itself."""
    source = node.args[1].meta.get("val") if isinstance(node.args[1], Node) else None
    return isinstance(source, torch.Tensor) and source.dim() == 0 < node.meta["val"].dim()


def convert_copy(layers: Layers, part: Any, number: Any) -> Any:
    """The number, for every element of the part, in its dtype."""
    single = layers.reshape(layers.cast(number, part.dtype), [1] * len(part.shape))
    return layers.expand(single, layers.extents(part))


def slice_scatter(x: Tensor, source: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    """x with source in the place of x[start:end:step] along a dimension."""
    count = source.shape[dim]
    if statically_known_true(count == x.shape[dim]):
        return source.clone()
    if statically_known_true(count == 0):
        return x.clone()
    before = torch.ops.aten.slice(x, dim, None, start or 0)
    first = before.shape[dim]
    if step == 1:
        return torch.cat((before, source, torch.ops.aten.slice(x, dim, first + count)), dim)
    places = torch.arange(x.shape[dim], device=x.device) - first
    rows = torch.div(places, step, rounding_mode="floor")
    written = (places >= 0) & (rows < count) & (rows * step == places)
    spread = source.index_select(dim, rows.clamp(0, count - 1))
    return torch.where(written.view([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]), spread, x)


def select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """x with source in the place of one element of a dimension."""
    return slice_scatter(x, source.unsqueeze(dim), dim, index)


# Each returns NotImplemented for what it leaves as it is.
ROWS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.slice_scatter.default: slice_scatter,
    torch.ops.aten.select_scatter.default: select_scatter,
}
