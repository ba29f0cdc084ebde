"""Workloads and peers of deform_roi_pool."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench.peer import Call, Peer, Untimed, imported
from bridge.bench.workload import Workload
from bridge.bench.workloads.detection.roi_align import RoiAlign


@dataclass(frozen=True)
class DeformRoiPool(RoiAlign):
    """deform_roi_pool of the regions of roi_align, with offsets.

    spread: the standard deviation of the offsets, which count gamma times a region's extent: 1 is a tenth of it.
    """

    spread: float = 1.0

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x, rois and offset."""
        (x, rois), settings = super().arguments(device)
        del settings["aligned"]
        offset = self._random(device, self.count, 2, self.output_size, self.output_size) * self.spread
        return [x, rois, offset], {**settings, "gamma": 0.1}

    def bytes(self) -> int:
        """As of roi_align, and offsets."""
        return super().bytes() + self._offsets()

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As of roi_align, and offsets: what bins read that moved apart is not counted."""
        return super().traffic(args, settings) + self._offsets()

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """Each pixel of a bin's samples once for that bin; bins share none, for each moves by itself."""
        rows, columns = self._of_bins(args[1], settings["spatial_scale"])
        return int((rows * columns).sum()) * self.channels * self.element

    def _of_bins(self, rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Rows and columns that a bin of each region reads at least, times its bins along that axis; [regions]."""
        samples = max(self.sampling_ratio, 1)
        sides = (rois[:, 3:] - rois[:, 1:3]) * scale / self.output_size
        least = (sides * (samples - 1) / samples).floor() + 1
        return self.output_size * least[:, 1], self.output_size * least[:, 0]

    def _offsets(self) -> int:
        return self.count * 2 * self.output_size**2 * self.element


def workloads() -> Iterable[Workload]:
    """Faster R-CNN with deformable RoI pooling (Zhu et al. 2019; mmdetection): on the finest map of its pyramid, and
    that of one map (Dai et al. 2017)."""
    for channels_last in (False, True):
        order = "channels-last" if channels_last else "NCHW"
        settings: dict[str, Any] = {"channels_last": channels_last, "batch": 1}
        yield DeformRoiPool("deform_roi_pool", f"Faster R-CNN dpool, P2, {order}", "float16", **settings)
        one_map: dict[str, Any] = {"size": (38, 63), "count": 300, "sampling_ratio": 4}
        group = "growth" if channels_last else "default"
        yield DeformRoiPool("deform_roi_pool", f"R-FCN, one map, {order}", "float16", group, **settings, **one_map)
    name = "Faster R-CNN dpool, P2, NCHW"
    yield DeformRoiPool("deform_roi_pool", name, "float32", "growth", batch=1)


def _mmcv(workload: DeformRoiPool, settings: dict[str, Any]) -> Call:
    pool = imported("mmcv.ops.deform_roi_pool", "deform_roi_pool")
    given = Untimed(lambda args: [args[0].contiguous(), args[1].to(args[0].dtype), args[2]])
    order = [settings[name] for name in ("output_size", "spatial_scale", "sampling_ratio", "gamma")]
    return lambda args: pool(*given(args), *order)


def _roi_align(workload: DeformRoiPool, settings: dict[str, Any]) -> Call:
    """roi_align, which has no offsets."""
    roi_align = imported("torchvision.ops", "roi_align")
    rois = Untimed(lambda args: args[1].to(args[0].dtype))
    plain = {name: value for name, value in settings.items() if name != "gamma"}
    return lambda args: roi_align(args[0], rois(args), **plain, aligned=True)


PEERS = (
    Peer("mmcv", "deform_roi_pool", _mmcv),
    Peer("torchvision's roi_align", "deform_roi_pool", _roi_align, bound=True),
)
