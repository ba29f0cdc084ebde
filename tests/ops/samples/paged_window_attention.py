"""Calls of paged_window_attention."""

from typing import Any

import torch
from draw import picker, seeded
from torch import Tensor

from samples.window_attention import in_layouts, random_attributes, window_attention_arguments


def paged_arguments(
    lengths: tuple[int, ...],
    queries: int,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    page_size: int = 16,
    spare: int = 1,
    layout: str = "bhsd",
    sinks: bool = False,
    ranges: str = "",
    seed: int = 0,
    rest: float = torch.nan,
) -> list[Tensor | None]:
    """q, k_cache, v_cache, block_table, lengths, sinks and key_ranges; ranges: as of window_attention_arguments.

    Pages of the sequences lie anywhere in the cache. spare: pages that none has, and entries of the table that no
    sequence needs, which are numbers of no page. rest: what caches hold where no key is.
    """
    g = seeded(seed + 500)
    batch, (_, groups) = len(lengths), heads
    counts = [-(-length // page_size) for length in lengths]
    pages, width = sum(counts) + spare, max(counts, default=0) + spare
    order = torch.randperm(pages, generator=g)
    table = torch.full((batch, width), -7)
    caches = [torch.full((pages, page_size, groups, head_dim), rest) for _ in range(2)]
    for row, first, count, length in zip(table, _starts(counts), counts, lengths, strict=True):
        row[:count] = order[first : first + count]
        for cache in caches:
            keys = torch.full((count * page_size, groups, head_dim), rest)
            keys[:length] = torch.randn(length, groups, head_dim, generator=g)
            cache[row[:count]] = keys.view(count, page_size, groups, head_dim)
    q, _, _, sink, key_ranges = window_attention_arguments(
        batch, queries, max(lengths, default=0), heads, head_dim, layout, sinks, ranges, seed
    )
    dtype = torch.int64 if seed % 2 else torch.int32
    return [q, *caches, table.to(dtype), torch.tensor(lengths, dtype=dtype), sink, key_ranges]


def _starts(counts: list[int]) -> list[int]:
    return [sum(counts[:i]) for i in range(len(counts))]


SIZES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lengths": (9, 40), "queries": 5}, {"window_left": 3}),
    ({"lengths": (37,), "queries": 37, "heads": (3, 1), "head_dim": 40, "page_size": 7}, {"window_right": 4}),
    ({"lengths": (4, 33, 0), "queries": 7, "sinks": True, "ranges": "both"}, {"window_right": 1, "softcap": 3.0}),
    ({"lengths": (150, 1), "queries": 1, "heads": (8, 2), "head_dim": 64, "page_size": 48}, {"window_left": 99}),
    ({"lengths": (75, 3, 64), "queries": 1, "heads": (6, 1), "head_dim": 24, "ranges": "lengths"}, {}),
    ({"lengths": (170,), "queries": 150, "heads": (2, 2), "head_dim": 72, "ranges": "queries"}, {"scale": 0.3}),
    ({"lengths": (33, 20), "queries": 33, "head_dim": 7, "page_size": 1}, {"window_left": 0, "scale": -0.5}),
    ({"lengths": (130,), "queries": 70, "heads": (4, 1), "head_dim": 128}, {"window_left": 20, "softcap": 5.0}),
    ({"lengths": (65,), "queries": 9, "heads": (2, 1), "head_dim": 256, "page_size": 64}, {"window_right": -1}),
    ({"lengths": (64, 50), "queries": 20, "heads": (5, 5), "head_dim": 96, "ranges": "one"}, {"window_right": -1}),
    ({"lengths": (0, 0), "queries": 3, "spare": 0}, {}),
    ({"lengths": (), "queries": 4}, {}),
    ({"lengths": (5, 4), "queries": 0, "sinks": True}, {}),
]


def samples() -> list[tuple]:
    return in_layouts(SIZES, paged_arguments)


def further() -> list[tuple]:
    """Of a few rows, by head_dim; and of so many keys that blocks share them in float32, too."""
    few = [({"lengths": (20,), "queries": 3, "head_dim": size}, {}) for size in (96, 128, 256)]
    return in_layouts([*few, ({"lengths": (700,), "queries": 1, "heads": (1, 1)}, {})], paged_arguments)


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    groups, layout = pick(1, 3), ("bhsd", "bshd")[pick(0, 1)]
    args = paged_arguments(
        tuple(pick(0, 90) for _ in range(pick(0, 3))),
        pick(0, 40),
        (groups * pick(1, 4), groups),
        (1, 7, 8, 16, 24, 32, 64, 80)[pick(0, 7)],
        (1, 5, 16, 32, 48)[pick(0, 4)],
        pick(0, 2),
        layout,
        bool(pick(0, 1)),
        ("", "lengths", "queries", "both", "one")[pick(0, 4)],
        seed,
    )
    return args, random_attributes(pick, layout)


PAIR = (
    paged_arguments((65, 40), 33, head_dim=64, rest=0.0),
    paged_arguments((97, 65, 80), 65, head_dim=64, rest=0.0, seed=2),
    {"window_left": 20},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    """Pages of one key, as many as a sequence has: all have the same ones, each in an order of its own."""
    length = size + 6
    q, k, v, _, _, sinks, ranges = paged_arguments(
        (length,), length, head_dim=64, page_size=1, spare=0, sinks=True, ranges="lengths", seed=2 * seed
    )
    g = seeded(seed)
    table = torch.stack([torch.randperm(length, generator=g) for _ in range(size)]).int()
    q = torch.randn(size, *q.shape[1:], generator=g)
    return q, [k, v, table, torch.full((size,), length).int(), sinks, ranges.expand(size, 1, 2).contiguous()]


def growing_shapes(batch, length) -> dict:
    pages = {0: length}
    return {"x": {0: batch, 2: length}, "rest": [pages, pages, {0: batch, 1: length}, {0: batch}, None, {0: batch}]}
