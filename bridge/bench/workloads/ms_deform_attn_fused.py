"""Workloads and peers of ms_deform_attn_fused, which also computes locations and weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bridge
from bridge.bench.peer import Call, Peer
from bridge.bench.workload import Workload
from bridge.bench.workloads.ms_deform_attn import MsDeformAttn, image_workloads, sampling_peers


@dataclass(frozen=True)
class MsDeformAttnFused(MsDeformAttn):
    """ms_deform_attn_fused over levels of an image."""

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """value, levels, references, offsets and logits; levels are int64."""
        levels, references, offsets, logits = self.components(device)
        return [*levels, references.to(logits.dtype).contiguous(), offsets.to(logits.dtype), logits], {}

    def locations(self, args: list[Any]) -> Tensor:
        """As Deformable DETR's module computes them."""
        return args[3][:, :, None, :, None] + args[4] / args[1].flip(1)[:, None]

    def weights(self, args: list[Any]) -> Tensor:
        """As Deformable DETR's module computes them."""
        return args[5].flatten(3).softmax(-1).view_as(args[5])

    def batched(self) -> tuple[int, ...]:
        """All but the levels."""
        return (0, 3, 4, 5)

    def bytes(self) -> int:
        """As ms_deform_attn, and the references of each query."""
        return super().bytes() + self.batch * self.count * 2 * len(self.levels) * self.element


def workloads() -> Iterable[Workload]:
    """Encoders and decoders of images."""
    return image_workloads(MsDeformAttnFused, "ms_deform_attn_fused")


def _unfused(workload: MsDeformAttnFused, settings: dict[str, Any]) -> Call:
    return lambda args: bridge.ms_deform_attn(*args[:3], workload.locations(args), workload.weights(args))


PEERS = (*sampling_peers("ms_deform_attn_fused"), Peer("unfused", "ms_deform_attn_fused", _unfused))
