"""deform_conv2d as one grid sampling layer and a matrix product.

The samples of all taps, [N, C, kernel height * kernel width, OH * OW], are materialised. Coordinates and samples are
float32. Samples, and sums before the bias, are rounded to the dtype of x. Coordinates are scaled to TensorRT's grid,
-1 to 1, which TensorRT undoes: a few float32 roundings of the map's extent. Offsets that are not finite give what
TensorRT computes.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy

from bridge.tensorrt.converters.layers import Extent, Layers
from bridge.tensorrt.native_lowerings import PLUGIN, Default, lacks
from bridge.tensorrt.plugins.fields import Call

_MEMORY = "the layers write every tap's samples to memory, which the plugin does not"
DEFAULTS = {"tensorrt": Default(PLUGIN, _MEMORY), "tensorrt_rtx": Default(PLUGIN, _MEMORY)}


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be converted: reshaping into groups needs fixed numbers of channels."""
    return refusal_of_channels(call, trt, "offset")


def refusal_of_channels(call: Call, trt: ModuleType, offsets: str) -> str | None:
    """The same of an op whose offsets come in the tensor of that name."""
    channels = {name: call.extents(name)[1] for name in ("x", offsets)}
    channels |= {f"weight dimension {axis}": extent for axis, extent in enumerate(call.extents("weight"))}
    dynamic = [name for name, extent in channels.items() if extent < 0]
    if dynamic:
        return f"the number of channels of {dynamic[0]} is dynamic; the layers need a number"
    return lacks(trt, "add_grid_sample")


def add(layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Samples of every tap, weighted by the mask, times the weights of each group; then the bias."""
    x, offset, weight, bias, mask = tensors
    assert x is not None and offset is not None and weight is not None
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    taps, groups = kernel_h * kernel_w, x.shape[1] // group_channels
    n, _, out_h, out_w = layers.extents(offset)
    points = layers.product(out_h, out_w)
    samples = _samples(layers, x, offset, (kernel_h, kernel_w), points, attributes)  # [N * G, C/G, K, OH * OW]
    if mask is not None:
        shape = [layers.product(n, mask.shape[1] // taps), 1, taps, points]
        samples = layers.multiply(samples, layers.reshape(_wide(layers, mask), shape))
    columns = layers.reshape(layers.cast(samples, x.dtype), [n, groups, group_channels * taps, points])
    kernels = layers.reshape(weight, [1, groups, out_channels // groups, group_channels * taps])
    out = layers.reshape(layers.matrix_multiply(kernels, columns), [n, out_channels, out_h, out_w])
    if bias is not None:
        out = layers.add(out, layers.reshape(bias, [1, out_channels, 1, 1]))
    return (out,)


def _samples(
    layers: Layers, x: Any, offset: Any, kernel: tuple[int, int], points: Extent, attributes: Mapping[str, Any]
) -> Any:
    """Bilinear samples [N * G, C/G, K, OH * OW] of G offset groups and K taps, zero beyond the map."""
    taps = kernel[0] * kernel[1]
    groups = offset.shape[1] // (2 * taps)
    n, channels, height, width = layers.extents(x)
    batch = layers.product(n, groups)
    maps = layers.reshape(_wide(layers, x), [batch, channels // groups, height, width])
    axes = [_coordinates(layers, offset, axis, (height, width)[axis], kernel, attributes) for axis in (1, 0)]
    grid = layers.concatenate([layers.reshape(axis, [batch, taps, points, 1]) for axis in axes], 3)  # x before y
    layer = layers.network.add_grid_sample(maps, grid)
    if layer is not None:
        layer.interpolation_mode = layers.trt.InterpolationMode.LINEAR
        layer.align_corners = False
        layer.sample_mode = layers.trt.SampleMode.FILL
    return layers.output(layer)


def _coordinates(
    layers: Layers, offset: Any, axis: int, extent: Extent, kernel: tuple[int, int], attributes: Mapping[str, Any]
) -> Any:
    """[N, G * K, OH, OW], the y (axis 0) or x (axis 1) of every sample: -1 and 1 are the outer edges of the map."""
    stride, padding, dilation = (attributes[name][axis] for name in ("stride", "padding", "dilation"))
    count = layers.extents(offset)[2 + axis]
    starts = layers.reshape(layers.arange(count, -padding, stride), [1, 1, count, 1] if axis == 0 else [1, 1, 1, count])
    shifts = _wide(layers, layers.slice(offset, 1, axis, offset.shape[1] // 2, 2))
    taps = layers.constant(_taps(offset.shape[1] // 2, axis, kernel, dilation))
    pixels = layers.add(layers.add(shifts, starts), taps)
    doubled = layers.add(layers.add(pixels, pixels), layers.constant([[[[1.0]]]]))
    return layers.subtract(layers.divide(doubled, _number(layers, extent)), layers.constant([[[[1.0]]]]))


def _taps(count: int, axis: int, kernel: tuple[int, int], dilation: int) -> numpy.ndarray:
    """[1, G * K, 1, 1], the position of each tap of each offset group, in pixels."""
    pixels = numpy.indices(kernel)[axis].reshape(-1) * dilation
    return numpy.tile(pixels, count // pixels.size).reshape(1, -1, 1, 1)


def _number(layers: Layers, extent: Extent) -> Any:
    """An extent as a float32 tensor of rank 4."""
    if isinstance(extent, int):
        return layers.constant([[[[extent]]]])
    return layers.reshape(_wide(layers, extent), [1, 1, 1, 1])


def _wide(layers: Layers, tensor: Any) -> Any:
    return layers.cast(tensor, layers.trt.DataType.FLOAT)
