"""Workloads and peers of relu."""

import math
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


# Activations of published models: images a batch, channels, height, width, and what is not a plain ReLU. ResNet-50
# (He et al. 2016) after conv1; MobileNetV2 (Sandler et al. 2018), ReLU6 after the first expansion; YOLOv3 (Redmon and
# Farhadi 2018), the first layer at 416; BasicVSR++ (Chan et al. 2022), the residual blocks on 720p at a quarter.
_MODELS: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("ResNet-50 conv1", (64, 64, 112, 112), {}),
    ("MobileNetV2, ReLU6", (64, 96, 112, 112), {"max_value": 6.0}),
    ("YOLOv3, leaky", (8, 32, 416, 416), {"negative_slope": 0.1}),
    ("BasicVSR++, leaky", (1, 64, 180, 320), {"negative_slope": 0.1}),
)


def workloads() -> Iterable[Workload]:
    """More elements than a cache holds, fewer, and layers of published models."""
    yield Relu("relu", "2^30 elements", "bfloat16", count=2**30)
    yield Relu("relu", "2^30 elements, slope and clip", "bfloat16", count=2**30, negative_slope=0.1, max_value=6.0)
    for dtype in DTYPES:
        yield Relu("relu", "2^24 elements", dtype, count=2**24)
    for name, shape, settings in _MODELS:
        yield Relu("relu", name, "float16", count=math.prod(shape), **settings)


def _activation(wrap: Wrap) -> Prepare:
    def prepare(workload: Relu, settings: dict[str, Any]) -> Call:
        slope, most = settings["negative_slope"], settings["max_value"]

        def relu(x: Tensor) -> Tensor:
            y = F.leaky_relu(x, slope) if slope else F.relu(x)
            return y.clamp_max(most) if most != float("inf") else y

        wrapped = wrap(relu)
        return lambda args: wrapped(args[0])

    return prepare


PEERS = (
    Peer("eager", "relu", _activation(plain)),
    Peer("inductor", "relu", _activation(compiled), compiles=True),
)
