"""Running sums by TensorRT's cumulative layer.

torch_tensorrt writes a loop, and no CUDA graph can hold one. transformers' causal masks have a running sum, by which
sequences that are packed into one are told apart.
"""

from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt import dtypes
from bridge.tensorrt.layers import Layers

CUMSUM = torch.ops.aten.cumsum.default


def has_axis(node: Node) -> bool:
    """Whether a node sums along an axis; a number has none."""
    x = node.args[0]
    return isinstance(x, Node) and isinstance(x.meta.get("val"), torch.Tensor) and x.meta["val"].dim() > 0


def convert_cumsum(layers: Layers, x: Any, axis: int, dtype: torch.dtype | None = None) -> Any:
    """The sums of the elements up to each one, along an axis; in 16 bits they are rounded once, as PyTorch does."""
    found = dtypes.from_trt(x.dtype)
    wanted = dtypes.from_torch(dtype or (found.torch if found.torch.is_floating_point else torch.int64))
    if wanted is None:
        raise ValueError(f"sums of {dtype}, which TensorRT lacks")
    exact = torch.float32 if wanted.torch.is_floating_point else torch.int64
    terms = layers.cast(x, dtypes.from_torch(exact).of(layers.trt))
    place = layers.constant(axis % len(x.shape), "int32")
    kind = layers.trt.CumulativeOperation.SUM
    sums = layers.output(layers.network.add_cumulative(terms, place, kind, False, False))
    return layers.cast(sums, wanted.of(layers.trt))
