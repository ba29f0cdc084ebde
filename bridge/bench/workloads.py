"""What is measured: data, one row a workload, with the bytes and the operations that it cannot do without."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """One call of an op. group: a default one, or one that is asked for by its name."""

    op: str
    name: str
    dtype: str
    group: str = "default"

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """Fresh random arguments of the op."""
        raise NotImplementedError

    def batched(self) -> tuple[int, ...]:
        """The places of the arguments whose first axis is the batch, as the results' is; none: there is no batch."""
        return ()

    def bytes(self) -> int:
        """Least traffic to and from memory: every input read once, every output written once."""
        raise NotImplementedError

    def flops(self) -> int:
        """Operations of its matrix products, 0 where there are none."""
        return 0

    def _random(self, device: torch.device, *shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPES[self.dtype])


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


@dataclass(frozen=True)
class Rope(Workload):
    """rope of [batch, seq] tokens, with a float32 table row for each position of the sequence."""

    batch: int = 1
    seq: int = 1
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    interleaved: bool = False
    layout: str = "bshd"

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, k: [batch, seq, heads, head_dim] or heads first; cos, sin: [seq, head_dim / 2]."""
        q, k = (self._random(device, *self._shape(heads)) for heads in self.heads)
        frequencies = 10000.0 ** -torch.linspace(0, 1, self.head_dim // 2, device=device)
        angles = torch.outer(torch.arange(self.seq, device=device, dtype=torch.float32), frequencies)
        return [q, k, angles.cos(), angles.sin()], {"interleaved": self.interleaved, "layout": self.layout}

    def batched(self) -> tuple[int, ...]:
        """q and k."""
        return (0, 1)

    def bytes(self) -> int:
        """q and k twice, the tables once."""
        tokens = self.batch * self.seq
        return 2 * tokens * sum(self.heads) * self.head_dim * self.element + 4 * self.seq * self.head_dim

    def _shape(self, heads: int) -> tuple[int, ...]:
        heads_first = self.layout == "bhsd"
        return (self.batch, *((heads, self.seq) if heads_first else (self.seq, heads)), self.head_dim)


@dataclass(frozen=True)
class DeformConv2d(Workload):
    """deform_conv2d of x: [batch, channels, *size] with a mask; offsets are normal, of 1.5 pixels."""

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
        """Of the matrix product alone, not of the interpolation."""
        (height, width), taps = self.out_size(), self.kernel[0] * self.kernel[1]
        return 2 * self.batch * height * width * self.out_channels * self.channels // self.groups * taps


@dataclass(frozen=True)
class MsDeformAttn(Workload):
    """ms_deform_attn or ms_deform_attn_fused over levels of an image.

    Without a number of queries each position of each level is one, as in an encoder; else they are anywhere, as in a
    decoder. Points lie around their query, by offsets that are normal, of 2 pixels of their level.
    """

    batch: int = 1
    queries: int = 0
    heads: int = 8
    head_dim: int = 32
    levels: tuple[tuple[int, int], ...] = ((100, 134), (50, 67), (25, 34), (13, 17))
    points: int = 4

    @property
    def positions(self) -> int:
        """Of all levels."""
        return sum(height * width for height, width in self.levels)

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """value, levels, then locations and weights, or references, offsets and logits; levels are int64."""
        queries, dtype = self.queries or self.positions, DTYPES[self.dtype]
        shapes = torch.tensor(self.levels, device=device)
        sizes = shapes.prod(1)
        value = self._random(device, self.batch, self.positions, self.heads, self.head_dim)
        points = (self.batch, queries, self.heads, len(self.levels), self.points)
        offsets, logits = 2 * torch.randn(*points, 2, device=device), self._random(device, *points)
        references = self._references(device).expand(self.batch, -1, len(self.levels), -1)
        levels = [value, shapes, sizes.cumsum(0) - sizes]
        if self.op == "ms_deform_attn_fused":
            return [*levels, references.to(dtype).contiguous(), offsets.to(dtype), logits], {}
        locations = references[:, :, None, :, None] + offsets / shapes.flip(1)[:, None]
        weights = logits.float().flatten(3).softmax(-1).reshape(points)
        return [*levels, locations.to(dtype), weights.to(dtype)], {}

    def batched(self) -> tuple[int, ...]:
        """All but the levels."""
        return (0, 3, 4, 5) if self.op == "ms_deform_attn_fused" else (0, 3, 4)

    def bytes(self) -> int:
        """value, or as much as few queries can touch; for each query its result and its points; and the levels."""
        queries, samples = self.queries or self.positions, len(self.levels) * self.points
        each = self.heads * (self.head_dim + 3 * samples)
        each += 2 * len(self.levels) if self.op == "ms_deform_attn_fused" else 0
        value = min(self.positions, 4 * queries * samples) * self.heads * self.head_dim
        return self.batch * (value + queries * each) * self.element + 24 * len(self.levels)

    def _references(self, device: torch.device) -> Tensor:
        """[1, Q, 1, 2], the centres of the queries, (x, y) from 0 to 1."""
        if self.queries:
            return torch.rand(1, self.queries, 1, 2, device=device)
        centres = []
        for height, width in self.levels:
            y, x = (torch.linspace(0.5 / n, 1 - 0.5 / n, n, device=device) for n in (height, width))
            centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2))
        return torch.cat(centres)[None, :, None]


def _ms_deform_attn() -> Iterable[Workload]:
    for op in ("ms_deform_attn", "ms_deform_attn_fused"):
        for dtype in ("float16", "bfloat16", "float32"):
            yield MsDeformAttn(op, "encoder, one image", dtype)
        yield MsDeformAttn(op, "encoder, 8 images", "float16", batch=8)
        yield MsDeformAttn(op, "decoder, one image", "float16", queries=300)
        yield MsDeformAttn(op, "decoder, 8 images", "float16", batch=8, queries=300)
        for power in range(4, 17, 2):
            yield MsDeformAttn(op, f"queries {2**power}", "float16", "growth", queries=2**power)


@dataclass(frozen=True)
class RoiAlign(Workload):
    """roi_align of `count` float32 regions, whose sides are 7 to 28 pixels of the map as a feature pyramid's are."""

    batch: int = 2
    channels: int = 256
    size: tuple[int, int] = (200, 304)  # the finest map of an image of 800 x 1216
    count: int = 1000
    output_size: int = 7
    sampling_ratio: int = 2
    channels_last: bool = False

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """x and rois; spatial_scale is 1/4."""
        x = self._random(device, self.batch, self.channels, *self.size)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        sides = 7 * 4 ** torch.rand(self.count, 2, device=device)
        extents = torch.tensor(self.size[::-1], device=device)
        first = torch.rand(self.count, 2, device=device) * (extents - sides).clamp(min=0)
        images = torch.randint(0, self.batch, (self.count, 1), device=device)
        rois = torch.cat((images, 4 * first, 4 * (first + sides)), 1)
        settings = {"output_size": [self.output_size] * 2, "spatial_scale": 0.25, "aligned": True}
        return [x, rois], settings | {"sampling_ratio": self.sampling_ratio}

    def bytes(self) -> int:
        """x, or as much as few regions can touch; rois; and the result."""
        pixels, bins = self.batch * self.size[0] * self.size[1], self.count * self.output_size**2
        if self.sampling_ratio > 0:
            pixels = min(pixels, 4 * bins * self.sampling_ratio**2)
        return (pixels + bins) * self.channels * self.element + self.count * 5 * 4


