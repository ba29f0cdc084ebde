"""What is measured: data, one row a workload, with the bytes and the operations that it cannot do without."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench import detection
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

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """With as much of value as its points touch."""
        locations = args[3][:, :, None, :, None] + args[4] / args[1].flip(1)[:, None] if len(args) == 6 else args[3]
        touched = self._touched(locations.float())
        all_of_it = min(self.positions, 4 * (self.queries or self.positions) * len(self.levels) * self.points)
        spared = self.batch * all_of_it * self.heads - touched
        return self.bytes() - spared * self.head_dim * self.element

    def _touched(self, locations: Tensor) -> int:
        """How many positions of images and heads are read for locations [N, Q, H, L, P, 2]."""
        found, ones = 0, torch.ones((), dtype=torch.bool, device=locations.device)
        for level, (height, width) in enumerate(self.levels):
            corner = locations[:, :, :, level] * torch.tensor([width, height], device=locations.device) - 0.5
            corner = corner.floor().long().transpose(1, 2).flatten(0, 1).flatten(1, 2)  # [N H, Q P, 2]
            maps = torch.zeros(len(corner), height + 2, width + 2, dtype=torch.bool, device=locations.device)
            rows = torch.arange(len(corner), device=locations.device)[:, None]
            for right, below in ((0, 0), (0, 1), (1, 0), (1, 1)):  # with a border for what lies outside
                x, y = (
                    (corner[..., 0] + right + 1).clamp(0, width + 1),
                    (corner[..., 1] + below + 1).clamp(0, height + 1),
                )
                maps.index_put_((rows, y, x), ones)
            found += int(maps[:, 1:-1, 1:-1].sum())
        return found

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


WORKLOADS: tuple[Workload, ...] = (
    *(*_deform_conv2d(), *_ms_deform_attn(), *_rope(), *_relu(), *detection.roi_align()),
    *detection.nms(),
)


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
