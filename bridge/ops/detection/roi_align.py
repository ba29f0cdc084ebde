"""Pooling of regions of a feature map at subpixel positions."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from bridge.core.binding import bind
from bridge.core.foreign import Arguments, SortedArguments, reason_unknown
from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating

_MOST = 1 << 12  # of output_size and sampling_ratio
_MOST_SAMPLES = 2**24  # of an adaptive grid along an axis: beyond it float32 does not tell samples apart
_AT_ONCE = 1 << 25  # pixels that the reference gathers at a time


@op
def roi_align(
    x: Floating,
    rois: Floating,
    output_size: Pair = 7,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Means of bilinear samples in the bins of a grid over each region.

    The semantics are torchvision.ops.roi_align's, for regions given as one tensor.

    Args:
        x: [N, C, H, W]; float32, float16 or bfloat16 (float64 on CPU). On a GPU the channels-last memory format is
            taken as it is, and is faster.
        rois: [K, 5], rows of (image, x1, y1, x2, y2), the last four in pixels of what x is a map of; any of these
            dtypes, whatever that of x.
        output_size: bins of a region: a number, or (PH, PW).
        spatial_scale: pixels of x for one of those of rois.
        sampling_ratio: samples of a bin along each axis; 0 or less: as many as it has pixels, rounded up.
        aligned: whether a pixel's centre, and not its corner, is at its whole coordinates. Without it a region is one
            pixel of x wide and high at least.
    Returns:
        [K, C, PH, PW], dense, of the dtype of x; coordinates and sums are float32 whatever the dtype. Samples beyond
        -1 and the extent of x count as zero. A pixel that counts nothing for a bin is not read: infinities do not
        leak. NaN for a region with a coordinate that is not finite, or with more than 2^24 adaptive samples along an
        axis; on a GPU also for one whose image x has not.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; on CPU also an image that x has not; a gradient
            that is traced while sampling_ratio is 0 or less. The message names the value.
    Source: He et al., https://arxiv.org/abs/1703.06870, section 3. It has gradients with respect to x and rois;
        torchvision's has none with respect to rois.
    """
    bins = bins_of(output_size)
    check_samples("roi_align", sampling_ratio)
    check_regions("roi_align", x, rois, bins, spatial_scale)
    if only_shapes():
        return x.new_empty(rois.shape[0], x.shape[1], *bins)

    wide = torch.float64 if torch.float64 in (x.dtype, rois.dtype) else torch.float32
    regions, maps = rois.to(wide), x.to(wide)
    if not is_fake(rois):
        check_images("roi_align", rois, x.shape[0])
    parts = [regions] if is_fake(rois) else regions.split(regions_at_once(x.shape[1], bins, sampling_ratio))
    pooled = [_pool(maps, part, bins, spatial_scale, sampling_ratio, aligned) for part in parts]
    return torch.cat(pooled).to(x.dtype)


def bins_of(output_size: Pair) -> tuple[int, int]:
    """The bins of a region along y and x."""
    return (output_size, output_size) if isinstance(output_size, int) else (output_size[0], output_size[1])


def check_samples(op_name: str, sampling_ratio: int) -> None:
    """OpInputError: there are too many samples."""
    require(sampling_ratio <= _MOST, f"{op_name}: sampling_ratio is {sampling_ratio}, expected at most {_MOST}")


def check_regions(op_name: str, x: Tensor, rois: Tensor, bins: tuple[int, int], spatial_scale: float) -> None:
    """OpInputError: a map, regions or attributes that do not fit; for every op over regions."""
    for extent in bins:
        fits = 1 <= extent <= _MOST
        require(fits, f"{op_name}: output_size is {bins[0]} x {bins[1]}, expected 1 to {_MOST}")
    finite = abs(spatial_scale) <= torch.finfo(torch.float32).max
    require(finite, f"{op_name}: spatial_scale is {spatial_scale:g}, expected a finite number of float32")
    require(x.dim() == 4, f"{op_name}: x must have 4 dimensions, got shape {tuple(x.shape)}")
    fits = rois.dim() == 2 and rois.shape[1] == 5
    require(fits, f"{op_name}: rois has shape {tuple(rois.shape)}, expected [rois, 5]")
    _, channels, height, width = x.shape
    require(channels < 1 << 31, f"{op_name}: x has {channels} channels, 2^31 or more")
    fits = 0 < height * width < 1 << 31
    require(fits, f"{op_name}: the feature map of {height} x {width} has no pixel, or 2^31 or more")


def check_images(op_name: str, rois: Tensor, batch: int) -> None:
    """OpInputError: a region is in an image that is not there. On CPU; a kernel cannot raise, and gives NaN."""
    if rois.device.type != "cpu":
        return
    wrong = (~((rois[:, 0] > -1) & (rois[:, 0] < batch))).nonzero()
    if wrong.numel():
        row = int(wrong[0])
        image = rois[row, 0].item()
        require(False, f"{op_name}: row {row} of rois is in image {image:g}, but x has {batch} images, from 0 on")


