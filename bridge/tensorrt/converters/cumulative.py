"""Cumulative sums by TensorRT's cumulative layer.

torch_tensorrt adds a loop with float32 sums: integers above 2^24 are rounded, and no CUDA graph can hold a loop. The
causal masks of transformers have a running sum, which separates packed sequences.
"""

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from bridge.tensorrt.converters.layers import Layers

CUMSUM = torch.ops.aten.cumsum.default


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """The sums in float32 or int64, rounded once to the result's dtype; NotImplemented for tensors of these dtypes."""
    result_dtype = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    sum_dtype = torch.float32 if result_dtype.is_floating_point else torch.int64
    if x.dim() == 0:
        return x.to(result_dtype, copy=True)
    if x.dtype == sum_dtype == result_dtype and dtype is None:
        return NotImplemented
    return CUMSUM(x.to(sum_dtype), dim).to(result_dtype)


def convert_cumsum(layers: Layers, x: Any, dim: int) -> Any:
    """The sums along an axis, in the dtype of x."""
    axis = layers.constant(dim % len(x.shape), numpy.int32)
    operation = layers.trt.CumulativeOperation.SUM
    return layers.output(layers.network.add_cumulative(x, axis, operation, False, False))


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    CUMSUM: cumsum,
}
