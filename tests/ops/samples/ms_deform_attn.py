"""Calls of ms_deform_attn."""

from collections.abc import Sequence
from typing import Any

import torch
from draw import picker, seeded
from torch import Tensor


def levels_of(shapes: list[tuple[int, int]], index: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """spatial_shapes and level_start_index."""
    sizes = torch.tensor([h * w for h, w in shapes])
    return torch.tensor(shapes, dtype=index), (sizes.cumsum(0) - sizes).to(index)


def pixels_in(g: torch.Generator, shapes: list[tuple[int, int]], *extents: int) -> Tensor:
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
    g, shapes = seeded(seed), list(shapes)
    positions = sum(h * w for h, w in shapes)
    sizes = torch.tensor([(max(w, 1), max(h, 1)) for h, w in shapes]).unsqueeze(1)
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=g)
    return [
        torch.randn(batch, positions, heads, head_dim, generator=g),
        *levels_of(shapes, index),
        (pixels_in(g, shapes, batch, queries, heads, points) + 0.5) / sizes,
        weights / (len(shapes) * points) ** 0.5,
    ]


SIZES: list[dict[str, Any]] = [
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


# So many queries that a kernel of their own takes them: heads, points, levels. One for each position of the levels,
# which blocks share by parts of the image; levels may be so small that no point of them has four neighbours.
ENCODERS = [
    (8, 4, [(40, 41), (20, 21), (10, 11), (5, 6)]),
    (8, 8, [(33, 64), (1, 7)]),
    (4, 4, [(1, 1), (7, 1), (63, 66)]),
    (6, 4, [(0, 5), (52, 55)]),
    (2, 12, [(8300, 1)]),
]


# Few channels, and the fewest queries of kernels for many.
FURTHER: list[dict[str, Any]] = [
    {"batch": 1, "queries": 5, "head_dim": 12},
    {"batch": 1, "queries": 2048, "heads": 8, "head_dim": 32, "shapes": [(40, 41), (20, 20), (2, 4)]},
    {"batch": 2, "queries": 4100, "heads": 2, "head_dim": 32, "shapes": [(50, 82)]},
]


def samples() -> list[tuple]:
    return [(str(sizes), ms_deform_attn_arguments(**sizes, seed=seed), {}) for seed, sizes in enumerate(SIZES)]


def further() -> list[tuple]:
    return [(str(sizes), ms_deform_attn_arguments(**sizes), {}) for sizes in FURTHER]


def random_sizes(seed: int) -> dict[str, Any]:
    """Sizes of a valid call."""
    pick = picker(seed)

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


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    return ms_deform_attn_arguments(**random_sizes(seed)), {}


PAIR = (ms_deform_attn_arguments(2, 33), ms_deform_attn_arguments(3, 65, seed=1), {})


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    value, *rest = ms_deform_attn_arguments(size, size + 6, seed=seed)
    return value, rest


def growing_shapes(batch, length) -> dict:
    queries = {0: batch, 1: length}
    return {"x": {0: batch}, "rest": [None, None, queries, queries]}
