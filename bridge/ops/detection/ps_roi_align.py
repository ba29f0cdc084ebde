"""Position-sensitive pooling of regions of a feature map at subpixel positions."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating
from bridge.ops.detection.roi_align import (
    Regions,
    bind_torchvisions,
    bins_of,
    check_images,
    check_regions,
    check_samples,
    regions_at_once,
)


@op
def ps_roi_align(
    x: Floating, rois: Floating, output_size: Pair = 7, spatial_scale: float = 1.0, sampling_ratio: int = -1
) -> Tensor:
    """Means of bilinear samples in the bins of a grid over each region, every bin from channels of its own.

    The semantics are torchvision.ops.ps_roi_align's, for regions given as one tensor.

    Args:
        x: [N, C, H, W], where C is a multiple of PH * PW; float32, float16 or bfloat16 (float64 on CPU).
        rois: [K, 5], as of roi_align; any of these dtypes, whatever that of x.
        output_size: bins of a region: a number, or (PH, PW).
        spatial_scale: pixels of x for one of those of rois.
        sampling_ratio: samples of a bin along each axis; 0 or less: as many as it has pixels, rounded up.
    Returns:
        [K, C / (PH * PW), PH, PW], dense, of the dtype of x. Channel c of bin (i, j) is pooled from channel
        (c * PH + i) * PW + j of x, at the samples of roi_align with aligned=True. The mean of no samples is NaN: of an
        adaptive region without area. So is the result of regions that are NaN in roi_align.
    Raises:
        OpInputError: as of roi_align; or C is no multiple of PH * PW.
    Source: Dai et al., https://arxiv.org/abs/1605.06409, with the samples of He et al.
    """
    bins = bins_of(output_size)
    check_samples("ps_roi_align", sampling_ratio)
    check_regions("ps_roi_align", x, rois, bins, spatial_scale)
    channels = channels_of_bins("ps_roi_align", x, bins)
    if only_shapes():
        return x.new_empty(rois.shape[0], channels, *bins)

    wide = torch.float64 if torch.float64 in (x.dtype, rois.dtype) else torch.float32
    regions, maps = rois.to(wide), x.to(wide)
    if not is_fake(rois):
        check_images("ps_roi_align", rois, x.shape[0])
    parts = [regions] if is_fake(rois) else regions.split(regions_at_once(channels, bins, sampling_ratio))
    pooled = [_pool(maps, part, channels, bins, spatial_scale, sampling_ratio) for part in parts]
    return torch.cat(pooled).to(x.dtype)


def channels_of_bins(op_name: str, x: Tensor, bins: tuple[int, int]) -> int:
    """The channels of a result that takes a channel of x for each bin. OpInputError: there is no such number."""
    count = bins[0] * bins[1]
    fits = x.shape[1] % count == 0
    require(fits, f"{op_name}: x has {x.shape[1]} channels, expected a multiple of the {bins[0]} x {bins[1]} bins")
    return x.shape[1] // count


def _pool(
    maps: Tensor, rois: Tensor, channels: int, bins: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """[K, channels, PH, PW]: of each bin's taps along both axes, TY and TX, every pair is gathered."""
    count, (batch, _, height, width) = rois.shape[0], maps.shape
    if batch == 0:
        return rois.new_full((count, channels, *bins), float("nan"))
    regions = Regions(rois, maps, bins, spatial_scale, sampling_ratio, aligned=True)
    rows, row_weights = (_by_bin(taps, bins[0])[..., None, None] for taps in regions.y.taps())  # [K, PH, TY, 1, 1]
    columns, column_weights = (_by_bin(taps, bins[1])[:, None, None] for taps in regions.x.taps())  # [K, 1, 1, PW, TX]
    images = regions.images.reshape(count, 1, 1, 1, 1)
    place_y = torch.arange(bins[0], device=maps.device).reshape(-1, 1, 1, 1)
    place_x = torch.arange(bins[1], device=maps.device).reshape(-1, 1)
    by_bin = maps.reshape(batch, channels, *bins, height, width)
    values = by_bin[images, :, place_y, place_x, rows, columns]  # [K, PH, TY, PW, TX, channels]
    weights = (row_weights * column_weights).unsqueeze(5)
    # where, not a product with zero: an infinite pixel must not leak.
    sums = torch.where(weights != 0, weights * values, 0).sum((2, 4))
    means = sums / regions.samples[:, None, None, None]
    return torch.where(regions.right[:, None, None, None], means, float("nan")).permute(0, 3, 1, 2)


def _by_bin(taps: Tensor, bins: int) -> Tensor:
    return taps.reshape(taps.shape[0], bins, taps.shape[1] // bins)


bind_torchvisions("ps_roi_align")
