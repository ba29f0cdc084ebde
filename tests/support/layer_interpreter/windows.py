"""Layers that look at a neighbourhood: convolution, pooling, resizing, sampling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layer_interpreter.data import constant
from layer_interpreter.table import integers, layer, require, wide


def _pads(layer: Any, extents: Sequence[int], window: Sequence[int], steps: Sequence[int]) -> list[tuple[int, int]]:
    """Elements before and after each axis. window: with its dilation."""
    mode = layer.padding_mode.name
    if mode.startswith("EXPLICIT"):
        return list(zip(layer.pre_padding, layer.post_padding, strict=True))
    pads = []
    for extent, size, step in zip(extents, window, steps, strict=True):
        total = max((extent - 1) // step * step + size - extent, 0)
        pads.append((total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2))
    return pads


def _pad(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [amount for pair in reversed(pads) for amount in pair]
    return torch.nn.functional.pad(x, flat, value=value)


def _weights(layer: Any, x: Tensor, kernel: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Any:
    if kernel is None:
        kernel = constant(layer.kernel, tuple(shape))
    if bias is None and layer.bias.size:
        bias = constant(layer.bias, (layer.num_output_maps,))
    require(kernel.dtype == x.dtype, f"convolution of {x.dtype} with {kernel.dtype}")
    require(bias is None or bias.dtype == x.dtype, f"convolution of {x.dtype} with a bias of another dtype")
    return wide(kernel), None if bias is None else wide(bias)


@layer("CONVOLUTION")
def _convolution(trt: Any, layer: Any, x: Tensor, kernel: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    window, steps, dilation = list(layer.kernel_size_nd), list(layer.stride_nd), list(layer.dilation_nd)
    rank = len(window)
    require(x.dim() == rank + 2, f"convolution of {x.dim()} dimensions by a window of {rank}")
    groups = layer.num_groups
    weight, shift = _weights(layer, x, kernel, bias, (layer.num_output_maps, x.shape[1] // groups, *window))
    require(list(weight.shape[2:]) == window, f"kernel {tuple(weight.shape)}, window {window}")
    dilated_window = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    require(layer.padding_mode.name != "EXPLICIT_ROUND_UP", "convolution that rounds up")
    padded = _pad(wide(x), _pads(layer, x.shape[2:], dilated_window, steps))
    function = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[rank]
    return function(padded, weight, shift, steps, 0, dilation, groups).to(x.dtype)


@layer("DECONVOLUTION")
def _deconvolution(trt: Any, layer: Any, x: Tensor, kernel: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    window, steps, dilation = list(layer.kernel_size_nd), list(layer.stride_nd), list(layer.dilation_nd)
    rank, groups = len(window), layer.num_groups
    require(x.dim() == rank + 2, f"deconvolution of {x.dim()} dimensions by a window of {rank}")
    weight, shift = _weights(layer, x, kernel, bias, (x.shape[1], layer.num_output_maps // groups, *window))
    require(layer.padding_mode.name.startswith("EXPLICIT"), "deconvolution with implicit padding")
    function: Any = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}[rank]
    full = function(wide(x), weight, shift, steps, 0, 0, groups, dilation)
    crop = [(-before, -after) for before, after in zip(layer.pre_padding, layer.post_padding, strict=True)]
    return _pad(full, crop, float(0)).to(x.dtype)


@layer("POOLING")
def _pooling(trt: Any, layer: Any, x: Tensor) -> Tensor:
    window, steps = list(layer.window_size_nd), list(layer.stride_nd)
    rank, pooling = len(window), layer.type.name
    require(x.dim() >= rank + 2, f"pooling of {x.dim()} dimensions by a window of {rank}")
    require(x.is_floating_point(), f"pooling of {x.dtype}")
    extents = x.shape[-rank:]
    pads = _pads(layer, extents, window, steps)
    rounds_up = layer.padding_mode.name in ("EXPLICIT_ROUND_UP", "SAME_UPPER", "SAME_LOWER")
    round_up_pads = []
    for extent, (before, after), size, step in zip(extents, pads, window, steps, strict=True):
        left = extent + before + after - size
        require(left >= 0, f"a window of {size} over {extent + before + after}")
        round_up_pads.append((0, -left % step if rounds_up else 0))
    if pooling == "MAX":
        padded = _pad(_pad(wide(x), pads, -torch.inf), round_up_pads, -torch.inf)
        return _unfold(padded, window, steps).amax(list(range(-rank, 0))).to(x.dtype)
    require(pooling == "AVERAGE", f"pooling {pooling}")
    ones = torch.ones(extents)
    counted = _pad(ones, pads, 0.0 if layer.average_count_excludes_padding else 1.0)
    counts = _unfold(_pad(counted, round_up_pads), window, steps).sum(list(range(-rank, 0)))
    sums = _unfold(_pad(_pad(wide(x), pads), round_up_pads), window, steps).sum(list(range(-rank, 0)))
    return (sums / counts).to(x.dtype)


def _unfold(x: Tensor, window: Sequence[int], steps: Sequence[int]) -> Tensor:
    """[..., *positions, *window]"""
    first = x.dim() - len(window)
    for axis, (size, step) in enumerate(zip(window, steps, strict=True)):
        x = x.unfold(first + axis, size, step)
    return x


@layer("RESIZE")
def _resize(trt: Any, layer: Any, x: Tensor, shape: Tensor | None = None) -> Tensor:
    if shape is not None:
        size = integers(shape)
    elif list(layer.scales):
        size = [int(extent * scale) for extent, scale in zip(x.shape, layer.scales, strict=True)]
    else:
        size = list(layer.shape)
    result = x.double() if x.is_floating_point() else x
    changed = [axis for axis, extent in enumerate(size) if extent != x.shape[axis]]
    spatial = 2 if layer.resize_mode == trt.InterpolationMode.CUBIC else 8 if "NEAREST" in str(layer.resize_mode) else 3
    require(all(axis >= x.dim() - spatial for axis in changed), f"resize of {tuple(x.shape)} to {size}")
    for axis in range(max(x.dim() - spatial, 0), x.dim()):
        if x.shape[axis] == size[axis] and layer.resize_mode == trt.InterpolationMode.NEAREST:
            continue
        result = _resize_axis(layer, result, axis, size[axis])
    return result.to(x.dtype)


def _resize_axis(layer: Any, x: Tensor, axis: int, size: int) -> Tensor:
    extent, mode = x.shape[axis], layer.resize_mode.name
    positions = _coordinates(layer, extent, size)
    if mode == "NEAREST":
        return x.index_select(axis, _rounded(layer, positions).clamp(0, extent - 1).long())
    matrix = torch.zeros(size, extent, dtype=torch.float64)
    low = torch.floor(positions)
    if mode == "LINEAR":
        positions = positions.clamp(0, extent - 1)
        low = torch.floor(positions)
        taps = [(0, 1 - (positions - low)), (1, positions - low)]
    else:
        taps = list(zip(range(-1, 3), _cubic(positions - low, layer.cubic_coeff), strict=True))
    rows = torch.arange(size)
    for offset, weight in taps:
        at = low.long() + offset
        if layer.exclude_outside:
            weight = weight * ((at >= 0) & (at < extent))
        matrix.index_put_((rows, at.clamp(0, extent - 1)), weight, accumulate=True)
    if layer.exclude_outside:
        matrix = matrix / matrix.sum(1, keepdim=True)
    return torch.tensordot(x, matrix, ([axis], [1])).movedim(-1, axis)


def _coordinates(layer: Any, extent: int, size: int) -> Tensor:
    positions = torch.arange(size, dtype=torch.float64)
    if size == 1 and layer.selector_for_single_pixel.name == "UPPER":
        return torch.zeros_like(positions)
    transformation = layer.coordinate_transformation.name
    if transformation == "ALIGN_CORNERS":
        return positions * (extent - 1) / max(size - 1, 1)
    if transformation == "ASYMMETRIC":
        return positions * extent / size
    return (positions + 0.5) * extent / size - 0.5


def _rounded(layer: Any, positions: Tensor) -> Tensor:
    rounding = layer.nearest_rounding.name
    if rounding == "HALF_UP":
        return torch.floor(positions + 0.5)
    if rounding == "HALF_DOWN":
        return torch.ceil(positions - 0.5)
    return torch.floor(positions) if rounding == "FLOOR" else torch.ceil(positions)


def _cubic(t: Tensor, a: float) -> list[Tensor]:
    """Keys' weights of the four neighbours."""

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


@layer("GRID_SAMPLE")
def _grid_sample(trt: Any, layer: Any, x: Tensor, grid: Tensor) -> Tensor:
    require(x.dim() == grid.dim() == 4, f"sampling of {x.dim()} dimensions")
    if x.numel() == 0 or grid.numel() == 0:
        return x.new_zeros(*x.shape[:2], *grid.shape[1:3])
    mode = {"LINEAR": "bilinear", "NEAREST": "nearest", "CUBIC": "bicubic"}[layer.interpolation_mode.name]
    pads = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}[layer.sample_mode.name]
    sampled = torch.nn.functional.grid_sample(wide(x), wide(grid), mode, pads, layer.align_corners)
    return sampled.to(x.dtype)
