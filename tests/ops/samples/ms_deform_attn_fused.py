"""Calls of ms_deform_attn_fused, at the sizes of those of ms_deform_attn."""

from collections.abc import Sequence

import torch
from draw import seeded
from torch import Tensor

from samples.ms_deform_attn import FURTHER, SIZES, ms_deform_attn_arguments, pixels_in, random_sizes


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
    g, shapes = seeded(seed + 1000), list(shapes)
    value, *levels, _, _ = ms_deform_attn_arguments(batch, queries, heads, head_dim, shapes, points, index, seed)
    sizes = torch.tensor([(max(w, 1), max(h, 1)) for h, w in shapes]).unsqueeze(1)
    references = torch.rand(batch, queries, len(shapes), 4 if boxes else 2, generator=g) * 0.8 + 0.1
    centres = references[:, :, None, :, None, :2]
    pixels = pixels_in(g, shapes, batch, queries, heads, points)
    offsets = pixels + 0.5 - centres * sizes
    if boxes:
        offsets = offsets / sizes * points / (0.5 * references[:, :, None, :, None, 2:])
    return [value, *levels, references, offsets, torch.randn(batch, queries, heads, len(shapes), points, generator=g)]


def samples() -> list[tuple]:
    both = [(sizes, (i // 2 + turn) % 2 == 1) for turn in (0, 1) for i, sizes in enumerate(SIZES)]
    return [
        (f"{sizes} boxes {boxes}", ms_deform_attn_fused_arguments(**sizes, boxes=boxes, seed=seed), {})
        for seed, (sizes, boxes) in enumerate(both)
    ]


def further() -> list[tuple]:
    return [(str(sizes), ms_deform_attn_fused_arguments(**sizes), {}) for sizes in FURTHER]


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    return ms_deform_attn_fused_arguments(**random_sizes(seed), boxes=bool(seed % 2)), {}


PAIR = (ms_deform_attn_fused_arguments(2, 33), ms_deform_attn_fused_arguments(3, 65, seed=1), {})


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    value, *rest = ms_deform_attn_fused_arguments(size, size + 6, seed=seed)
    return value, rest


def growing_shapes(batch, length) -> dict:
    queries = {0: batch, 1: length}
    return {"x": {0: batch}, "rest": [None, None, queries, queries, queries]}
