"""Workloads and peers of group_norm."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Peer, Prepare, Untimed, Wrap, compiled, plain
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class GroupNorm(Workload):
    """group_norm of x: `shape`, with weight and bias."""

    shape: tuple[int, ...] = ()
    groups: int = 32
    activation: str = "silu"

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x, weight and bias."""
        weight, bias = (self._random(device, self.shape[1]) for _ in range(2))
        return [self._random(device, *self.shape), weight, bias], {"groups": self.groups, "activation": self.activation}

    def batched(self) -> tuple[int, ...]:
        """x."""
        return (0,)

    def constants(self) -> tuple[str, ...]:
        """Weight and bias."""
        return ("weight", "bias")

    def bytes(self) -> int:
        """x and y once, weight and bias."""
        return (2 * math.prod(self.shape) + 2 * self.shape[1]) * self.element


# Layers of published models. Stable Diffusion 1.5 (Rombach et al. 2022), a U-Net with classifier-free guidance, so two
# latents an image of 512 x 512: first and last resolution, and the widest input of its decoder; its VAE decoder. SDXL
# (Podell et al. 2023), 1024 x 1024. "Mask R-CNN GN" (Wu and He 2018): FPN's P2. FCOS (Tian et al. 2019): on P3.
# Style transfer (Johnson et al. 2016; Ulyanov et al. 2016): instance normalisation, with as many groups as channels.
_MODELS: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("SD 1.5 U-Net 64x64", (2, 320, 64, 64), {}),
    ("SD 1.5 U-Net 64x64, up", (2, 960, 64, 64), {}),
    ("SD 1.5 U-Net 32x32", (2, 640, 32, 32), {}),
    ("SD 1.5 U-Net 8x8", (2, 1280, 8, 8), {}),
    ("SD 1.5 U-Net 8x8, up", (2, 2560, 8, 8), {}),
    ("SD 1.5 U-Net 64x64, 8 images", (16, 320, 64, 64), {}),
    ("SD 1.5 attention 64x64", (2, 320, 64, 64), {"activation": "none"}),
    ("SDXL U-Net 128x128", (2, 320, 128, 128), {}),
    ("SDXL U-Net 32x32, up", (2, 2560, 32, 32), {}),
    ("SD VAE decoder 64x64", (1, 512, 64, 64), {}),
    ("SD VAE decoder 256x256", (1, 512, 256, 256), {}),
    ("SD VAE decoder 512x512", (1, 256, 512, 512), {}),
    ("SD VAE decoder 512x512, last", (1, 128, 512, 512), {}),
    ("SDXL VAE decoder 1024x1024", (1, 128, 1024, 1024), {}),
    ("FCOS head P3", (2, 256, 100, 152), {"activation": "relu"}),
    ("Mask R-CNN GN P2", (2, 256, 200, 304), {"activation": "none"}),
    ("style transfer, instance norm", (1, 32, 512, 512), {"groups": 32, "activation": "relu"}),
)


_DEFAULT = {
    *("SD 1.5 U-Net 64x64", "SD 1.5 U-Net 8x8", "SD 1.5 U-Net 64x64, 8 images", "SD 1.5 attention 64x64"),
    *("SDXL U-Net 128x128", "SD VAE decoder 256x256", "SD VAE decoder 512x512, last", "FCOS head P3"),
    "style transfer, instance norm",
}


def workloads() -> Iterable[Workload]:
    """Layers of published models, the first in every dtype; others when they are named, and maps that grow."""
    for place, (name, shape, settings) in enumerate(_MODELS):
        for dtype in ("float16",) if place else ("float16", "float32", "bfloat16"):
            group = "default" if name in _DEFAULT else "growth"
            variation = not name.endswith(("64x64", "256x256"))
            yield GroupNorm("group_norm", name, dtype, group, variation, shape=shape, **settings)
    for side in (8, 32, 128, 512):
        yield GroupNorm("group_norm", f"side {side}", "float16", "growth", shape=(1, 256, side, side))


_ACTIVATIONS = {"none": lambda x: x, "silu": F.silu, "relu": F.relu, "gelu": F.gelu}


def _in_torch(wrap: Wrap) -> Prepare:
    def prepare(workload: GroupNorm, settings: dict[str, Any]) -> Call:
        activation = _ACTIVATIONS[workload.activation]

        def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return activation(F.group_norm(x, workload.groups, weight, bias))

        wrapped = wrap(norm)
        return lambda args: wrapped(*args)

    return prepare


def _channels_last(workload: GroupNorm, settings: dict[str, Any]) -> Call:
    """As eager, from channels last: what a channels-last model has."""
    activation = _ACTIVATIONS[workload.activation]
    laid_out = Untimed(lambda args: args[0].contiguous(memory_format=torch.channels_last))
    return lambda args: activation(F.group_norm(laid_out(args), workload.groups, *args[1:]))


PEERS = (
    Peer("eager", "group_norm", _in_torch(plain)),
    Peer("eager, channels-last", "group_norm", _channels_last),
    Peer("inductor", "group_norm", _in_torch(compiled), compiles=True),
)
