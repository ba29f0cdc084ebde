"""Running sums by TensorRT's cumulative layer.

torch_tensorrt writes a loop, and no CUDA graph can hold one. transformers' causal masks have a running sum, by which
sequences that are packed into one are told apart.
"""

from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt import dtypes, flavour
from bridge.tensorrt.layers import Layers

CUMSUM = torch.ops.aten.cumsum.default


def has_axis(node: Node) -> bool:
    """Whether a node sums along an axis, which a number has not, and this TensorRT has the layer."""
    x, layer = node.args[0], getattr(flavour.detect().trt().INetworkDefinition, "add_cumulative", None)
    return (
        layer is not None
        and isinstance(x, Node)
        and isinstance(x.meta.get("val"), torch.Tensor)
        and x.meta["val"].dim() > 0
    )


def convert_cumsum(layers: Layers, x: Any, axis: int, dtype: torch.dtype | None = None) -> Any:
    """The sums of the elements up to each one, along an axis; in 16 bits they are rounded once, as PyTorch does."""
    wanted = dtypes.from_torch(dtype) if dtype is not None else dtypes.from_trt(x.dtype)
    if dtype is None and wanted is not None and not wanted.torch.is_floating_point:
        wanted = dtypes.named("int64")  # as PyTorch sums integers and booleans
    if wanted is None:
        raise ValueError(f"sums of {dtype}, which TensorRT lacks")
    exact = dtypes.named("float32" if wanted.torch.is_floating_point else "int64")
    terms = layers.cast(x, exact.of(layers.trt))
    place = layers.constant(axis % len(x.shape), "int32")
    kind = layers.trt.CumulativeOperation.SUM
    sums = layers.output(layers.network.add_cumulative(terms, place, kind, False, False))
    return layers.cast(sums, wanted.of(layers.trt))
