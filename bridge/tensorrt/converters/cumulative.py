"""Cumulative sums by TensorRT's layer of that name.

torch_tensorrt makes a loop, whose sums are float32 whatever is summed, so that integers above 2^24 are rounded; and no
CUDA graph can hold a loop. transformers' causal masks have a running sum, which tells packed sequences apart.
"""

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from bridge.tensorrt.converters.layers import Layers

CUMSUM = torch.ops.aten.cumsum.default


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """The sums of a tensor of float32 or int64, rounded once to the result's dtype; NotImplemented for one of these."""
    result = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    summed = torch.float32 if result.is_floating_point else torch.int64
    if x.dim() == 0:
        return x.to(result, copy=True)
    if x.dtype == summed == result and dtype is None:
        return NotImplemented
    return CUMSUM(x.to(summed), dim).to(result)


def convert_cumsum(layers: Layers, x: Any, dim: int) -> Any:
    """The sums along an axis, in the dtype of x."""
    axis = layers.constant(dim % len(x.shape), numpy.int32)
    kind = layers.trt.CumulativeOperation.SUM
    return layers.output(layers.network.add_cumulative(x, axis, kind, False, False))


# Each returns NotImplemented for what it leaves as it is.
ROWS: dict[Any, Callable[..., Any]] = {
    CUMSUM: cumsum,
}
