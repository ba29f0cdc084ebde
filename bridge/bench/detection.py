"""Workloads of a detector's ops: roi_align, and nms by how many boxes there are and how many of them stay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench.workload import DTYPES, Workload

_PAIRS = 1 << 24  # that are looked at at once
_TIE = 1e-5  # an overlap this near the threshold may be on either side of it


@dataclass(frozen=True)
class RoiAlign(Workload):
    """roi_align of `count` float32 regions, whose sides are 7 to 28 pixels of the map as a feature pyramid's are."""

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
        """x, or as much as few regions can touch; rois; and the result."""
        pixels, bins = self.batch * self.size[0] * self.size[1], self.count * self.output_size**2
        if self.sampling_ratio > 0:
            pixels = min(pixels, 4 * bins * self.sampling_ratio**2)
        return self._bytes(pixels)

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """With as much of x as its regions touch."""
        rois, scale = args[1], settings["spatial_scale"]
        rows, columns = (
            self._touched(rois[:, place] * scale - 0.5, rois[:, place + 2] * scale - 0.5, extent)
            for place, extent in ((2, self.size[0]), (1, self.size[1]))
        )
        pixels = 0
        for image in range(self.batch):
            inside = (rois[:, 0] == image)[:, None]
            pixels += int(((rows * inside).T @ columns > 0).sum())
        return self._bytes(pixels)

    def _touched(self, first: Tensor, last: Tensor, extent: int) -> Tensor:
        """[regions, extent], 1 where the samples of a region from `first` to `last` read a row, or a column."""
        count = self.output_size * (self.sampling_ratio or extent)  # as near as pixels, if not nearer
        shares = (torch.arange(count, device=first.device) + 0.5) / count
        places = first[:, None] + shares * (last - first)[:, None]
        low = places.clamp(min=0).floor().long().clamp(max=extent - 1)
        found = torch.zeros(len(first), extent, device=first.device)
        return found.scatter_(1, low, 1.0).scatter_(1, (low + 1).clamp(max=extent - 1), 1.0)

    def _bytes(self, pixels: int) -> int:
        bins = self.count * self.output_size**2
        return (pixels + bins) * self.channels * self.element + self.count * 5 * 4


def roi_align() -> Iterable[Workload]:
    """Of the maps of a feature pyramid, and of one that is small and deep."""
    for channels_last in (False, True):
        order = "channels-last" if channels_last else "NCHW"
        for dtype in DTYPES:
            yield RoiAlign("roi_align", f"FPN, {order}", dtype, channels_last=channels_last)
        variations: dict[str, dict[str, Any]] = {
            "mask head": {"count": 200, "output_size": 14},
            "one image": {"batch": 1, "count": 100},
            "adaptive": {"channels": 1024, "size": (50, 76), "count": 300, "output_size": 14, "sampling_ratio": 0},
        }
        for name, changes in variations.items():
            yield RoiAlign("roi_align", f"{name}, {order}", "float16", channels_last=channels_last, **changes)
        for power in range(0, 13, 3):
            name = f"regions {2**power}, {order}"
            yield RoiAlign("roi_align", name, "float16", "growth", count=2**power, channels_last=channels_last)


@dataclass(frozen=True)
class Nms(Workload):
    """nms of `count` boxes in an image of 4096 x 4096, which stand around `objects` places; a box alone has its own."""

    count: int = 1000
    objects: int = 0
    captured = False  # its result has an extent of its own, which the CPU waits for

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """boxes: [count, 4], whose sides are 16 to 128; scores: [count]."""
        dtype = DTYPES[self.dtype]
        places = torch.rand(self.objects or self.count, 2, device=device) * 4096
        chosen = torch.arange(self.count, device=device) % len(places)
        near = 0.05 if self.objects else 0.0  # of a side
        sides = 16 * 8 ** torch.rand(len(places), 2, device=device)[chosen]
        centres = places[chosen] + near * sides * torch.randn(self.count, 2, device=device)
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), 1)
        return [boxes.to(dtype), torch.rand(self.count, device=device).to(dtype)], {"iou_threshold": 0.5}

    def bytes(self) -> int:
        """Boxes and scores; the indices that are kept are as many as they are."""
        return self.count * 5 * self.element

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any]:
        """The share of boxes that are kept or dropped wrongly: a box stays if no box that stays before it overlaps it.

        That defines the result, whatever the number of boxes; overlaps at the threshold itself may be on either side.
        """
        boxes, scores = args[0].float(), args[1]
        order = scores.sort(descending=True, stable=True).indices
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        in_order = bool((ranks[result].diff() > 0).all())
        stays = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device).index_fill_(0, result, True)
        low = self._dropped(boxes, ranks, result, settings["iou_threshold"] + _TIE)
        high = self._dropped(boxes, ranks, result, settings["iou_threshold"] - _TIE)
        wrong = (stays & low) | (~stays & ~high)
        share = float(wrong.float().mean())
        return {"error": share, "pytorch_error": 0.0, "right": in_order and share == 0}

    def difference(self, ours: Any, theirs: Any) -> float:
        """The share of the boxes that one of both keeps alone."""
        (mine,), (other,) = ours, theirs
        alone = set(mine.tolist()) ^ set(other.tolist())
        return len(alone) / max(len(mine), len(other), 1)

    def _dropped(self, boxes: Tensor, ranks: Tensor, kept: Tensor, threshold: float) -> Tensor:
        """[N], whether a kept box of a higher score overlaps a box by more than a threshold."""
        found = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        for part in kept.split(max(1, _PAIRS // len(boxes))):
            before = ranks[part][:, None] < ranks[None]
            found |= ((_overlaps(boxes[part], boxes) > threshold) & before).any(0)
        return found


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of [A, 4] and [B, 4], [A, B]."""
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b)]
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    both = sides.clamp(min=0).prod(2)
    return both / (areas[0][:, None] + areas[1][None] - both)


def nms() -> Iterable[Workload]:
    """Of three sizes, each with many boxes that stay and with few, as before and after a detector's own choice."""
    for count in (1000, 10_000, 100_000):
        yield Nms("nms", f"{count} boxes, few stay", "float32", count=count, objects=max(20, count // 500))
        yield Nms("nms", f"{count} boxes, many stay", "float32", count=count)
    yield Nms("nms", "10000 boxes, few stay", "float16", count=10_000, objects=20)
    for power in range(6, 19, 3):
        yield Nms("nms", f"boxes {2**power}", "float32", "growth", count=2**power, objects=max(1, 2**power // 32))
