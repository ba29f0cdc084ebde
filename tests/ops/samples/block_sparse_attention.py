"""Calls of block_sparse_attention."""

from typing import Any

import torch
from draw import picker, seeded
from torch import Tensor

from samples.window_attention import window_attention_arguments


def block_sparse_arguments(
    batch: int,
    queries: int,
    keys: int,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    blocks: tuple[int, int] = (16, 16),
    masks: int = 1,
    layout: str = "bhsd",
    ranges: str = "",
    one_mask: bool = False,
    density: float = 0.5,
    seed: int = 0,
) -> list[Tensor | None]:
    """q, k, v, block_mask and key_ranges; masks: their number, of heads; one_mask: for the whole batch.

    density: the share of blocks that a mask has. ranges: as of window_attention_arguments.
    """
    q, k, v, _, ranges_ = window_attention_arguments(
        batch, queries, keys, heads, head_dim, layout, ranges=ranges, seed=seed
    )
    counts = [-(-length // size) for length, size in zip((queries, keys), blocks, strict=True)]
    mask = torch.rand(1 if one_mask else batch, masks, *counts, generator=seeded(seed + 100)) < density
    return [q, k, v, mask if seed % 2 else mask.int() * 3, ranges_]


def sized(sizes: dict[str, Any]) -> dict[str, int]:
    """The attributes that go with the blocks of some sizes."""
    return dict(zip(("query_block", "key_block"), sizes.get("blocks", (16, 16)), strict=True))


SIZES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch": 2, "queries": 37, "keys": 53, "masks": 4}, {"causal": True}),
    ({"batch": 1, "queries": 150, "keys": 150, "heads": (3, 1), "head_dim": 40, "blocks": (64, 32)}, {"softcap": 3.0}),
    ({"batch": 2, "queries": 7, "keys": 4, "blocks": (3, 2), "masks": 2, "ranges": "both"}, {"causal": True}),
    ({"batch": 1, "queries": 1, "keys": 150, "heads": (8, 2), "head_dim": 64, "masks": 2, "blocks": (1, 48)}, {}),
    ({"batch": 3, "queries": 9, "keys": 75, "heads": (6, 1), "head_dim": 24, "blocks": (1, 16)}, {"causal": True}),
    ({"batch": 1, "queries": 150, "keys": 170, "heads": (2, 2), "head_dim": 72, "ranges": "queries"}, {"scale": 0.3}),
    ({"batch": 2, "queries": 33, "keys": 33, "head_dim": 7, "blocks": (8, 5)}, {"scale": -0.5, "causal": True}),
    ({"batch": 2, "queries": 70, "keys": 130, "heads": (4, 1), "head_dim": 128, "masks": 4, "blocks": (32, 64)}, {}),
    ({"batch": 1, "queries": 90, "keys": 165, "heads": (2, 1), "head_dim": 256, "blocks": (80, 80)}, {"softcap": 1.5}),
    ({"batch": 2, "queries": 20, "keys": 64, "heads": (8, 2), "head_dim": 96, "masks": 4, "ranges": "one"}, {}),
    ({"batch": 1, "queries": 12, "keys": 3, "blocks": (500, 10**10), "ranges": "lengths"}, {"causal": True}),
    ({"batch": 2, "queries": 40, "keys": 40, "density": 0.0}, {}),
    ({"batch": 2, "queries": 3, "keys": 0}, {}),
    ({"batch": 0, "queries": 4, "keys": 4}, {}),
    ({"batch": 2, "queries": 0, "keys": 4}, {}),
]


# For kernels by the rows of a block of queries, and head_dim: some, few and many rows.
FURTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch": 1, "queries": 20, "keys": 40, "heads": (1, 1), "head_dim": 256, "blocks": (32, 16)}, {}),
    *(({"batch": 1, "queries": 2, "keys": 40, "head_dim": size}, {}) for size in (128, 256)),
    *(({"batch": 1, "queries": 70, "keys": 40, "head_dim": size, "blocks": (128, 16)}, {}) for size in (96, 128)),
]


def samples() -> list[tuple]:
    return _calls(SIZES)


def further() -> list[tuple]:
    return _calls(FURTHER)


def _calls(calls: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple]:
    found = []
    for seed, (sizes, attributes) in enumerate(calls):
        for layout in ("bhsd", "bshd")[: 1 + seed % 2]:
            args = block_sparse_arguments(**sizes, layout=layout, one_mask=seed % 3 == 2, seed=seed)
            found.append((f"{sizes} {attributes} {layout}", args, attributes | sized(sizes) | {"layout": layout}))
    return found


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    groups, ratio, layout = pick(1, 3), pick(1, 4), ("bhsd", "bshd")[pick(0, 1)]
    heads = groups * ratio
    sizes = {
        "batch": pick(0, 3),
        "queries": pick(0, 40),
        "keys": pick(0, 90),
        "heads": (heads, groups),
        "head_dim": (1, 7, 8, 16, 24, 32, 64, 80)[pick(0, 7)],
        "blocks": ((1, 16, 64)[pick(0, 2)], (1, 16, 48, 200)[pick(0, 3)]),
        "masks": (1, groups, heads)[pick(0, 2)],
        "ranges": ("", "lengths", "queries", "both", "one")[pick(0, 4)],
    }
    args = block_sparse_arguments(**sizes, layout=layout, one_mask=bool(pick(0, 1)), density=pick(1, 9) / 10, seed=seed)
    attributes: dict[str, Any] = {"causal": bool(pick(0, 1)), "layout": layout, "softcap": float(3 * pick(0, 1))}
    return args, attributes | sized(sizes) | {"scale": pick(0, 3) / 4}


PAIR = (
    block_sparse_arguments(2, 33, 65, head_dim=64, blocks=(1, 16), masks=4),
    block_sparse_arguments(3, 65, 97, head_dim=64, blocks=(1, 16), masks=2, seed=2),
    {"query_block": 1, "key_block": 16, "causal": True},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    """Blocks of one query, so that the mask has as many; all keys are in one block."""
    sizes: dict[str, Any] = {"head_dim": 64, "blocks": (1, 16), "masks": 4, "ranges": "lengths", "density": 0.8}
    args = block_sparse_arguments(size, size + 6, size + 6, **sizes, seed=2 * seed)
    return args[0], args[1:]


def growing_shapes(batch, length) -> dict:
    tokens = {0: batch, 2: length}
    return {"x": tokens, "rest": [tokens, tokens, tokens, {0: batch}]}
