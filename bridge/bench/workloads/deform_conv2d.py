"""Workloads and peers of deform_conv2d."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Prepare, Untimed, imported
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class DeformConv2d(Workload):
    """deform_conv2d of x: [batch, channels, *size] with a mask; offsets are normal with a deviation of 1.5 pixels."""

    batch: int = 1
    channels: int = 64
    size: tuple[int, int] = (64, 64)
    out_channels: int = 64
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    channels_last: bool = False

    def out_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        spans = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in spans)
        return height, width

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x, offset, weight, bias and mask."""
        taps, out, depth = self.kernel[0] * self.kernel[1], self.out_size(), self.channels // self.groups
        x = self._random(device, self.batch, self.channels, *self.size)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        offset = self._random(device, self.batch, 2 * self.offset_groups * taps, *out) * 1.5
        weight = self._random(device, self.out_channels, depth, *self.kernel) / (depth * taps) ** 0.5
        mask = self._random(device, self.batch, self.offset_groups * taps, *out).sigmoid()
        settings = {name: list(getattr(self, name)) for name in ("stride", "padding", "dilation")}
        return [x, offset, weight, self._random(device, self.out_channels), mask], settings

    def batched(self) -> tuple[int, ...]:
        """x, offset and mask."""
        return (0, 1, 4)

    def bytes(self) -> int:
        """x, offsets, mask, weights, bias and the result."""
        (height, width), taps = self.out_size(), self.kernel[0] * self.kernel[1]
        positions = self.batch * height * width
        x = self.batch * self.channels * self.size[0] * self.size[1]
        weight = self.out_channels * (self.channels // self.groups * taps + 1)
        return (x + positions * (3 * self.offset_groups * taps + self.out_channels) + weight) * self.element

    def flops(self) -> int:
        """The operations of the matrix product, without the interpolation."""
        (height, width), taps = self.out_size(), self.kernel[0] * self.kernel[1]
        return 2 * self.batch * height * width * self.out_channels * self.channels // self.groups * taps


def workloads() -> Iterable[Workload]:
    """A detector's large map and a small one, variations of one parameter each, and growing sides."""
    large: dict[str, Any] = {"batch": 8, "channels": 256, "out_channels": 256, "size": (100, 152)}
    for dtype in ("float16", "bfloat16", "float32"):
        yield DeformConv2d("deform_conv2d", "large", dtype, **large)
        yield DeformConv2d("deform_conv2d", "small", dtype, batch=8)
    yield DeformConv2d("deform_conv2d", "small, channels-last", "float16", batch=8, channels_last=True)
    variations: dict[str, dict[str, Any]] = {
        "large, channels-last": {"channels_last": True},
        "one image": {"batch": 1},
        "asymmetric": {"size": (101, 153), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)},
        "2 groups": {"groups": 2},
        "32 groups": {"groups": 32},
        "4 offset groups": {"offset_groups": 4},
        "stage 4, one image": {"batch": 1, "channels": 256, "out_channels": 256, "size": (14, 14)},
    }
    for name, changes in variations.items():
        yield DeformConv2d("deform_conv2d", name, "float16", **(large | changes))
    for side in (32, 64, 128, 256, 512):
        yield DeformConv2d("deform_conv2d", f"side {side}", "float16", "growth", size=(side, side))


def _torchvision(workload: DeformConv2d, settings: dict[str, Any]) -> Call:
    deform_conv2d = imported("torchvision.ops", "deform_conv2d")

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        return deform_conv2d(x, offset, weight, bias, **settings, mask=mask)

    return call


def _mmcv(workload: DeformConv2d, settings: dict[str, Any]) -> Call:
    if workload.channels_last:
        raise Missing("it takes a channels-last feature map for one that is not")
    apply = imported("mmcv.ops.modulated_deform_conv", "modulated_deform_conv2d")
    extents = [settings[name] for name in ("stride", "padding", "dilation")]

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        return apply(x, offset, mask, weight, bias, *extents, workload.groups, workload.offset_groups)

    return call


def _conv2d(memory_format: torch.memory_format) -> Prepare:
    def prepare(workload: DeformConv2d, settings: dict[str, Any]) -> Call:
        # A model keeps this layout throughout.
        laid_out = Untimed(lambda args: [args[i].contiguous(memory_format=memory_format) for i in (0, 2)])

        def call(args: list[Any]) -> Tensor:
            x, weight = laid_out(args)
            return F.conv2d(x, weight, args[3], **settings, groups=workload.groups)

        return call

    return prepare


PEERS = (
    Peer("torchvision", "deform_conv2d", _torchvision),
    Peer("mmcv", "deform_conv2d", _mmcv),
    Peer("conv2d", "deform_conv2d", _conv2d(torch.contiguous_format), bound=True),
    Peer("conv2d, channels-last", "deform_conv2d", _conv2d(torch.channels_last), bound=True),
)
