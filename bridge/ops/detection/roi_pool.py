"""Pooling of regions of a feature map: the largest of whole pixels."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from bridge.core.op import Pair, only_shapes, op
from bridge.core.tensors import Floating
from bridge.ops.detection.roi_align import bind_torchvisions, bins_of, check_images, check_regions

_AT_ONCE = 1 << 25  # pixels that a reference looks at at a time


@op
def roi_pool(x: Floating, rois: Floating, output_size: Pair = 7, spatial_scale: float = 1.0) -> Tensor:
    """Maxima of the whole pixels in the bins of a grid over each region.

    The semantics are torchvision.ops.roi_pool's, for regions given as one tensor.

    Args:
        x: [N, C, H, W]; float32, float16 or bfloat16 (float64 on CPU).
        rois: [K, 5], as of roi_align; any of these dtypes, whatever that of x.
        output_size: bins of a region: a number, or (PH, PW).
        spatial_scale: pixels of x for one of those of rois.
    Returns:
        [K, C, PH, PW], dense, of the dtype of x; regions are float32 whatever the dtype. Corners are rounded to whole
        pixels, halves away from zero, and the last pixel belongs to a region. Bins share pixels where their edges lie
        within one. A bin without a pixel on the map is 0; pixels that are NaN do not count, and of those that are -inf
        the maximum is the least finite number. NaN for a region with a coordinate that is not finite; on a GPU also
        for one whose image x has not.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; on CPU also an image that x has not.
    Source: Girshick, https://arxiv.org/abs/1504.08083, section 2.1.
    """
    bins = bins_of(output_size)
    check_regions("roi_pool", x, rois, bins, spatial_scale)
    if only_shapes():
        return x.new_empty(rois.shape[0], x.shape[1], *bins)
    if not is_fake(rois):
        check_images("roi_pool", rois, x.shape[0])
    pooled = [_pool(x, part, bins, spatial_scale) for part in in_parts(x, rois)]
    return torch.cat(pooled)


def _pool(x: Tensor, rois: Tensor, bins: tuple[int, int], spatial_scale: float) -> Tensor:
    """[K, C, PH, PW], row by row of bins, and column by column."""
    if x.shape[0] == 0:
        return x.new_full((rois.shape[0], x.shape[1], *bins), float("nan"))
    windows = Windows(rois, x, bins, spatial_scale, further=1, margin=0)
    lowest = -torch.finfo(torch.float32).max
    maps = x[windows.images].to(x.dtype if x.dtype == torch.float64 else torch.float32)
    maps = torch.where(maps > lowest, maps, lowest)  # [K, C, H, W]
    rows = [torch.where(mask[:, None, :, None], maps, lowest).amax(2) for mask in windows.rows.unbind(1)]
    lines = torch.stack(rows, 2)  # [K, C, PH, W]
    columns = [torch.where(mask[:, None, None], lines, lowest).amax(3) for mask in windows.columns.unbind(1)]
    return windows.result(torch.stack(columns, 3), x.dtype)


def in_parts(x: Tensor, rois: Tensor) -> list[Tensor]:
    """Some regions at a time, for references that take each with its map."""
    pixels = max(x.shape[1] * x.shape[2] * x.shape[3], 1)
    return [rois] if is_fake(rois) else list(rois.split(max(1, _AT_ONCE // pixels)))


class Windows:
    """The pixels of each bin of regions.

    images: [K]. rows, columns: which belong to a bin, [K, PH, H] and [K, PW, W].
    further: pixels that count as a region's beyond its rounded end. margin: rows and columns that no window reaches.
    """

    def __init__(
        self, rois: Tensor, x: Tensor, bins: tuple[int, int], spatial_scale: float, further: int, margin: int
    ) -> None:
        given = rois.detach().float()
        known = (given[:, 0] > -1) & (given[:, 0] < x.shape[0])
        corners = _rounded(given[:, 1:] * spatial_scale)
        starts, lengths = corners[:, :2], corners[:, 2:] - corners[:, :2] + further
        self._right = known & starts.isfinite().all(1) & lengths.isfinite().all(1)
        self.images = torch.where(known, given[:, 0], 0).long()
        right = self._right[:, None]
        starts, lengths = torch.where(right, starts, 0), torch.where(right, lengths, 1)
        self.rows = _masks(starts[:, 1], lengths[:, 1], bins[0], x.shape[2], margin)
        self.columns = _masks(starts[:, 0], lengths[:, 0], bins[1], x.shape[3], margin)
        self.counts = self.rows.sum(2)[:, :, None] * self.columns.sum(2)[:, None]  # [K, PH, PW]

    def result(self, pooled: Tensor, dtype: torch.dtype) -> Tensor:
        """pooled [K, C, PH, PW] where a bin has pixels, 0 where it has none; NaN for regions without a result."""
        filled = torch.where(self.counts[:, None] > 0, pooled, 0)
        return torch.where(self._right[:, None, None, None], filled, float("nan")).to(dtype)


def _masks(start: Tensor, length: Tensor, bins: int, extent: int, margin: int) -> Tensor:
    """Which pixels of an axis belong to each bin, [K, bins, extent]; start, length: [K], in whole pixels."""
    places = torch.arange(bins, dtype=torch.float32, device=start.device)
    # By a tensor: on a GPU PyTorch divides by a number as it multiplies with its reciprocal, which rounds twice.
    size = (length.clamp(min=1) / torch.full_like(length, bins))[:, None]
    first = ((places * size).floor() + start[:, None]).clamp(0, extent - margin)
    end = (((places + 1) * size).ceil() + start[:, None]).clamp(0, extent - margin)
    pixels = torch.arange(extent, dtype=torch.float32, device=start.device)
    return (pixels >= first[:, :, None]) & (pixels < end[:, :, None])


def _rounded(x: Tensor) -> Tensor:
    """Whole numbers, halves away from zero; torch.round takes halves to even ones."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


bind_torchvisions("roi_pool")
