"""Deformable pooling of regions of a feature map: bins at learned offsets."""

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating
from bridge.ops.detection.roi_align import Axis, bins_of, check_images, check_regions, check_samples, regions_at_once


@op
def deform_roi_pool(
    x: Floating,
    rois: Floating,
    offset: Floating | None = None,
    output_size: Pair = 7,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Means of bilinear samples in the bins of a grid over each region, every bin moved by an offset of its own.

    The semantics are mmcv.ops.deform_roi_pool's. Without offsets it is roi_align with aligned=True.

    Args:
        x: [N, C, H, W]; float32, float16 or bfloat16 (float64 on CPU). On a GPU the channels-last memory format is
            taken as it is.
        rois: [K, 5], as of roi_align; any of these dtypes, whatever that of x.
        offset: [K, 2, PH, PW], of each bin along x and along y, as shares of gamma times the region's width and height;
            any of these dtypes; or None for 0.
        output_size: bins of a region: a number, or (PH, PW).
        spatial_scale: pixels of x for one of those of rois.
        sampling_ratio: samples of a bin along each axis; 0 or less: as many as it has pixels, rounded up.
        gamma: factor of the offsets.
    Returns:
        [K, C, PH, PW], dense, of the dtype of x; coordinates and sums are float32 whatever the dtype. A bin whose
        offset is not finite is NaN, and regions are that are NaN in roi_align.
    Raises:
        OpInputError: as of roi_align; or offset has another shape, or gamma is not finite.
    Source: Dai et al., https://arxiv.org/abs/1703.06211, section 2.2, with the samples of He et al.
    """
    bins = bins_of(output_size)
    check_samples("deform_roi_pool", sampling_ratio)
    check_regions("deform_roi_pool", x, rois, bins, spatial_scale)
    _check_offset(rois, offset, bins, gamma)
    if only_shapes():
        return x.new_empty(rois.shape[0], x.shape[1], *bins)
    given = [tensor for tensor in (x, rois, offset) if tensor is not None]
    wide = torch.float64 if torch.float64 in [tensor.dtype for tensor in given] else torch.float32
    maps, regions = x.to(wide), rois.to(wide)
    shifts = rois.new_zeros(rois.shape[0], 2, *bins).to(wide) if offset is None else offset.to(wide)
    if not is_fake(rois):
        check_images("deform_roi_pool", rois, x.shape[0])
    count = len(rois) if is_fake(rois) else regions_at_once(x.shape[1], bins, sampling_ratio)
    parts = zip(regions.split(max(count, 1)), shifts.split(max(count, 1)), strict=True)
    settings = bins, spatial_scale, sampling_ratio, gamma
    return torch.cat([_pool(maps, part, shift, *settings) for part, shift in parts]).to(x.dtype)


def _check_offset(rois: Tensor, offset: Tensor | None, bins: tuple[int, int], gamma: float) -> None:
    require(math.isfinite(gamma), f"deform_roi_pool: gamma is {gamma}, expected a finite number")
    if offset is not None:
        shape = rois.shape[0], 2, *bins
        same = offset.dim() == 4 and all(a == b for a, b in zip(offset.shape, shape, strict=True))
        require(same, f"deform_roi_pool: offset has shape {tuple(offset.shape)}, expected {tuple(shape)}")


def _pool(
    maps: Tensor,
    rois: Tensor,
    shifts: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """[K, C, PH, PW]: of each bin's taps along both axes, TY and TX, every pair is gathered."""
    count, (batch, channels, height, width) = rois.shape[0], maps.shape
    if batch == 0:
        return rois.new_full((count, channels, *bins), float("nan"))
    known = (rois[:, 0] > -1) & (rois[:, 0] < batch)
    images = torch.where(known, rois[:, 0], 0).long().reshape(count, 1, 1, 1)
    scaled = rois[:, 1:] * spatial_scale - 0.5
    places = torch.arange(bins[0] * bins[1], device=rois.device)
    along_x, along_y = (gamma * shifts).flatten(2).unbind(1)  # [K, PH * PW]
    x = _ShiftedAxis(scaled[:, 0], scaled[:, 2], bins[1], width, sampling_ratio, places % bins[1], along_x)
    y = _ShiftedAxis(scaled[:, 1], scaled[:, 3], bins[0], height, sampling_ratio, places // bins[1], along_y)
    (rows, row_weights), (columns, column_weights) = (
        [taps.reshape(count, len(places), taps.shape[1] // len(places)) for taps in axis.taps()] for axis in (y, x)
    )
    values = maps[images, :, rows.unsqueeze(3), columns.unsqueeze(2)]  # [K, PH * PW, TY, TX, C]
    weights = (row_weights.unsqueeze(3) * column_weights.unsqueeze(2)).unsqueeze(4)
    # where, not a product with zero: an infinite pixel must not leak.
    sums = torch.where(weights != 0, weights * values, 0).sum((2, 3))
    means = sums / (y.samples * x.samples).clamp(min=1)[:, None, None]
    right = (known & y.finite & x.finite)[:, None] & along_x.isfinite() & along_y.isfinite()
    return torch.where(right.unsqueeze(2), means, float("nan")).transpose(1, 2).reshape(count, channels, *bins)


class _ShiftedAxis(Axis):
    """The samples of all bins of regions along one axis.

    places: where the bins stand along it, [B]. shares: how far they move, [K, B], of the regions' extents.
    """

    def __init__(
        self, start: Tensor, end: Tensor, bins: int, extent: int, sampling_ratio: int, places: Tensor, shares: Tensor
    ) -> None:
        super().__init__(start, end, bins, extent, sampling_ratio, aligned=True)
        moved = shares * (end - start)[:, None]
        self._places, self._moved = places, torch.where(moved.isfinite(), moved, 0)

    def _lefts(self) -> Tensor:
        return self._start[:, None] + self._moved + self._places.to(self._start.dtype) * self._bin[:, None]
