"""Workloads and peers of ps_roi_pool."""

from collections.abc import Iterable

from bridge.bench.peer import Peer
from bridge.bench.workload import Workload
from bridge.bench.workloads.detection.roi_pool import pooling_workloads, torchvisions


def workloads() -> Iterable[Workload]:
    """R-FCN (Dai et al. 2016): scores of 21 classes."""
    return pooling_workloads("ps_roi_pool", "R-FCN", results=21, position_sensitive=True)


PEERS = (Peer("torchvision", "ps_roi_pool", torchvisions),)
