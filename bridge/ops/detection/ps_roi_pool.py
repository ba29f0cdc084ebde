"""Position-sensitive pooling of regions of a feature map: means of whole pixels."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from bridge.core.op import Pair, only_shapes, op
from bridge.core.tensors import Floating
from bridge.ops.detection.ps_roi_align import channels_of_bins
from bridge.ops.detection.roi_align import bind_torchvisions, bins_of, check_images, check_regions
from bridge.ops.detection.roi_pool import Windows, in_parts


@op
def ps_roi_pool(x: Floating, rois: Floating, output_size: Pair = 7, spatial_scale: float = 1.0) -> Tensor:
    """Means of the whole pixels in the bins of a grid over each region, every bin from channels of its own.

    The semantics are torchvision.ops.ps_roi_pool's, for regions given as one tensor.

    Args:
        x: [N, C, H, W], where C is a multiple of PH * PW; float32, float16 or bfloat16 (float64 on CPU).
        rois: [K, 5], as of roi_align; any of these dtypes, whatever that of x.
        output_size: bins of a region: a number, or (PH, PW).
        spatial_scale: pixels of x for one of those of rois.
    Returns:
        [K, C / (PH * PW), PH, PW], dense, of the dtype of x; regions and sums are float32 whatever the dtype. Channel c
        of bin (i, j) is pooled from channel (c * PH + i) * PW + j of x. Corners are rounded to whole pixels, halves
        away from zero. As in torchvision the last pixel does not belong to a region, nor the map's last row or column
        to any. A bin without a pixel is 0. NaN for the same regions as in roi_pool.
    Raises:
        OpInputError: as of roi_pool; or C is no multiple of PH * PW.
    Source: Dai et al., https://arxiv.org/abs/1605.06409.
    """
    bins = bins_of(output_size)
    check_regions("ps_roi_pool", x, rois, bins, spatial_scale)
    channels = channels_of_bins("ps_roi_pool", x, bins)
    if only_shapes():
        return x.new_empty(rois.shape[0], channels, *bins)
    if not is_fake(rois):
        check_images("ps_roi_pool", rois, x.shape[0])
    return torch.cat([_pool(x, part, channels, bins, spatial_scale) for part in in_parts(x, rois)])


def _pool(x: Tensor, rois: Tensor, channels: int, bins: tuple[int, int], spatial_scale: float) -> Tensor:
    """[K, channels, PH, PW], row by row of bins, and column by column."""
    if x.shape[0] == 0:
        return x.new_full((rois.shape[0], channels, *bins), float("nan"))
    windows = Windows(rois, x, bins, spatial_scale, further=0, margin=1)
    maps = x[windows.images].to(x.dtype if x.dtype == torch.float64 else torch.float32)
    by_bin = maps.reshape(rois.shape[0], channels, *bins, *x.shape[2:])  # [K, channels, PH, PW, H, W]
    rows = windows.rows[:, None, :, None, :, None]
    lines = torch.where(rows, by_bin, 0).sum(4)  # [K, channels, PH, PW, W]
    sums = torch.where(windows.columns[:, None, None], lines, 0).sum(4)
    return windows.result(sums / windows.counts[:, None].clamp(min=1), x.dtype)


bind_torchvisions("ps_roi_pool")
