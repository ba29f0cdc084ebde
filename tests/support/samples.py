"""Calls of every op, with odd shapes on purpose: op name → [(label, args, kwargs)].

Ops with results whose shapes depend on values are not among them: tests/ops/test_nms.py is about those.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import OPS

FIXED = [name for name in OPS if not OPS[name].counted]

Sample = tuple[str, list, dict]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relu_samples() -> list[Sample]:
    shapes = [(), (0,), (1,), (7,), (3, 0, 5), (129, 33), (2, 3, 5, 7), (1, 2, 1, 3, 1, 2, 1, 5)]
    attributes = [{}, {"negative_slope": 0.1}, {"max_value": 1.0}, {"negative_slope": -0.5, "max_value": 0.25}]
    return [
        (f"{shape} {kwargs}", [torch.randn(shape, generator=_generator(i)) * 3], kwargs)
        for i, (shape, kwargs) in enumerate((s, a) for s in shapes for a in attributes)
    ]


def rope_arguments(
    batch: int,
    seq: int,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    rotary: int = 0,
    layout: str = "bhsd",
    table: str = "[S, R/2]",
    seed: int = 0,
) -> list:
    """q, k, cos, sin (and position_ids): tables "[S, R/2]", "[B, S, R]", "[1, S, R/2]", or "ids" for a gather."""
    g = _generator(seed)
    rotary = rotary or head_dim
    shapes = [(batch, h, seq, head_dim) if layout == "bhsd" else (batch, seq, h, head_dim) for h in heads]
    q, k = (torch.randn(shape, generator=g) for shape in shapes)
    rows = seq + 5
    shape = {
        "[S, R/2]": (seq, rotary // 2),
        "[S, R]": (seq, rotary),
        "[B, S, R]": (batch, seq, rotary),
        "[1, S, R/2]": (1, seq, rotary // 2),
        "ids": (rows, rotary // 2),
        "ids int32": (rows, rotary),
        "ids [1, S]": (rows, rotary // 2),
    }[table]
    cos, sin = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    if not table.startswith("ids"):
        return [q, k, cos, sin]
    ids = torch.randint(0, rows, (1 if table == "ids [1, S]" else batch, seq), generator=g)
    return [q, k, cos, sin, ids.int() if table == "ids int32" else ids]


def rope_samples() -> list[Sample]:
    tables = ["[S, R/2]", "[S, R]", "[B, S, R]", "[1, S, R/2]", "ids", "ids int32", "ids [1, S]"]
    sizes = [
        # batch, seq, (heads of q, of k), head_dim, rotary_dim
        (2, 5, (4, 2), 16, 0),
        (1, 1, (1, 1), 2, 0),
        (3, 7, (3, 1), 10, 6),
        (2, 3, (8, 8), 64, 32),
        (1, 9, (5, 2), 24, 16),
        (2, 4, (2, 2), 128, 128),
        (0, 4, (2, 1), 16, 0),
        (2, 0, (2, 1), 16, 0),
    ]
    samples = []
    for i, (batch, seq, heads, head_dim, rotary) in enumerate(sizes):
        for j, table in enumerate(tables):
            interleaved, layout = bool((i + j) % 2), ("bhsd", "bshd")[(i + j // 2) % 2]
            args = rope_arguments(batch, seq, heads, head_dim, rotary, layout, table, seed=10 * i + j)
            kwargs = {"interleaved": interleaved, "rotary_dim": rotary, "layout": layout}
            samples.append((f"B{batch} S{seq} H{heads} D{head_dim} R{rotary} {table} {kwargs}", args, kwargs))
    return samples


def deform_conv2d_arguments(
    batch: int,
    channels: int,
    size: tuple[int, int],
    out_channels: int,
    kernel: tuple[int, int] = (3, 3),
    groups: int = 1,
    offset_groups: int = 1,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    bias: bool = True,
    mask: bool = True,
    seed: int = 0,
) -> list[Tensor | None]:
    g = _generator(seed)
    taps = kernel[0] * kernel[1]
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    return [
        torch.randn(batch, channels, *size, generator=g),
        # Fractions well inside a cell: derivatives have kinks at whole pixels. Some points lie outside the map.
        torch.randint(-3, 4, (batch, 2 * offset_groups * taps, *out), generator=g)
        + 0.1
        + 0.8 * torch.rand(batch, 2 * offset_groups * taps, *out, generator=g),
        torch.randn(out_channels, channels // groups, *kernel, generator=g),
        torch.randn(out_channels, generator=g) if bias else None,
        torch.rand(batch, offset_groups * taps, *out, generator=g) if mask else None,
    ]


_DEFORM_CONV2D = [
    {"batch": 2, "channels": 4, "size": (7, 9), "out_channels": 5, "padding": (1, 1)},
    {"batch": 1, "channels": 6, "size": (9, 11), "out_channels": 4, "kernel": (3, 2), "groups": 2, "offset_groups": 3,
     "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "bias": False},
    {"batch": 2, "channels": 4, "size": (7, 5), "out_channels": 6, "kernel": (1, 3), "offset_groups": 2,
     "stride": (1, 3), "padding": (1, 0), "dilation": (2, 1), "mask": False},
    {"batch": 0, "channels": 4, "size": (5, 5), "out_channels": 3, "padding": (1, 1)},
    {"batch": 3, "channels": 1, "size": (1, 1), "out_channels": 1, "kernel": (1, 1), "bias": False, "mask": False},
    {"batch": 1, "channels": 35, "size": (6, 13), "out_channels": 70, "groups": 5, "offset_groups": 7, "stride": (3, 2),
     "padding": (2, 1)},
    {"batch": 2, "channels": 8, "size": (10, 8), "out_channels": 8, "groups": 8, "offset_groups": 1, "dilation": (3, 2),
     "padding": (1, 3)},
    {"batch": 1, "channels": 32, "size": (12, 17), "out_channels": 130, "kernel": (5, 3), "padding": (2, 1)},
]  # fmt: skip


def deform_conv2d_samples() -> list[Sample]:
    samples: list[Sample] = []
    for seed, sizes in enumerate(_DEFORM_CONV2D):
        kwargs = {key: sizes[key] for key in ("stride", "padding", "dilation") if key in sizes}
        samples.append((str(sizes), deform_conv2d_arguments(**sizes, seed=seed), kwargs))
    return samples


# For kernels whose tiles need many channels: extents that fill them, or just do not.
_DEFORM_CONV2D_TILES = {
    "one position": ((1, 64, (1, 1), 64), {"padding": (1, 1)}),
    "odd extents": ((2, 96, (15, 13), 100), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)}),
    "groups": ((2, 128, (12, 16), 128), {"groups": 2, "padding": (1, 1)}),
    "offset groups": ((2, 128, (12, 16), 72), {"offset_groups": 4, "padding": (1, 1)}),
    "both": ((3, 256, (9, 7), 256), {"groups": 2, "offset_groups": 4, "bias": False, "mask": False}),
    "ragged channels": ((2, 40, (12, 16), 48), {"padding": (1, 1)}),
    "large kernel": ((1, 64, (16, 16), 192), {"kernel": (5, 5), "padding": (2, 2)}),
    "several blocks a tile": ((1, 256, (14, 14), 64), {"padding": (1, 1)}),
}


def deform_conv2d_tile_samples() -> list[Sample]:
    samples: list[Sample] = []
    for label, (extents, options) in _DEFORM_CONV2D_TILES.items():
        kwargs = {name: list(options[name]) for name in ("stride", "padding", "dilation") if name in options}
        samples.append((label, deform_conv2d_arguments(*extents, **options), kwargs))
    return samples


def _levels(shapes: list[tuple[int, int]], index: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """spatial_shapes and level_start_index."""
    sizes = torch.tensor([h * w for h, w in shapes])
    return torch.tensor(shapes, dtype=index), (sizes.cumsum(0) - sizes).to(index)


def _pixels(g: torch.Generator, shapes: list[tuple[int, int]], *extents: int) -> Tensor:
    """[*extents, levels, points, (x, y)]; fractions well inside a cell, some points outside the map."""
    *outer, points = extents
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32).reshape(-1, 1, 2)
    cells = (torch.rand(*outer, len(shapes), points, 2, generator=g) * (sizes + 4)).floor() - 2
    return cells + 0.1 + 0.8 * torch.rand(cells.shape, generator=g)


def ms_deform_attn_arguments(
    batch: int,
    queries: int,
    heads: int = 2,
    head_dim: int = 8,
    shapes: Sequence[tuple[int, int]] = ((7, 9), (4, 5)),
    points: int = 4,
    index: torch.dtype = torch.int64,
    seed: int = 0,
) -> list[Tensor]:
    g, shapes = _generator(seed), list(shapes)
    positions = sum(h * w for h, w in shapes)
    sizes = torch.tensor([(max(w, 1), max(h, 1)) for h, w in shapes]).unsqueeze(1)
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=g)
    return [
        torch.randn(batch, positions, heads, head_dim, generator=g),
        *_levels(shapes, index),
        (_pixels(g, shapes, batch, queries, heads, points) + 0.5) / sizes,
        weights / (len(shapes) * points) ** 0.5,
    ]


def ms_deform_attn_fused_arguments(
    batch: int,
    queries: int,
    heads: int = 2,
    head_dim: int = 8,
    shapes: Sequence[tuple[int, int]] = ((7, 9), (4, 5)),
    points: int = 4,
    index: torch.dtype = torch.int64,
    boxes: bool = False,
    seed: int = 0,
) -> list[Tensor]:
    g, shapes = _generator(seed + 1000), list(shapes)
    value, *levels, _, _ = ms_deform_attn_arguments(batch, queries, heads, head_dim, shapes, points, index, seed)
    sizes = torch.tensor([(max(w, 1), max(h, 1)) for h, w in shapes]).unsqueeze(1)
    references = torch.rand(batch, queries, len(shapes), 4 if boxes else 2, generator=g) * 0.8 + 0.1
    centres = references[:, :, None, :, None, :2]
    pixels = _pixels(g, shapes, batch, queries, heads, points)
    offsets = pixels + 0.5 - centres * sizes
    if boxes:
        offsets = offsets / sizes * points / (0.5 * references[:, :, None, :, None, 2:])
    return [value, *levels, references, offsets, torch.randn(batch, queries, heads, len(shapes), points, generator=g)]


_MS_DEFORM_ATTN: list[dict[str, Any]] = [
    {"batch": 2, "queries": 5},
    {"batch": 3, "queries": 37, "heads": 3, "head_dim": 32, "shapes": [(9, 13), (5, 7), (3, 4), (1, 2)]},
    {"batch": 1, "queries": 7, "heads": 2, "head_dim": 3, "shapes": [(5, 8)], "points": 3, "index": torch.int32},
    {"batch": 2, "queries": 33, "heads": 1, "head_dim": 1, "shapes": [(1, 1), (6, 2)], "points": 1},
    {"batch": 1, "queries": 19, "heads": 5, "head_dim": 40, "shapes": [(3, 9), (8, 2), (1, 5)], "points": 5},
    {"batch": 2, "queries": 9, "heads": 2, "head_dim": 64, "shapes": [(4, 4)] * 5, "points": 8, "index": torch.int32},
    {"batch": 1, "queries": 3, "heads": 1, "head_dim": 320, "shapes": [(5, 3), (2, 2)], "points": 2},
    {"batch": 1, "queries": 300, "heads": 8, "head_dim": 16, "shapes": [(12, 17), (6, 9)], "points": 2},
    {"batch": 1, "queries": 6, "heads": 2, "head_dim": 24, "shapes": [(3, 4), (0, 5), (2, 2)], "points": 7},
    {"batch": 2, "queries": 4, "shapes": [(0, 3), (4, 0)]},
    {"batch": 0, "queries": 4},
    {"batch": 2, "queries": 0},
]


def ms_deform_attn_samples() -> list[Sample]:
    return [
        (str(sizes), ms_deform_attn_arguments(**sizes, seed=seed), {}) for seed, sizes in enumerate(_MS_DEFORM_ATTN)
    ]


def ms_deform_attn_fused_samples() -> list[Sample]:
    both = [(sizes, (i // 2 + turn) % 2 == 1) for turn in (0, 1) for i, sizes in enumerate(_MS_DEFORM_ATTN)]
    return [
        (f"{sizes} boxes {boxes}", ms_deform_attn_fused_arguments(**sizes, boxes=boxes, seed=seed), {})
        for seed, (sizes, boxes) in enumerate(both)
    ]


def roi_align_arguments(
    count: int, batch: int, channels: int, size: tuple[int, int], scale: float = 0.25, seed: int = 0
) -> list[Tensor]:
    """x and regions: within the map, partly and wholly outside it, small ones and reversed ones."""
    g = _generator(seed)
    extents = torch.tensor([size[1], size[0]]) / scale
    first = (1.6 * torch.rand(count, 2, generator=g) - 0.3) * extents
    sides = (1.2 * torch.rand(count, 2, generator=g) - 0.1) * extents
    # Images are what these are rounded down to: derivatives have a jump at whole ones.
    images = torch.randint(0, max(batch, 1), (count, 1), generator=g) + 0.25
    rois = torch.cat((images, first, first + sides), 1)
    return [torch.randn(batch, channels, *size, generator=g), rois]


_ROI_ALIGN = [
    # regions, images, channels, size, bins, scale, sampling_ratio, aligned
    (3, 2, 3, (7, 9), (2, 3), 0.25, 2, True),
    (5, 2, 4, (6, 5), (3, 2), 1.0, -1, False),
    (4, 1, 2, (5, 8), (3, 3), 0.5, 1, False),
    (9, 3, 1, (13, 11), (7, 7), 0.125, 0, True),
    (0, 2, 5, (4, 4), (2, 2), 1.0, 2, False),
    (0, 0, 5, (4, 4), (2, 2), 1.0, 0, True),
    (6, 2, 0, (4, 4), (2, 2), 1.0, 2, False),
    (7, 1, 256, (17, 9), (7, 7), 0.25, 2, False),
    (3, 2, 67, (1, 30), (1, 5), 1.0, 3, True),
    (2, 1, 16, (40, 50), (14, 14), 0.5, 2, True),
    (3, 1, 8, (90, 3), (2, 1), 1.0, -1, True),
    (2, 1, 3, (12, 12), (20, 17), 0.25, 2, True),
]


def roi_align_samples() -> list[Sample]:
    samples: list[Sample] = []
    for seed, (count, batch, channels, size, bins, scale, ratio, aligned) in enumerate(_ROI_ALIGN):
        kwargs = {"output_size": bins, "spatial_scale": scale, "sampling_ratio": ratio, "aligned": aligned}
        label = f"K{count} N{batch} C{channels} {size} {kwargs}"
        samples.append((label, roi_align_arguments(count, batch, channels, size, scale, seed), kwargs))
    return samples


def nms_samples() -> list[Sample]:
    """Boxes that overlap, and scores of which some are equal."""
    samples: list[Sample] = []
    for count in (0, 1, 63, 64, 65, 300):
        g = _generator(count)
        corners, sides = 20 * torch.rand(count, 2, generator=g), 20 * torch.rand(count, 2, generator=g)
        scores = torch.randint(0, 30, (count,), generator=g).float()
        args = [torch.cat((corners, corners + sides), 1), scores]
        samples.append((f"{count} boxes", args, {"iou_threshold": 0.5}))
    return samples


SAMPLES = {
    "relu": relu_samples,
    "rope": rope_samples,
    "deform_conv2d": deform_conv2d_samples,
    "ms_deform_attn": ms_deform_attn_samples,
    "ms_deform_attn_fused": ms_deform_attn_fused_samples,
    "roi_align": roi_align_samples,
}
# Further ones, of ops with kernels that do not take those, and of ops that are not among those.
LARGE = {"deform_conv2d": deform_conv2d_tile_samples, "nms": nms_samples}


def random_rope(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    g = _generator(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    head_dim = 2 * pick(1, 40)
    rotary = 2 * pick(1, head_dim // 2) if pick(0, 1) else 0
    layout = ("bhsd", "bshd")[pick(0, 1)]
    table = ["[S, R/2]", "[S, R]", "[B, S, R]", "[1, S, R/2]", "ids", "ids int32", "ids [1, S]"][pick(0, 6)]
    heads = (pick(1, 6), pick(1, 6))
    args = rope_arguments(pick(0, 3), pick(0, 6), heads, head_dim, rotary, layout, table, seed)
    return args, {"interleaved": bool(pick(0, 1)), "rotary_dim": rotary, "layout": layout}


def random_deform_conv2d(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    g = _generator(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    def pair(low: int, high: int) -> tuple[int, int]:
        return pick(low, high), pick(low, high)

    groups, offset_groups = pick(1, 3), pick(1, 3)
    sizes = {
        "batch": pick(0, 3),
        "channels": 6 * pick(1, 2),
        "size": pair(7, 12),
        "out_channels": groups * pick(1, 4),
        "kernel": pair(1, 3),
        "groups": groups,
        "offset_groups": offset_groups,
    }
    kwargs = {"stride": pair(1, 3), "padding": pair(0, 2), "dilation": pair(1, 3)}
    return deform_conv2d_arguments(**sizes, **kwargs, bias=bool(pick(0, 1)), mask=bool(pick(0, 1)), seed=seed), kwargs


def random_relu(seed: int) -> tuple[list, dict]:
    g = _generator(seed)
    shape = torch.randint(0, 5, (seed % 8,), generator=g).tolist()
    return [torch.randn(shape, generator=g)], {"negative_slope": 0.01 * seed}


def _random_ms_deform_attn(seed: int) -> dict[str, Any]:
    """Sizes of a valid call."""
    g = _generator(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    return {
        "batch": pick(0, 3),
        "queries": pick(0, 20),
        "heads": pick(1, 4),
        "head_dim": (1, 3, 8, 16, 32, 40, 64, 7)[pick(0, 7)],
        "shapes": [(pick(1, 8), pick(1, 8)) for _ in range(pick(1, 5))],
        "points": pick(1, 8),
        "index": (torch.int32, torch.int64)[pick(0, 1)],
        "seed": seed,
    }


def random_ms_deform_attn(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    return ms_deform_attn_arguments(**_random_ms_deform_attn(seed)), {}


def random_ms_deform_attn_fused(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    return ms_deform_attn_fused_arguments(**_random_ms_deform_attn(seed), boxes=bool(seed % 2)), {}


def random_roi_align(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    g = _generator(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    scale, channels = 0.5 ** pick(0, 4), 4 * pick(1, 5) + pick(-3, 0)
    args = roi_align_arguments(pick(0, 6), pick(1, 3), channels, (pick(1, 20), pick(1, 20)), scale, seed)
    kwargs = {"output_size": (pick(1, 7), pick(1, 7)), "spatial_scale": scale, "sampling_ratio": pick(-1, 3)}
    return args, {**kwargs, "aligned": bool(pick(0, 1))}


RANDOM = {
    "relu": random_relu,
    "rope": random_rope,
    "deform_conv2d": random_deform_conv2d,
    "ms_deform_attn": random_ms_deform_attn,
    "ms_deform_attn_fused": random_ms_deform_attn_fused,
    "roi_align": random_roi_align,
}

# Two calls of each op: equal attributes, different shapes, none empty.
PAIRS = {
    "relu": ([torch.randn(129, 33)], [torch.randn(7, 5, 3)], {"negative_slope": 0.1, "max_value": 1.0}),
    "rope": (rope_arguments(2, 33, (4, 2), 64), rope_arguments(3, 65, (4, 2), 64, seed=1), {}),
    "deform_conv2d": (
        deform_conv2d_arguments(2, 8, (16, 16), 8, padding=(1, 1)),
        deform_conv2d_arguments(3, 8, (9, 31), 8, padding=(1, 1), seed=1),
        {"padding": 1},
    ),
    "ms_deform_attn": (ms_deform_attn_arguments(2, 33), ms_deform_attn_arguments(3, 65, seed=1), {}),
    "ms_deform_attn_fused": (ms_deform_attn_fused_arguments(2, 33), ms_deform_attn_fused_arguments(3, 65, seed=1), {}),
    "roi_align": (
        roi_align_arguments(9, 2, 16, (12, 15)),
        roi_align_arguments(5, 1, 7, (20, 11), seed=1),
        {"spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True},
    ),
}