def regions_at_once(channels: int, bins: tuple[int, int], sampling_ratio: int) -> int:
    """How many regions a reference pools at a time."""
    samples = sampling_ratio if sampling_ratio > 0 else 4
    return max(1, _AT_ONCE // max(channels * bins[0] * bins[1] * 4 * samples**2, 1))


def _pool(
    maps: Tensor, rois: Tensor, bins: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """[K, C, PH, PW]: of the regions' taps along both axes, [K, PH * TY] and [K, PW * TX], every pair is gathered."""
    channels, count = maps.shape[1], rois.shape[0]
    if maps.shape[0] == 0:
        return rois.new_full((count, channels, *bins), float("nan"))
    regions = Regions(rois, maps, bins, spatial_scale, sampling_ratio, aligned)
    rows, row_weights = regions.y.taps()
    columns, column_weights = regions.x.taps()
    images = regions.images[:, None, None]
    values = maps[images, :, rows[:, :, None], columns[:, None, :]]  # [K, PH * TY, PW * TX, C]
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).unsqueeze(3)
    # where, not a product with zero: an infinite pixel must not leak.
    terms = torch.where(weights != 0, weights * values, 0)
    taps = rows.shape[1] // bins[0], columns.shape[1] // bins[1]
    sums = terms.reshape(count, bins[0], taps[0], bins[1], taps[1], channels).sum((2, 4))
    means = sums / regions.samples.clamp(min=1)[:, None, None, None]
    return torch.where(regions.right[:, None, None, None], means, float("nan")).permute(0, 3, 1, 2)


class Regions:
    """Where regions are sampled. images, right, samples: [K]; right: whether a region has a result."""

    def __init__(
        self,
        rois: Tensor,
        maps: Tensor,
        bins: tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> None:
        known = (rois[:, 0] > -1) & (rois[:, 0] < maps.shape[0])
        self.images = torch.where(known, rois[:, 0], 0).long()
        scaled = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
        height, width = maps.shape[2:]
        self.x = Axis(scaled[:, 0], scaled[:, 2], bins[1], width, sampling_ratio, aligned)
        self.y = Axis(scaled[:, 1], scaled[:, 3], bins[0], height, sampling_ratio, aligned)
        self.right = known & self.y.finite & self.x.finite
        self.samples = self.y.samples * self.x.samples


class Axis:
    """The samples of regions along one axis; start, end: [K], in pixels of the map."""

    def __init__(self, start: Tensor, end: Tensor, bins: int, extent: int, sampling_ratio: int, aligned: bool) -> None:
        length = end - start
        self._extent, self._bins = extent, bins
        bin_size = (length if aligned else length.clamp(min=1)) / bins
        samples = bin_size.detach().ceil() if sampling_ratio <= 0 else torch.full_like(bin_size, sampling_ratio)
        self.finite = start.isfinite() & end.isfinite() & length.isfinite()
        if sampling_ratio <= 0:
            self.finite = self.finite & (samples <= _MOST_SAMPLES)
        # Regions that are not finite are sampled once at 0, and their results replaced.
        self._start, self._bin = torch.where(self.finite, start, 0), torch.where(self.finite, bin_size, 1)
        self.samples = torch.where(self.finite, samples, 1)
        self._most = 2 * extent + 8  # adaptive samples are more than half a pixel apart: no more lie on the map
        self._adaptive = sampling_ratio <= 0
        self._looked_at = self._longest() if self._adaptive else sampling_ratio

    def _longest(self) -> int:
        """The largest number of samples in a bin that are looked at."""
        require(
            not is_fake(self.samples),
            "roi_align and ps_roi_align: with sampling_ratio 0 or less the number of samples depends on values, and "
            "the gradient cannot be traced: give it a sampling_ratio of 1 or more, or leave it out of what"
            " torch.compile compiles",
        )
        return min(int(self.samples.max().clamp(min=1)), self._most) if self.samples.numel() else 1

    def taps(self) -> tuple[Tensor, Tensor]:
        """Pixels and weights, each [K, bins * 2 * samples]; a sample's two pixels follow each other."""
        left = self._lefts()
        numbers = torch.arange(self._looked_at, dtype=left.dtype, device=left.device)
        numbers = numbers + self._first(left).unsqueeze(2)  # [K, bins, samples]
        size, samples = self._bin[:, None, None], self.samples[:, None, None]
        positions = left.unsqueeze(2) + (numbers + 0.5) * size / samples.clamp(min=1)
        valid = (numbers < samples) & (positions >= -1) & (positions <= self._extent)
        inside = torch.where(valid, positions, 0).clamp(min=0)
        low = inside.detach().floor().clamp(max=self._extent - 1)
        part = torch.where(low >= self._extent - 1, torch.zeros_like(inside), inside - low)
        high = (low + 1).clamp(max=self._extent - 1)
        pixels = torch.stack((low, high), -1).long()
        weights = torch.stack((1 - part, part), -1) * valid.unsqueeze(-1)
        return pixels.flatten(1), weights.flatten(1)

    def _lefts(self) -> Tensor:
        """Where bins begin, [K, bins]."""
        places = torch.arange(self._bins, dtype=self._start.dtype, device=self._start.device)
        return self._start[:, None] + places * self._bin[:, None]

    def _first(self, left: Tensor) -> Tensor:
        """The number of the first sample that is looked at, [K, bins]: 0 where all of them are."""
        before = ((-1 - left) * self.samples[:, None] / self._bin[:, None]).detach().floor() - 2
        skips = self._adaptive & (self.samples > self._most)[:, None]
        return torch.where(skips, before.clamp(min=0), 0)


_BINS = ("pooled_height", "pooled_width")


def bind_torchvisions(op_name: str) -> None:
    """Binds torchvision's operator of the same name, whose bins are two arguments."""

    def sort(given: Arguments) -> SortedArguments:
        attributes = {name: value for name, value in given.items() if name not in ("input", "rois", *_BINS)}
        return [given["input"], given["rois"]], {"output_size": tuple(given[name] for name in _BINS), **attributes}

    bind(f"torchvision::{op_name}", op_name, arguments=sort, reason_against=lambda given: reason_unknown(given, _BINS))


bind_torchvisions("roi_align")
