"""Workloads and peers of ps_roi_align."""

from collections.abc import Iterable

from bridge.bench.peer import Peer
from bridge.bench.workload import Workload
from bridge.bench.workloads.detection.roi_pool import pooling_workloads, torchvisions


def workloads() -> Iterable[Workload]:
    """Light-Head R-CNN (Li et al. 2017): a thin map of 490 channels."""
    settings = {"results": 10, "sampling_ratio": 2, "position_sensitive": True}
    return pooling_workloads("ps_roi_align", "Light-Head R-CNN", **settings)


PEERS = (Peer("torchvision", "ps_roi_align", torchvisions, waits=True),)
