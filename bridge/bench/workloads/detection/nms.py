"""Workloads and peers of nms: many boxes and few, of which many or few are kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench.peer import Call, Peer, imported
from bridge.bench.workload import DTYPES, Workload

_PAIRS = 1 << 24  # pairs of boxes that are compared at a time
_TIE = 1e-5  # an overlap this near the threshold may be on either side of it


@dataclass(frozen=True)
class Nms(Workload):
    """nms of `count` boxes in a 4096 x 4096 image, clustered around `objects` centres; 0: every box has its own.

    A floor counts boxes and scores, not comparisons: which pairs must be compared depends on where boxes lie.
    """

    count: int = 1000
    objects: int = 0
    threshold: float = 0.5
    captured = False  # the extent of its result depends on values, so the CPU waits for it

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """boxes: [count, 4], whose sides are 16 to 128; scores: [count]."""
        dtype = DTYPES[self.dtype]
        cluster_centres = torch.rand(self.objects or self.count, 2, device=device) * 4096
        cluster = torch.arange(self.count, device=device) % len(cluster_centres)
        near = 0.05 if self.objects else 0.0  # of a side
        sides = 16 * 8 ** torch.rand(len(cluster_centres), 2, device=device)[cluster]
        centres = cluster_centres[cluster] + near * sides * torch.randn(self.count, 2, device=device)
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), 1)
        return [boxes.to(dtype), torch.rand(self.count, device=device).to(dtype)], {"iou_threshold": self.threshold}

    def bytes(self) -> int:
        """Boxes and scores, without the kept indices, whose number depends on values."""
        return self.count * 5 * self.element

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any]:
        """The share of boxes that are kept or dropped wrongly.

        A box is kept if no kept box of a higher score overlaps it. An overlap at the threshold may count either way.
        """
        boxes, scores = args[0].float(), args[1]
        order = scores.sort(descending=True, stable=True).indices
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        in_order = bool((ranks[result].diff() > 0).all())
        is_kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device).index_fill_(0, result, True)
        surely_dropped = self._dropped(boxes, ranks, result, settings["iou_threshold"] + _TIE)
        possibly_dropped = self._dropped(boxes, ranks, result, settings["iou_threshold"] - _TIE)
        wrong = (is_kept & surely_dropped) | (~is_kept & ~possibly_dropped)
        share = float(wrong.float().mean())
        return {"error": share, "pytorch_error": 0.0, "right": in_order and share == 0}

    def difference(self, results: Any, peer_results: Any) -> float:
        """The share of the boxes that only one of the two keeps."""
        (kept,), (peer_kept,) = results, peer_results
        different = set(kept.tolist()) ^ set(peer_kept.tolist())
        return len(different) / max(len(kept), len(peer_kept), 1)

    def _dropped(self, boxes: Tensor, ranks: Tensor, kept: Tensor, threshold: float) -> Tensor:
        """[N], whether a kept box of a higher score overlaps a box by more than a threshold."""
        dropped = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        for part in kept.split(max(1, _PAIRS // len(boxes))):
            before = ranks[part][:, None] < ranks[None]
            dropped |= ((_overlaps(boxes[part], boxes) > threshold) & before).any(0)
        return dropped


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of [A, 4] and [B, 4], [A, B]."""
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b)]
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    both = sides.clamp(min=0).prod(2)
    return both / (areas[0][:, None] + areas[1][None] - both)


# Boxes of one image in published detectors: how many, around how many objects, and the threshold. The RPN of Faster
# R-CNN with FPN (Lin et al. 2017), all levels at once: 1,000 of each of P2 to P5 and the 741 anchors of P6 at 800 x
# 1216. The boxes of all classes that RetinaNet (Lin et al. 2017) keeps, 1,000 a level. SSD300's 8,732 (Liu et al.
# 2016). What YOLOv8 (Jocher et al. 2023) takes at most while it is validated, 30,000 for a threshold of 0.7.
_MODELS: tuple[tuple[str, int, int, float], ...] = (
    ("Faster R-CNN, RPN", 4741, 1000, 0.7),
    ("RetinaNet", 4741, 100, 0.5),
    ("SSD300", 8732, 400, 0.45),
    ("YOLOv8, validation", 30_000, 300, 0.7),
)


def workloads() -> Iterable[Workload]:
    """Three sizes, with many kept boxes and with few, and those of published detectors."""
    for count in (1000, 10_000, 100_000):
        yield Nms("nms", f"{count} boxes, few stay", "float32", count=count, objects=max(20, count // 500))
        yield Nms("nms", f"{count} boxes, many stay", "float32", count=count)
    yield Nms("nms", "10000 boxes, few stay", "float16", count=10_000, objects=20)
    for name, count, objects, threshold in _MODELS:
        yield Nms("nms", name, "float32", count=count, objects=objects, threshold=threshold)
    for power in range(6, 19, 3):
        yield Nms("nms", f"boxes {2**power}", "float32", "growth", count=2**power, objects=max(1, 2**power // 32))


def _torchvision(workload: Nms, settings: dict[str, Any]) -> Call:
    nms = imported("torchvision.ops", "nms")
    return lambda args: nms(args[0], args[1], **settings)


PEERS = (Peer("torchvision", "nms", _torchvision),)
