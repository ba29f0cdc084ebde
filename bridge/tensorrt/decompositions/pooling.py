"""Pooling that TensorRT's pooling layer lacks: adaptive and dilated windows, ceil_mode, and the indices of maxima.

The elements of the windows are gathered, axis by axis, and reduced. This works for dynamic extents, reads each element
about once, and rounds like a single sum.
"""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import known, known_equal
from bridge.tensorrt.decompositions.ordering import first_index
from bridge.tensorrt.decompositions.windows import Axis, Windows, adaptive_windows, with_trailing_ones

aten = torch.ops.aten
_state = threading.local()  # within `_by_layer` max pooling is not decomposed


def adaptive_avg_pool(x: Tensor, output_size: Sequence[Any]) -> Tensor:
    """x [..., *extents] to [..., *output_size]; means of windows that may differ by one element.

    torch_tensorrt's converter is right if the output divides the extents; otherwise it takes windows of one size.
    """
    rank = len(output_size)
    sizes = list(zip(range(-rank, 0), x.shape[-rank:], output_size, strict=True))
    if all(isinstance(extent, int) and isinstance(out, int) and extent % out == 0 for _, extent, out in sizes):
        return NotImplemented
    wide = x.float()
    for axis, extent, out in sizes:
        if known_equal(extent, out):
            continue
        if known_equal(out, 1):
            wide = wide.mean(axis, keepdim=True)
            continue
        windows = adaptive_windows(extent, out, x.device)
        total = torch.where(windows.mask(axis), windows.gather(wide, axis), 0).sum(axis)
        wide = total / with_trailing_ones(windows.inside.sum(1), -axis - 1)
    return wide.to(x.dtype)


