"""Workloads and peers of roi_pool; those of ps_roi_pool and ps_roi_align have its regions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from bridge.bench.peer import Call, Peer, Untimed, imported
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class RegionPooling(Workload):
    """Pooling of `count` float32 regions with sides of 4 to 28 pixels of the map; spatial_scale is 1/16.

    results: the channels of the result. sampling_ratio: None for an op that does not sample.
    position_sensitive: whether each bin has channels of its own.
    """

    batch: int = 1
    results: int = 512
    size: tuple[int, int] = (38, 63)  # of an image of 600 x 1000, after four strides
    count: int = 300
    output_size: int = 7
    sampling_ratio: int | None = None
    position_sensitive: bool = False

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x and rois."""
        sides = 4 * 7 ** torch.rand(self.count, 2, device=device)
        extents = torch.tensor(self.size[::-1], device=device)
        first = torch.rand(self.count, 2, device=device) * (extents - sides).clamp(min=0)
        images = torch.randint(0, self.batch, (self.count, 1), device=device)
        rois = torch.cat((images, 16 * first, 16 * (first + sides)), 1)
        settings: dict[str, Any] = {"output_size": [self.output_size] * 2, "spatial_scale": 1 / 16}
        if self.sampling_ratio is not None:
            settings["sampling_ratio"] = self.sampling_ratio
        return [self._random(device, self.batch, self._channels(), *self.size), rois], settings

    def bytes(self) -> int:
        """x, rois, and the result."""
        pixels = self.batch * self.size[0] * self.size[1] * self._channels()
        return (pixels + self.count * self.results * self.output_size**2) * self.element + self.count * 5 * 4

    def _channels(self) -> int:
        return self.results * (self.output_size**2 if self.position_sensitive else 1)


def pooling_workloads(op_name: str, model: str, **settings: Any) -> Iterable[Workload]:
    """That of a published model, in the dtypes that torchvision has."""
    for dtype in ("float32", "float16"):
        yield RegionPooling(op_name, model, dtype, variation=dtype != "float16", **settings)


def torchvisions(workload: Workload, settings: dict[str, Any]) -> Call:
    """torchvision's operator of the same name, which has no bfloat16."""
    pool = imported("torchvision.ops", workload.op)
    rois = Untimed(lambda args: args[1].to(args[0].dtype))  # both must have one dtype
    return lambda args: pool(args[0], rois(args), **settings)


def workloads() -> Iterable[Workload]:
    """Fast and Faster R-CNN (Girshick 2015, Ren et al. 2015)."""
    return pooling_workloads("roi_pool", "Faster R-CNN, VGG-16")


PEERS = (Peer("torchvision", "roi_pool", torchvisions),)
