"""Cumulative sums by TensorRT's layer of that name.

torch_tensorrt makes a loop, whose sums are float32 whatever is summed, so that integers above 2^24 are rounded.
"""

from typing import Any

import numpy
import torch
from torch import Tensor

from bridge.tensorrt.layers import Layers

CUMSUM = torch.ops.aten.cumsum.default


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """The sums of a tensor that has the result's dtype, of integers int64; NotImplemented for one that has it."""
    result = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    summed = result if result.is_floating_point else torch.int64
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
