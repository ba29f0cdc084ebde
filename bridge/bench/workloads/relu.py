"""Workloads and peers of relu."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Peer, Prepare, Wrap, compiled, plain
from bridge.bench.workload import DTYPES, Workload


@dataclass(frozen=True)
class Relu(Workload):
    """relu of `count` elements."""

    count: int = 0
    negative_slope: float = 0.0
    max_value: float = float("inf")

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x: [count]."""
        return [self._random(device, self.count)], {"negative_slope": self.negative_slope, "max_value": self.max_value}

    def bytes(self) -> int:
        """x and y."""
        return 2 * self.count * self.element


def workloads() -> Iterable[Workload]:
    """More elements than a cache holds, and fewer."""
    yield Relu("relu", "2^30 elements", "bfloat16", count=2**30)
    yield Relu("relu", "2^30 elements, slope and clip", "bfloat16", count=2**30, negative_slope=0.1, max_value=6.0)
    for dtype in DTYPES:
        yield Relu("relu", "2^24 elements", dtype, count=2**24)


def _activation(wrap: Wrap) -> Prepare:
    def prepare(workload: Relu, settings: dict[str, Any]) -> Call:
        slope, most = settings["negative_slope"], settings["max_value"]

        def relu(x: Tensor) -> Tensor:
            y = F.leaky_relu(x, slope) if slope else F.relu(x)
            return y.clamp_max(most) if most != float("inf") else y

        wrapped = wrap(relu)
        return lambda args: wrapped(args[0])

    return prepare


PEERS = (Peer("eager", "relu", _activation(plain)), Peer("inductor", "relu", _activation(compiled)))
