"""Workloads and peers of ps_roi_align."""

from collections.abc import Iterable

from bridge.bench.peer import Peer
from bridge.bench.workload import Workload
from bridge.bench.workloads.roi_pool import pooling_workloads, torchvisions


def workloads() -> Iterable[Workload]:
    """Light-Head R-CNN (Li et al. 2017): a thin map of 490 channels."""
    models = {"Light-Head R-CNN": {}, "8 images": {"batch": 8, "count": 2400}}
    return pooling_workloads("ps_roi_align", models, results=10, sampling_ratio=2, position_sensitive=True)


PEERS = (Peer("torchvision", "ps_roi_align", torchvisions),)
