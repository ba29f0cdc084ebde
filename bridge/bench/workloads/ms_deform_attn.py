"""Workloads and peers of ms_deform_attn."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Peer, Prepare, Wrap, compiled, imported, plain
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class MsDeformAttn(Workload):
    """ms_deform_attn over levels of an image.

    queries: 0 for one per position of each level, as in an encoder; else that many at random positions, as in a
    decoder. grid: rows and columns of queries that cover the map in order, instead. Points lie around their query, at
    normal offsets with a deviation of 2 pixels of their level; spread: of that share of their level's sides, instead.
    """

    batch: int = 1
    queries: int = 0
    grid: tuple[int, int] = (0, 0)
    spread: float = 0.0
    heads: int = 8
    head_dim: int = 32
    levels: tuple[tuple[int, int], ...] = ((100, 134), (50, 67), (25, 34), (13, 17))
    points: int = 4

    @property
    def positions(self) -> int:
        """The number of positions of all levels."""
        return sum(height * width for height, width in self.levels)

    @property
    def count(self) -> int:
        """The number of queries of an image."""
        return self.queries or self.grid[0] * self.grid[1] or self.positions

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """value, levels, locations and weights; levels are int64."""
        levels, references, offsets, logits = self.components(device)
        locations = references[:, :, None, :, None] + offsets / levels[1].flip(1)[:, None]
        weights = logits.float().flatten(3).softmax(-1).reshape(logits.shape)
        return [*levels, locations.to(logits.dtype), weights.to(logits.dtype)], {}

    def components(self, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """value and the levels; references [N, Q, L, 2], offsets [N, Q, H, L, P, 2] in pixels, logits [N, Q, H, L, P].

        References and offsets are float32.
        """
        shapes = torch.tensor(self.levels, device=device)
        sizes = shapes.prod(1)
        value = self._random(device, self.batch, self.positions, self.heads, self.head_dim)
        points = (self.batch, self.count, self.heads, len(self.levels), self.points)
        deviation = self.spread * shapes.flip(1)[:, None] if self.spread else 2  # in pixels, (x, y) of a level
        offsets, logits = deviation * torch.randn(*points, 2, device=device), self._random(device, *points)
        references = self._references(device).expand(self.batch, -1, len(self.levels), -1)
        return [value, shapes, sizes.cumsum(0) - sizes], references, offsets, logits

    def locations(self, args: list[Any]) -> Tensor:
        """The locations in the arguments of a call, [N, Q, H, L, P, 2]."""
        return args[3]

    def weights(self, args: list[Any]) -> Tensor:
        """The weights in the arguments of a call, [N, Q, H, L, P]."""
        return args[4]

    def batched(self) -> tuple[int, ...]:
        """All but the levels."""
        return (0, 3, 4)

    def bytes(self) -> int:
        """value, at most what the queries can read; for each query its result and points; and the levels."""
        queries, samples = self.count, len(self.levels) * self.points
        per_query = self.heads * (self.head_dim + 3 * samples)
        value = min(self.positions, 4 * queries * samples) * self.heads * self.head_dim
        return self.batch * (value + queries * per_query) * self.element + 24 * len(self.levels)

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As `bytes`, with the part of value that the points read."""
        touched = self._touched(self.locations(args).float())
        most_positions = min(self.positions, 4 * self.count * len(self.levels) * self.points)
        untouched = self.batch * most_positions * self.heads - touched
        return self.bytes() - untouched * self.head_dim * self.element

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """The corners of every point that are positions of its level."""
        inside = 0
        for level, x, y in self._corners(self.locations(args).float()):
            height, width = self.levels[level]
            inside += int(((x >= 0) & (x < width) & (y >= 0) & (y < height)).sum())
        return inside * self.head_dim * self.element

    def _touched(self, locations: Tensor) -> int:
        """How many positions of images and heads are read for locations [N, Q, H, L, P, 2]."""
        rows = torch.arange(self.batch * self.heads, device=locations.device)[:, None]
        read = [  # with a border for samples outside
            torch.zeros(len(rows), height + 2, width + 2, dtype=torch.bool, device=locations.device)
            for height, width in self.levels
        ]
        for level, x, y in self._corners(locations):
            height, width = self.levels[level]
            read[level][rows, (y + 1).clamp(0, height + 1), (x + 1).clamp(0, width + 1)] = True
        return sum(int(positions[:, 1:-1, 1:-1].sum()) for positions in read)

    def _corners(self, locations: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The four corners of all points of each level: its index, and x and y, [N * H, Q * P] in its pixels."""
        for level, (height, width) in enumerate(self.levels):
            corner = locations[:, :, :, level] * torch.tensor([width, height], device=locations.device) - 0.5
            corner = corner.floor().long().transpose(1, 2).flatten(0, 1).flatten(1, 2)  # [N * H, Q * P, 2]
            for right, below in ((0, 0), (0, 1), (1, 0), (1, 1)):
                yield level, corner[..., 0] + right, corner[..., 1] + below

    def _references(self, device: torch.device) -> Tensor:
        """[1, Q, 1, 2], the centres of the queries, (x, y) from 0 to 1."""
        if self.queries:
            return torch.rand(1, self.queries, 1, 2, device=device)
        centres = []
        for height, width in [self.grid] if self.grid[0] else self.levels:
            y, x = (torch.linspace(0.5 / n, 1 - 0.5 / n, n, device=device) for n in (height, width))
            centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2))
        return torch.cat(centres)[None, :, None]


# Layers of published models, as their authors' configurations have them; 8 heads of 32, 4 points, unless it says.
# What has no name is Deformable DETR (Zhu et al. 2021), images of 800 x 1066: strides 8, 16, 32, 64. DINO (Zhang et
# al. 2023) and Grounding DINO (Liu et al. 2024) share their sizes: images of 800 x 1333, 900 queries; with 5 scales
# from stride 4, as with Swin-L. Mask2Former (Cheng et al. 2022): its pixel decoder on Cityscapes, strides 32, 16, 8.
# BEVFormer-base (Li et al. 2022): 200 x 200 queries; temporal over two such maps, spatial over 6 cameras of 928 x
# 1600 with 8 points, about a quarter of the queries each, how many its calibration decides; the detection decoder.
# RT-DETR (Zhao et al. 2024). TrackFormer's encoder of several frames (Meinhardt et al. 2022): 288 channels in 8
# heads, images of 750 x 1333.
_Levels = tuple[tuple[int, int], ...]
_COCO: _Levels = ((100, 167), (50, 84), (25, 42), (13, 21))
_BEV: _Levels = ((200, 200),)
_CAMERA: _Levels = ((116, 200), (58, 100), (29, 50), (15, 25))
_CITYSCAPES: _Levels = ((32, 64), (64, 128), (128, 256))
_RT_DETR: dict[str, Any] = {"levels": ((80, 80), (40, 40), (20, 20)), "queries": 300}
_TRACKFORMER: dict[str, Any] = {"levels": ((94, 167), (47, 84), (24, 42), (12, 21)), "head_dim": 36}
_Row = tuple[str, str, dict[str, Any]]
_MODELS: tuple[_Row, ...] = (  # name, dtype, what differs from Deformable DETR's encoder
    ("DINO encoder", "float16", {"levels": _COCO}),
    ("DINO encoder, 5 scales", "float16", {"levels": ((200, 334), *_COCO), "variation": True}),
    ("DINO decoder", "float16", {"levels": _COCO, "queries": 900}),
    ("DINO decoder, 8 images", "float16", {"levels": _COCO, "queries": 900, "batch": 8, "variation": True}),
    ("Mask2Former", "float16", {"levels": _CITYSCAPES}),
    ("Mask2Former", "float32", {"levels": _CITYSCAPES, "variation": True}),
    ("BEVFormer, temporal", "float16", {"levels": _BEV, "batch": 2}),
    ("BEVFormer, spatial", "float16", {"levels": _CAMERA, "batch": 6, "grid": (100, 100), "points": 8}),
    ("BEVFormer decoder", "float16", {"levels": _BEV, "queries": 900}),
    ("RT-DETR decoder", "float16", _RT_DETR),
    ("RT-DETR decoder, 16 images", "float16", _RT_DETR | {"batch": 16, "variation": True}),
    ("TrackFormer encoder", "float16", _TRACKFORMER),
    ("TrackFormer encoder", "float32", _TRACKFORMER | {"variation": True}),
)
_SPREADS = {"narrow": 0.02, "wide": 0.3}  # shares of a map


def image_workloads(workload_class: type[MsDeformAttn], op: str) -> Iterable[Workload]:
    """Encoders and decoders of one image and of several, layers of published models, and growing numbers of queries."""
    for dtype in ("float16", "bfloat16", "float32"):
        yield workload_class(op, "encoder, one image", dtype, variation=dtype != "float16")
    yield workload_class(op, "encoder, 8 images", "float16", variation=True, batch=8)
    for name, share in _SPREADS.items():
        yield workload_class(op, f"encoder, 8 images, {name}", "float16", variation=True, batch=8, spread=share)
    yield workload_class(op, "decoder, one image", "float16", queries=300)
    yield workload_class(op, "decoder, 8 images", "float16", variation=True, batch=8, queries=300)
    for name, dtype, changes in _MODELS:
        yield workload_class(op, name, dtype, **changes)
    for power in range(4, 17, 2):
        yield workload_class(op, f"queries {2**power}", "float16", "growth", queries=2**power)


def workloads() -> Iterable[Workload]:
    """Encoders and decoders of images."""
    return image_workloads(MsDeformAttn, "ms_deform_attn")


def _grid_sample(wrap: Wrap) -> Prepare:
    """Deformable attention as PyTorch models compute it: one grid_sample per level."""

    def prepare(workload: MsDeformAttn, settings: dict[str, Any]) -> Call:
        counts = [height * width for height, width in workload.levels]

        def attend(*args: Tensor) -> Tensor:
            locations, weights = workload.locations(list(args)), workload.weights(list(args))
            grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)  # [N * H, Q, P, 2] a level
            maps = args[0].transpose(1, 2).flatten(0, 1).transpose(1, 2).split(counts, 2)  # [N * H, D, h * w]
            samples = [
                F.grid_sample(x.unflatten(2, size), grid.to(x.dtype), align_corners=False)
                for x, grid, size in zip(maps, grids, workload.levels, strict=True)
            ]  # each [N * H, D, Q, P]
            flat_weights = weights.transpose(1, 2).flatten(0, 1).flatten(2).unsqueeze(1)  # [N * H, 1, Q, L * P]
            summed = (torch.cat(samples, -1) * flat_weights).sum(-1)  # [N * H, D, Q]
            return summed.unflatten(0, (workload.batch, -1)).flatten(1, 2).transpose(1, 2)

        wrapped = wrap(attend)
        return lambda args: wrapped(*args)

    return prepare


def _cuda_operator(module: str, name: str) -> Prepare:
    """The CUDA operators of Deformable DETR and mmcv, which take the same arguments, 64 images at a time."""

    def prepare(workload: MsDeformAttn, settings: dict[str, Any]) -> Call:
        operator = imported(module, name)
        apply = getattr(operator, "apply", operator)
        return lambda args: apply(
            *args[:3], *(t.contiguous() for t in (workload.locations(args), workload.weights(args))), 64
        )

    return prepare


def sampling_peers(op: str) -> tuple[Peer, ...]:
    """Peers that take locations and weights; for the fused op these are computed for them."""
    return (
        Peer("eager", op, _grid_sample(plain)),
        Peer("inductor", op, _grid_sample(compiled), compiles=True),
        Peer("deformable-detr", op, _cuda_operator("MultiScaleDeformableAttention", "ms_deform_attn_forward")),
        Peer("mmcv", op, _cuda_operator("mmcv.ops.multi_scale_deform_attn", "MultiScaleDeformableAttnFunction")),
    )


PEERS = sampling_peers("ms_deform_attn")