def adaptive_max_pool(x: Tensor, output_size: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """x [..., *extents] to maxima [..., *output_size], and their indices into the flattened extents."""
    rank = len(output_size)
    windows = [adaptive_windows(*pair, x.device) for pair in zip(x.shape[-rank:], output_size, strict=True)]
    values = x
    for axis, out in enumerate(output_size, -rank):
        values = values.amax(axis, keepdim=True) if known_equal(out, 1) else _axis_maxima(values, windows[axis], axis)
    return values, _max_indices(x, windows)


def max_pool_with_indices(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
    *,
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Maxima of windows, and their indices into the flattened map; unused results are removed as dead code."""
    if getattr(_state, "within", False):
        return NotImplemented
    axes = _axes(x, rank, kernel_size, stride, padding, dilation, ceil_mode)
    windows = [axis.windows(x.device) for axis in axes]
    if any(axis.dilation != 1 for axis in axes) or not x.is_floating_point():  # the layer takes floats alone
        return _maxima(x, windows), _max_indices(x, windows)
    padded = _pad(x, [0] * rank, [axis.missing for axis in axes], _lowest(x.dtype))
    return _cut(_layer_max(padded, axes), axes), _max_indices(x, windows)


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    rank: int,
) -> Tensor:
    """Means of windows. Those that ceil_mode adds reach beyond the padding, and are divided by what they cover."""
    axes = _axes(x, rank, kernel_size, stride, padding, (1,), ceil_mode)
    pads = [axis.pad for axis in axes]
    if divisor_override is None and (not ceil_mode or all(axis.fits for axis in axes)):
        plain = not ceil_mode and x.dim() == rank + 2
        return NotImplemented if plain else _layer_avg(x, axes, pads, count_include_pad)
    padded = _pad(x, pads, [axis.pad + axis.missing for axis in axes], 0)
    means = _cut(_layer_avg(padded, axes, [0] * rank, True), axes)
    area = math.prod(axis.kernel for axis in axes)
    if divisor_override is not None:
        return means * (area / divisor_override)
    scale: Any = float(area)
    for index, axis in enumerate(axes):
        scale = scale / with_trailing_ones(axis.counted(count_include_pad, x.device).float(), rank - 1 - index)
    return (means.float() * scale).to(x.dtype)


def _maxima(x: Tensor, windows: Sequence[Windows]) -> Tensor:
    for axis in range(-len(windows), 0):
        x = _axis_maxima(x, windows[axis], axis)
    return x


def _axis_maxima(x: Tensor, windows: Windows, axis: int) -> Tensor:
    return torch.where(windows.mask(axis), windows.gather(x, axis), _lowest(x.dtype)).amax(axis)


def _max_indices(x: Tensor, windows: Sequence[Windows]) -> Tensor:
    """The index of each window's first maximum into the flattened extents, [..., *outs]."""
    rank = len(windows)
    lead, extents = x.dim() - rank, x.shape[-rank:]
    flat: Any = 0
    inside: Any = True
    for axis, axis_windows in enumerate(windows):
        x = axis_windows.gather(x, axis - rank)
        shape = [1, 1] * axis + list(axis_windows.positions.shape) + [1, 1] * (rank - axis - 1)
        flat = flat * extents[axis] + axis_windows.positions.reshape(shape)
        inside = axis_windows.inside.reshape(shape) & inside
    order = [*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]  # [out, k, out, k] to [out, out, k, k]
    values = torch.where(inside, x, _lowest(x.dtype)).permute(*range(lead), *[lead + index for index in order])
    positions = flat.permute(order).flatten(rank).expand(*values.shape[: lead + rank], -1)
    best = first_index(values.flatten(lead + rank), -1, torch.amax, inside.permute(order).flatten(rank))
    return positions.gather(-1, best.unsqueeze(-1)).squeeze(-1)


def _layer_max(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    kernel, steps, pads = [a.kernel for a in axes], [a.step for a in axes], [a.pad for a in axes]
    with _by_layer():
        return _batched(lambda y: _MAX_POOLS[len(axes)](y, kernel, steps, pads)[0], x, len(axes))


def _layer_avg(x: Tensor, axes: Sequence[Axis], pads: list[int], count_include_pad: bool) -> Tensor:
    kernel, steps = [a.kernel for a in axes], [a.step for a in axes]
    layer = _AVG_POOLS[len(axes)]
    return _batched(lambda y: layer(y, kernel, steps, pads, False, count_include_pad), x, len(axes))


@contextlib.contextmanager
def _by_layer() -> Iterator[None]:
    _state.within = True
    try:
        yield
    finally:
        _state.within = False


def _batched(run: Callable[[Tensor], Tensor], x: Tensor, rank: int) -> Tensor:
    """Pools [*lead, *extents] as maps with one channel, where there is no batch, or the channels are dynamic.

    TensorRT's pooling needs both dimensions, and torch_tensorrt's converter fixed channels.
    """
    lead = x.shape[:-rank]
    if len(lead) == 2 and known(lead[1]):
        return run(x)
    pooled = run(x.reshape(-1, 1, *x.shape[-rank:]))
    return pooled.reshape(*lead, *pooled.shape[-rank:])


def _axes(x: Tensor, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> list[Axis]:
    """The axes of a pooling, whose settings are one number or one per axis."""
    settings = [_per_axis(values, rank) for values in (kernel, stride or kernel, padding, dilation)]
    return [Axis(extent, k, s, p, d, ceil_mode) for extent, k, s, p, d in zip(x.shape[-rank:], *settings, strict=True)]


def _cut(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    for index, axis in enumerate(axes, -len(axes)):
        if not known_equal(x.shape[index], axis.out):
            x = x.narrow(index, 0, axis.out)
    return x


def _pad(x: Tensor, starts: Sequence[int], ends: Sequence[int], value: float) -> Tensor:
    if not any(starts) and not any(ends):
        return x
    widths = [width for pair in zip(reversed(starts), reversed(ends), strict=True) for width in pair]
    return torch.nn.functional.pad(x, widths, value=value)


def _per_axis(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * rank if len(values) == 1 else list(values)


def _lowest(dtype: torch.dtype) -> float | int:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


_MAX_POOLS = {2: aten.max_pool2d_with_indices.default, 3: aten.max_pool3d_with_indices.default}
_AVG_POOLS = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.avg_pool2d.default: functools.partial(avg_pool, rank=2),
    aten.avg_pool3d.default: functools.partial(avg_pool, rank=3),
    aten.max_pool2d_with_indices.default: functools.partial(max_pool_with_indices, rank=2),
    aten.max_pool3d_with_indices.default: functools.partial(max_pool_with_indices, rank=3),
}
