"""Workloads of deform_conv2d_fused: layers of detectors with what stands around them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import bridge
from bridge.bench.peer import Call, Peer
from bridge.bench.workload import Workload
from bridge.bench.workloads.deform_conv2d import DeformConv2d


@dataclass(frozen=True)
class DeformConv2dFused(DeformConv2d):
    """deform_conv2d_fused with the sizes of deform_conv2d, and a ReLU."""

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x, prediction, weight and bias."""
        (x, offset, weight, bias, mask), settings = super().arguments(device)
        prediction = offset if mask is None else torch.cat((offset, mask.float().logit().to(offset.dtype)), 1)
        return [x, prediction, weight, bias], {**settings, "modulated": self.modulated, "activation": "relu"}

    def batched(self) -> tuple[int, ...]:
        """x and prediction."""
        return 0, 1

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As deform_conv2d's of the same offsets."""
        offsets = 2 * self.offset_groups * self.kernel[0] * self.kernel[1]
        return super().gathered([args[0], args[1][:, :offsets]], settings)


def workloads() -> Iterable[Workload]:
    """conv2 of the bottlenecks of ResNet-50's stages 3 to 5, of a detector's 800 x 1216 and of a classifier."""
    stages = ((3, 128, (100, 152), (28, 28)), (4, 256, (50, 76), (14, 14)), (5, 512, (25, 38), (7, 7)))
    for stage, channels, *sizes in stages:
        for name, size in zip(("R50-DCN", "R50-DCN 224"), sizes, strict=True):
            layer: dict[str, Any] = {"channels": channels, "out_channels": channels, "size": size, "batch": 8}
            yield DeformConv2dFused("deform_conv2d_fused", f"{name} stage {stage}, 8 images", "float16", **layer)


def _unfused(workload: DeformConv2dFused, settings: dict[str, Any]) -> Call:
    geometry = {name: settings[name] for name in ("stride", "padding", "dilation")}

    def call(args: list[Any]) -> torch.Tensor:
        x, prediction, weight, bias = args
        first, second, logits = prediction.chunk(3, 1)
        offset = torch.cat((first, second), 1)
        return F.relu(bridge.deform_conv2d(x, offset, weight, bias, logits.sigmoid(), **geometry))

    return call


PEERS = (Peer("unfused", "deform_conv2d_fused", _unfused),)