def _roi_align() -> Iterable[Workload]:
    for channels_last in (False, True):
        order = "channels-last" if channels_last else "NCHW"
        for dtype in DTYPES:
            yield RoiAlign("roi_align", f"FPN, {order}", dtype, channels_last=channels_last)
        variations: dict[str, dict[str, Any]] = {
            "mask head": {"count": 200, "output_size": 14},
            "one image": {"batch": 1, "count": 100},
            "adaptive": {"channels": 1024, "size": (50, 76), "count": 300, "output_size": 14, "sampling_ratio": 0},
        }
        for name, changes in variations.items():
            yield RoiAlign("roi_align", f"{name}, {order}", "float16", channels_last=channels_last, **changes)
        for power in range(0, 13, 3):
            name = f"regions {2**power}, {order}"
            yield RoiAlign("roi_align", name, "float16", "growth", count=2**power, channels_last=channels_last)


def _deform_conv2d() -> Iterable[Workload]:
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


def _rope() -> Iterable[Workload]:
    for interleaved in (False, True):
        for layout in ("bshd", "bhsd"):
            name = f"prefill, {'interleaved' if interleaved else 'half-split'}, {layout}"
            yield Rope("rope", name, "bfloat16", batch=8, seq=4096, interleaved=interleaved, layout=layout)
    for tokens in (1, 4, 8, 32):
        yield Rope("rope", f"decode, {tokens}", "bfloat16", batch=tokens)
    for power in range(0, 17, 2):
        yield Rope("rope", f"tokens {2**power}", "bfloat16", "growth", seq=2**power)


def _relu() -> Iterable[Workload]:
    yield Relu("relu", "2^30 elements", "bfloat16", count=2**30)
    yield Relu("relu", "2^30 elements, slope and clip", "bfloat16", count=2**30, negative_slope=0.1, max_value=6.0)
    for dtype in DTYPES:
        yield Relu("relu", "2^24 elements", dtype, count=2**24)


WORKLOADS: tuple[Workload, ...] = (*_deform_conv2d(), *_ms_deform_attn(), *_rope(), *_relu(), *_roi_align())


def select(ops: Iterable[str] = (), names: Iterable[str] = (), groups: Iterable[str] = ("default",)) -> list[Workload]:
    """Workloads of these ops (none: all), with one of these texts in their names (none: all of the groups).

    ValueError: an op or a name that no workload has.
    """
    ops, names = list(ops), list(names)
    for op in ops:
        if op not in {workload.op for workload in WORKLOADS}:
            raise ValueError(f"no workload is of {op!r}; there are {', '.join(sorted({w.op for w in WORKLOADS}))}")
    found = [workload for workload in WORKLOADS if not ops or workload.op in ops]
    for name in names:
        if not any(name in workload.name for workload in found):
            raise ValueError(f"no workload's name holds {name!r}; there are {', '.join(w.name for w in found)}")
    if names:
        return [workload for workload in found if any(name in workload.name for name in names)]
    return [workload for workload in found if workload.group in groups]
