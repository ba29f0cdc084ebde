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
    """deform_conv2d of x: [batch, channels, *size].

    spread: the standard deviation of offsets, which are normal, in pixels. modulated: with a mask.
    """

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
    spread: float = 1.5
    modulated: bool = True

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
        offset = self._random(device, self.batch, 2 * self.offset_groups * taps, *out) * self.spread
        weight = self._random(device, self.out_channels, depth, *self.kernel) / (depth * taps) ** 0.5
        mask = self._random(device, self.batch, self.offset_groups * taps, *out).sigmoid() if self.modulated else None
        settings = {name: list(getattr(self, name)) for name in ("stride", "padding", "dilation")}
        return [x, offset, weight, self._random(device, self.out_channels), mask], settings

    def batched(self) -> tuple[int, ...]:
        """x, offset and, where there is one, mask."""
        return (0, 1, 4) if self.modulated else (0, 1)

    def constants(self) -> tuple[str, ...]:
        """The weight, which the PyTorch op packs anew in every call."""
        return ("weight",)

    def bytes(self) -> int:
        """x, offsets, mask, weights, bias and the result."""
        (height, width), taps = self.out_size(), self.kernel[0] * self.kernel[1]
        positions, planes = self.batch * height * width, 3 if self.modulated else 2
        x = self.batch * self.channels * self.size[0] * self.size[1]
        weight = self.out_channels * (self.channels // self.groups * taps + 1)
        return (x + positions * (planes * self.offset_groups * taps + self.out_channels) + weight) * self.element

    def flops(self) -> int:
        """The operations of the matrix product, without the interpolation."""
        (height, width), taps = self.out_size(), self.kernel[0] * self.kernel[1]
        return 2 * self.batch * height * width * self.out_channels * self.channels // self.groups * taps

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """The corners of every sample that are pixels of the map."""
        offset = args[1].unflatten(1, (self.offset_groups, *self.kernel, 2)).float()  # [N, G, *kernel, 2, *out]
        inside = torch.ones((), dtype=torch.int32, device=offset.device)
        for axis, (extent, out) in enumerate(zip(self.size, self.out_size(), strict=True)):
            taps = torch.arange(self.kernel[axis], device=offset.device) * self.dilation[axis]
            places = torch.arange(out, device=offset.device) * self.stride[axis] - self.padding[axis]
            regular = (taps[:, None] + places).unsqueeze(1)  # [kernel, 1, out]
            corner = (offset[:, :, :, :, axis] + (regular.unsqueeze(3) if axis == 0 else regular)).floor()
            first, second = (((corner + step >= 0) & (corner + step < extent)).int() for step in (0, 1))
            inside = inside * (first + second)
        return int(inside.sum()) * (self.channels // self.offset_groups) * self.element


# Layers of published models, as their authors' configurations have them. Detectors: conv2 of the bottlenecks of stages
# 3 to 5 in Mask R-CNN with DCNv2 (Zhu et al. 2019), images of 800 × 1216; X101 is ResNeXt-101 32x4d. "P3": the 256
# channels at stride 8 that heads have (RepPoints 2019, VarifocalNet 2021), on such images; guided anchoring (Wang et
# al. 2019) has offsets of its anchors, TOOD (Feng et al. 2021) one of each side of a box. TinaFace (Zhu et al. 2020):
# R50, 640 × 640. YOLACT++ (Bolya et al. 2020): R101, 550 × 550. CenterNet (Zhou et al. 2019): the DLA-34 and R18 necks,
# 512 × 512. TDAN (Tian et al. 2020), EDVR (Wang et al. 2019), EDVR-L with 128 channels and BasicVSR++ (Chan et al.
# 2022): alignment of 720p frames at a quarter, and crops.
_Row = tuple[str, int, int, int, tuple[int, int], dict[str, Any]]
_VIDEO: dict[str, Any] = {"spread": 3.0}
_DEPTHWISE: dict[str, Any] = {"kernel": (1, 1), "padding": (0, 0), "groups": 4}
_MODELS: tuple[_Row, ...] = (  # name, batch, channels, output channels, size, further settings
    *(("R50-DCN stage 3", batch, 128, 128, (100, 152), {}) for batch in (1, 8)),
    *(("R50-DCN stage 4", batch, 256, 256, (50, 76), {}) for batch in (1, 8)),
    *(("R50-DCN stage 5", batch, 512, 512, (25, 38), {}) for batch in (1, 4, 8, 16)),
    ("R50-DCN stage 5, stride 2", 8, 512, 512, (50, 76), {"stride": (2, 2)}),
    ("R50-DCN 224 stage 4", 8, 256, 256, (14, 14), {}),
    ("R50-DCN 224 stage 5, dilated", 1, 512, 512, (14, 14), {"padding": (2, 2), "dilation": (2, 2)}),
    ("R50-DCN 224 stage 5", 8, 512, 512, (7, 7), {}),
    *(("X101-DCN stage 3", batch, 256, 256, (100, 152), {"groups": 32}) for batch in (1, 8)),
    ("X101-DCN stage 4", 8, 512, 512, (50, 76), {"groups": 32}),
    ("X101-DCN stage 5", 8, 1024, 1024, (25, 38), {"groups": 32}),
    ("YOLACT++ stage 3", 1, 128, 128, (69, 69), {}),
    ("YOLACT++ stage 5", 1, 512, 512, (18, 18), {}),
    ("CenterNet DLA", 1, 64, 64, (128, 128), {}),
    ("CenterNet DLA", 16, 64, 64, (128, 128), {}),
    ("CenterNet R18", 1, 512, 256, (16, 16), {}),
    ("RepPoints P4", 1, 256, 256, (50, 76), {"modulated": False}),
    ("RepPoints P7", 1, 256, 256, (7, 10), {"modulated": False}),
    ("guided anchoring P3", 1, 256, 256, (100, 152), {"offset_groups": 4, "modulated": False}),
    ("TOOD, boxes of P3", 1, 4, 4, (100, 152), _DEPTHWISE | {"offset_groups": 4, "modulated": False}),
    ("TinaFace stage 5", 1, 512, 512, (20, 20), {}),
    ("TDAN", 1, 64, 64, (180, 320), _VIDEO | {"offset_groups": 8, "modulated": False}),
    ("EDVR", 1, 64, 64, (180, 320), _VIDEO | {"offset_groups": 8}),
    ("EDVR level 2", 1, 64, 64, (90, 160), _VIDEO | {"offset_groups": 8}),
    ("EDVR crop", 32, 64, 64, (64, 64), _VIDEO | {"offset_groups": 8}),
    ("EDVR-L", 1, 128, 128, (180, 320), _VIDEO | {"offset_groups": 8}),
    ("BasicVSR++", 1, 128, 64, (180, 320), _VIDEO | {"offset_groups": 16}),
    ("BasicVSR++, wide", 1, 128, 64, (180, 320), {"spread": 16.0, "offset_groups": 16}),
    ("BasicVSR++ 480p", 1, 128, 64, (120, 214), _VIDEO | {"offset_groups": 16}),
    ("BasicVSR++ crop", 8, 128, 64, (64, 64), _VIDEO | {"offset_groups": 16}),
    ("alignment, 4 channels", 2, 64, 64, (180, 320), _VIDEO | {"offset_groups": 16}),
    ("alignment, 16 channels", 1, 128, 64, (256, 256), _VIDEO | {"offset_groups": 8}),
)


def _of_model(row: _Row) -> DeformConv2d:
    name, batch, channels, out_channels, size, settings = row
    sizes: dict[str, Any] = {"batch": batch, "channels": channels, "out_channels": out_channels, "size": size}
    images = "" if batch == 1 else f", {batch} images"
    return DeformConv2d("deform_conv2d", name + images, "float16", **sizes, **settings)


def workloads() -> Iterable[Workload]:
    """A head's map on P3 and its variations, small maps, layers of published models, and series that grow."""
    large: dict[str, Any] = {"batch": 8, "channels": 256, "out_channels": 256, "size": (100, 152)}
    for dtype in ("float16", "bfloat16", "float32"):
        yield DeformConv2d("deform_conv2d", "large", dtype, **large)
        yield DeformConv2d("deform_conv2d", "small", dtype, batch=8)
    yield DeformConv2d("deform_conv2d", "small, channels-last", "float16", batch=8, channels_last=True)
    variations: dict[str, dict[str, Any]] = {
        "large, channels-last": {"channels_last": True},
        "large, offsets of 8 pixels": {"spread": 8.0},
        "large, offsets of 32 pixels": {"spread": 32.0},
        "one image": {"batch": 1},
        "asymmetric": {"size": (101, 153), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)},
    }
    for name, changes in variations.items():
        yield DeformConv2d("deform_conv2d", name, "float16", **(large | changes))
    for row in _MODELS:
        yield _of_model(row)
    video: dict[str, Any] = {"batch": 1, "out_channels": 64, "size": (180, 320), "spread": 3.0}
    for dtype in ("bfloat16", "float32"):
        yield DeformConv2d("deform_conv2d", "BasicVSR++", dtype, channels=128, offset_groups=16, **video)
    for side in (32, 64, 128, 256, 512):
        yield DeformConv2d("deform_conv2d", f"side {side}", "float16", "growth", size=(side, side))
    for groups in (1, 2, 4, 8, 16, 32, 64):
        name = f"offset groups {groups}"
        yield DeformConv2d("deform_conv2d", name, "float16", "growth", channels=64, offset_groups=groups, **video)


def _torchvision(workload: DeformConv2d, settings: dict[str, Any]) -> Call:
    deform_conv2d = imported("torchvision.ops", "deform_conv2d")

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        return deform_conv2d(x, offset, weight, bias, **settings, mask=mask)

    return call


def _mmcv(workload: DeformConv2d, settings: dict[str, Any]) -> Call:
    if workload.channels_last:
        raise Missing("it takes a channels-last feature map for one that is not")
    name = "modulated_deform_conv" if workload.modulated else "deform_conv"
    apply, groups = imported(f"mmcv.ops.{name}", f"{name}2d"), (workload.groups, workload.offset_groups)
    extents = [settings[name] for name in ("stride", "padding", "dilation")]

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        if workload.modulated:
            return apply(x, offset, mask, weight, bias, *extents, *groups)
        return apply(x, offset, weight, *extents, *groups).add_(bias[:, None, None])  # it takes no bias

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
    Peer("torchvision", "deform_conv2d", _torchvision, default_stream=True),  # its issue 9513
    Peer("mmcv", "deform_conv2d", _mmcv),
    Peer("conv2d", "deform_conv2d", _conv2d(torch.contiguous_format), bound=True),
    Peer("conv2d, channels-last", "deform_conv2d", _conv2d(torch.channels_last), bound=True),
)
