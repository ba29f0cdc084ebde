"""Workloads and peers of roi_align."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Untimed, compiled, imported
from bridge.bench.workload import DTYPES, Workload


@dataclass(frozen=True)
class RoiAlign(Workload):
    """roi_align of `count` float32 regions with sides of 7 to 28 pixels of the map, as in a feature pyramid."""

    batch: int = 2
    channels: int = 256
    size: tuple[int, int] = (200, 304)  # the finest map of an image of 800 x 1216
    count: int = 1000
    output_size: int = 7
    sampling_ratio: int = 2
    channels_last: bool = False

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x and rois; spatial_scale is 1/4."""
        x = self._random(device, self.batch, self.channels, *self.size)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        sides = 7 * 4 ** torch.rand(self.count, 2, device=device)
        extents = torch.tensor(self.size[::-1], device=device)
        first = torch.rand(self.count, 2, device=device) * (extents - sides).clamp(min=0)
        images = torch.randint(0, self.batch, (self.count, 1), device=device)
        rois = torch.cat((images, 4 * first, 4 * (first + sides)), 1)
        settings = {"output_size": [self.output_size] * 2, "spatial_scale": 0.25, "aligned": True}
        return [x, rois], settings | {"sampling_ratio": self.sampling_ratio}

    def bytes(self) -> int:
        """x, at most what the regions can read; rois; and the result."""
        pixels, bins = self.batch * self.size[0] * self.size[1], self.count * self.output_size**2
        if self.sampling_ratio > 0:
            pixels = min(pixels, 4 * bins * self.sampling_ratio**2)
        return self._bytes(pixels)

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As `bytes`, with the part of x that the regions read."""
        rois, pixels = args[1], 0
        rows, columns = self._read(rois, settings["spatial_scale"])
        for image in range(self.batch):
            inside = (rois[:, 0] == image)[:, None]
            pixels += int(((rows * inside).T @ columns > 0).sum())
        return self._bytes(pixels)

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """Each pixel that a region reads, once for that region: its samples may share what they read."""
        rows, columns = self._read(args[1], settings["spatial_scale"])
        return int((rows.sum(1) * columns.sum(1)).sum()) * self.channels * self.element

    def _read(self, rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """[regions, height] and [regions, width], 1 where a region reads a row, and a column."""
        sides = ((2, self.size[0]), (1, self.size[1]))
        rows, columns = (
            self._touched(rois[:, column] * scale - 0.5, rois[:, column + 2] * scale - 0.5, extent)
            for column, extent in sides
        )
        return rows, columns

    def _touched(self, first: Tensor, last: Tensor, extent: int) -> Tensor:
        """[regions, extent], 1 where the samples of a region from `first` to `last` read a row, or a column."""
        count = self.output_size * (self.sampling_ratio or extent)  # adaptive: samples at least as dense as pixels
        shares = (torch.arange(count, device=first.device) + 0.5) / count
        positions = first[:, None] + shares * (last - first)[:, None]
        low = positions.clamp(min=0).floor().long().clamp(max=extent - 1)
        read_mask = torch.zeros(len(first), extent, device=first.device)
        return read_mask.scatter_(1, low, 1.0).scatter_(1, (low + 1).clamp(max=extent - 1), 1.0)

    def _bytes(self, pixels: int) -> int:
        bins = self.count * self.output_size**2
        return (pixels + bins) * self.channels * self.element + self.count * 5 * 4


# Pooling of published detectors on images of 800 x 1216, besides: Faster and Mask R-CNN with FPN (Lin et al., He et al.
# 2017) call it once a level. torchvision samples twice a bin, 1,000 regions an image and 100 for masks; Detectron2 as
# densely as pixels lie, and 512 regions an image while it trains.
_MODELS: dict[str, dict[str, Any]] = {
    "Faster R-CNN, P2": {"batch": 1},
    "Faster R-CNN, P3": {"batch": 1, "size": (100, 152), "count": 300, "variation": True},
    "Faster R-CNN, P5": {"batch": 1, "size": (25, 38), "count": 60, "variation": True},
    "Faster R-CNN, 8 images": {"batch": 8, "count": 8000, "variation": True},
    "Faster R-CNN, training": {"batch": 16, "count": 16 * 512, "variation": True},
    "Faster R-CNN, Detectron2": {"batch": 1, "sampling_ratio": 0},
    "Mask R-CNN, masks": {"batch": 1, "count": 100, "output_size": 14},
    "Mask R-CNN, masks of 8 images": {"batch": 8, "count": 800, "output_size": 14, "variation": True},
}


def workloads() -> Iterable[Workload]:
    """Maps of a feature pyramid, a small deep one, and those of published detectors."""
    for channels_last in (False, True):
        order = "channels-last" if channels_last else "NCHW"
        for dtype in DTYPES:
            variation = dtype != "float16"
            yield RoiAlign("roi_align", f"FPN, {order}", dtype, variation=variation, channels_last=channels_last)
        variations: dict[str, dict[str, Any]] = {
            "mask head": {"count": 200, "output_size": 14},
            "one image": {"batch": 1, "count": 100},
            "adaptive": {"channels": 1024, "size": (50, 76), "count": 300, "output_size": 14, "sampling_ratio": 0},
        }
        for name, changes in (variations | _MODELS).items():
            yield RoiAlign("roi_align", f"{name}, {order}", "float16", channels_last=channels_last, **changes)
        for power in range(0, 13, 3):
            name = f"regions {2**power}, {order}"
            yield RoiAlign("roi_align", name, "float16", "growth", count=2**power, channels_last=channels_last)


def _torchvision(workload: RoiAlign, settings: dict[str, Any]) -> Call:
    roi_align = imported("torchvision.ops", "roi_align")
    rois = Untimed(lambda args: args[1].to(args[0].dtype))  # both must have one dtype
    return lambda args: roi_align(args[0], rois(args), **settings)


def _in_torch(workload: RoiAlign, settings: dict[str, Any]) -> Call:
    """torchvision's fallback in PyTorch's operations, fused by Inductor."""
    torch_roi_align = imported("torchvision.ops.roi_align", "_roi_align")
    height, width = settings["output_size"]
    scale, ratio, aligned = (settings[name] for name in ("spatial_scale", "sampling_ratio", "aligned"))
    if ratio <= 0:
        raise Missing("with adaptive sampling it takes memory for as many samples as the map has pixels")
    pooled = compiled(lambda x, rois: torch_roi_align(x, rois, scale, height, width, ratio, aligned))
    rois = Untimed(lambda args: args[1].to(args[0].dtype))
    return lambda args: pooled(args[0], rois(args))


PEERS = (
    Peer("torchvision", "roi_align", _torchvision),
    Peer("inductor", "roi_align", _in_torch, compiles=True),
)
