"""Adaptive average pooling in torch_tensorrt's own compile, where its converter gives wrong numbers or fails.

Its converter places windows of one size, at one step. PyTorch's windows differ by one element wherever an extent is no
multiple of the output's, and may overlap: torch_tensorrt's result is then wrong without a word, or its build fails. For
a dynamic extent it fails. Here such windows are gathered, axis by axis; dynamic extents are left to PyTorch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch.fx import Node

from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.decompositions.windows import adaptive_windows
from bridge.tensorrt.install import flavour as flavours

aten = torch.ops.aten
TARGETS = (
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool3d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)


def convert(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Adds the layers of one call. args: an ITensor, whose pooled extents are fixed, and the output's extents."""
    constants = ctx.__dict__.setdefault("bridge_constants", [])  # of which the network has pointers alone
    layers = Layers(flavours.detect().trt(), ctx.net, f"[adaptive_avg_pool]-[{name}]", constants)
    x, output_size = args[0], list(args[1])
    wide = layers.cast(x, layers.trt.float32)
    for axis, out in enumerate(output_size, len(x.shape) - len(output_size)):
        if wide.shape[axis] != out:
            wide = _pool_axis(layers, wide, axis, out)
    return layers.cast(wide, x.dtype)


def _pool_axis(layers: Layers, x: Any, axis: int, out: int) -> Any:
    """Means of the windows along one axis."""
    windows = adaptive_windows(x.shape[axis], out, torch.device("cpu"))
    before, after = [1] * axis, [1] * (len(x.shape) - axis - 1)
    inside, counts = windows.inside.numpy(), windows.inside.sum(1).numpy()
    positions = layers.constant(windows.positions.numpy(), numpy.int64)
    rows = layers.output(layers.network.add_gather(x, positions, axis))  # [..., out, k, ...]
    mask = layers.constant(inside.reshape(*before, *inside.shape, *after), numpy.bool_)
    chosen = layers.output(layers.network.add_select(mask, rows, layers.scalar_like(0, rows)))
    sums = layers.output(layers.network.add_reduce(chosen, layers.trt.ReduceOperation.SUM, 1 << (axis + 1), False))
    return layers.divide(sums, layers.constant(counts.reshape(*before, out, *after)))


def windows_of(node: Node) -> str:
    """What windows a call has: "even" ones of one size, "uneven" ones, or "unknown" ones of dynamic extents."""
    output_size: Any = node.args[1]
    extents = extents_of(node.args[0])[-len(output_size) :]
    pairs = list(zip(extents, output_size, strict=False))
    if not pairs or not all(isinstance(extent, int) and isinstance(out, int) for extent, out in pairs):
        return "unknown"
    return "even" if all(extent % out == 0 for extent, out in pairs) else "uneven"


def extents_of(x: Any) -> Sequence[Any]:
    """The shape of a node's tensor; empty where a pass of torch_tensorrt has not said what the node holds."""
    return getattr(x.meta.get("val"), "shape", ())
