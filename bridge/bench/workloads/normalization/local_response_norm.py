"""Workloads and peers of local_response_norm."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Peer, Prepare, Wrap, compiled, plain
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class LocalResponseNorm(Workload):
    """local_response_norm of x: `shape`."""

    shape: tuple[int, ...] = ()
    size: int = 5
    k: float = 1.0

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x; alpha and beta are the models'."""
        return [self._random(device, *self.shape)], {"size": self.size, "alpha": 1e-4, "beta": 0.75, "k": self.k}

    def batched(self) -> tuple[int, ...]:
        """x."""
        return (0,)

    def bytes(self) -> int:
        """x and y once."""
        return 2 * math.prod(self.shape) * self.element


# Layers of published models. AlexNet (Krizhevsky et al. 2012) before and after pooling, as there and as Caffe has it;
# GoogLeNet (Szegedy et al. 2015), pool1 and conv2.
_MODELS: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("AlexNet conv1", (128, 96, 55, 55), {"k": 2.0}),
    ("AlexNet conv2", (128, 256, 27, 27), {"k": 2.0}),
    ("CaffeNet pool1", (128, 96, 27, 27), {}),
    ("AlexNet conv1, one image", (1, 96, 55, 55), {"k": 2.0}),
    ("GoogLeNet pool1", (32, 64, 56, 56), {}),
    ("GoogLeNet conv2", (32, 192, 56, 56), {}),
    ("GoogLeNet conv2, one image", (1, 192, 56, 56), {}),
)


_DEFAULT = ("AlexNet conv1", "AlexNet conv2", "AlexNet conv1, one image", "GoogLeNet conv2")


def workloads() -> Iterable[Workload]:
    """Layers of published models, the first in float32 too; others when they are named, and other windows."""
    for place, (name, shape, settings) in enumerate(_MODELS):
        for dtype in ("float16",) if place else ("float16", "float32"):
            group = "default" if name in _DEFAULT else "growth"
            variation = name not in ("AlexNet conv1", "GoogLeNet conv2")
            yield LocalResponseNorm("local_response_norm", name, dtype, group, variation, shape=shape, **settings)
    for size in (3, 7, 9, 15):
        shape = (32, 192, 56, 56)
        yield LocalResponseNorm("local_response_norm", f"window {size}", "float16", "growth", shape=shape, size=size)


def _in_torch(wrap: Wrap) -> Prepare:
    def prepare(workload: LocalResponseNorm, settings: dict[str, Any]) -> Call:
        def norm(x: Tensor) -> Tensor:
            return F.local_response_norm(x, **settings)

        wrapped = wrap(norm)
        return lambda args: wrapped(args[0])

    return prepare


PEERS = (
    Peer("eager", "local_response_norm", _in_torch(plain)),
    Peer("inductor", "local_response_norm", _in_torch(compiled), compiles=True),
)
