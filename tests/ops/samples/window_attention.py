"""Calls of window_attention."""

from collections.abc import Callable
from typing import Any

import torch
from draw import picker, seeded
from torch import Tensor


def window_attention_arguments(
    batch: int,
    queries: int,
    keys: int,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    layout: str = "bhsd",
    sinks: bool = False,
    ranges: str = "",
    seed: int = 0,
) -> list[Tensor | None]:
    """q, k, v, sinks and key_ranges; ranges: "" for none, "lengths", "queries", "both" or "one", see `_ranges`."""
    g = seeded(seed)
    lengths, counts = (queries, keys, keys), (heads[0], heads[1], heads[1])
    pairs = zip(lengths, counts, strict=True)
    shapes = [(batch, n, s, head_dim) if layout == "bhsd" else (batch, s, n, head_dim) for s, n in pairs]
    args: list[Tensor | None] = [torch.randn(shape, generator=g) for shape in shapes]
    args += [torch.randn(heads[0], generator=g) if sinks else None]
    return [*args, _ranges(ranges, batch, queries, keys, g) if ranges else None]


def _ranges(kind: str, batch: int, queries: int, keys: int, g: torch.Generator) -> Tensor:
    """Of a batch element, of a query, of both, or one for all; some reach beyond the keys, some are empty."""
    size = {"lengths": (batch, 1), "queries": (1, queries), "both": (batch, queries), "one": (1, 1)}[kind]
    begin = torch.randint(-3, keys // 2 + 1, size, generator=g)
    ranges = torch.stack((begin, begin + torch.randint(0, keys + 4, size, generator=g)), -1)
    return ranges.int() if kind in ("lengths", "one") else ranges


SIZES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch": 2, "queries": 5, "keys": 9}, {"window_left": 3}),
    ({"batch": 1, "queries": 37, "keys": 37, "heads": (3, 1), "head_dim": 40}, {"window_left": 7, "window_right": 4}),
    ({"batch": 2, "queries": 7, "keys": 4, "sinks": True, "ranges": "both"}, {"window_right": 1, "softcap": 3.0}),
    ({"batch": 1, "queries": 1, "keys": 150, "heads": (8, 2), "head_dim": 64}, {"window_left": 99}),
    ({"batch": 3, "queries": 1, "keys": 75, "heads": (6, 1), "head_dim": 24, "ranges": "lengths"}, {}),
    ({"batch": 1, "queries": 150, "keys": 170, "heads": (2, 2), "head_dim": 72, "ranges": "queries"}, {"scale": 0.3}),
    ({"batch": 2, "queries": 33, "keys": 33, "head_dim": 7, "sinks": True}, {"window_left": 0, "scale": -0.5}),
    ({"batch": 1, "queries": 70, "keys": 130, "heads": (4, 1), "head_dim": 128}, {"window_left": 20, "softcap": 5.0}),
    ({"batch": 1, "queries": 9, "keys": 65, "heads": (2, 1), "head_dim": 256}, {"window_right": -1, "softcap": 1.5}),
    ({"batch": 2, "queries": 20, "keys": 64, "heads": (5, 5), "head_dim": 96, "ranges": "one"}, {"window_right": -1}),
    ({"batch": 1, "queries": 12, "keys": 3, "heads": (2, 2), "head_dim": 8}, {"window_left": 2}),
    ({"batch": 2, "queries": 3, "keys": 0}, {}),
    ({"batch": 0, "queries": 4, "keys": 4}, {}),
    ({"batch": 2, "queries": 0, "keys": 4, "sinks": True}, {}),
]


def in_layouts(calls: list[tuple[dict[str, Any], dict[str, Any]]], arguments: Callable[..., list]) -> list[tuple]:
    """Samples of (settings of `arguments`, attributes): each in one layout, every other one in both."""
    found = []
    for seed, (sizes, attributes) in enumerate(calls):
        for layout in ("bhsd", "bshd")[: 1 + seed % 2]:
            args = arguments(**sizes, layout=layout, seed=seed)
            found.append((f"{sizes} {attributes} {layout}", args, attributes | {"layout": layout}))
    return found


def samples() -> list[tuple]:
    return in_layouts(SIZES, window_attention_arguments)


def further() -> list[tuple]:
    """Of few rows of few and many key heads, by head_dim; and of enough rows for the largest tiles."""
    few: list[dict[str, Any]] = [{"batch": 1, "queries": 3, "head_dim": size} for size in (96, 128, 256)]
    few += [{"batch": 1, "queries": 9, "heads": (1, 1), "head_dim": size} for size in (128, 256)]
    for size in (64, 128, 256):
        few += [{"batch": 17, "queries": 1, "heads": (4 * rows, 4), "head_dim": size} for rows in (1, 9)]
    many = {"batch": 8, "queries": 50, "keys": 50, "heads": (64, 16), "head_dim": 128}
    return in_layouts([*(({"keys": 20, **each}, {}) for each in few), (many, {})], window_attention_arguments)


def random_attributes(pick: Callable[[int, int], int], layout: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {"window_left": pick(-1, 30), "window_right": pick(-1, 5), "layout": layout}
    return attributes | {"scale": pick(0, 3) / 4, "softcap": float(3 * pick(0, 1))}


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    groups, layout = pick(1, 3), ("bhsd", "bshd")[pick(0, 1)]
    args = window_attention_arguments(
        pick(0, 3),
        pick(0, 40),
        pick(0, 90),
        (groups * pick(1, 4), groups),
        (1, 7, 8, 16, 24, 32, 64, 80)[pick(0, 7)],
        layout,
        bool(pick(0, 1)),
        ("", "lengths", "queries", "both", "one")[pick(0, 4)],
        seed,
    )
    return args, random_attributes(pick, layout)


PAIR = (
    window_attention_arguments(2, 33, 65, head_dim=64),
    window_attention_arguments(3, 65, 97, head_dim=64, seed=1),
    {"window_left": 20},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    """With sinks, and a range for each batch element."""
    args = window_attention_arguments(size, size + 6, size + 6, head_dim=64, sinks=True, ranges="lengths", seed=seed)
    return args[0], args[1:]


def growing_shapes(batch, length) -> dict:
    tokens = {0: batch, 2: length}
    return {"x": tokens, "rest": [tokens, tokens, None, {0: batch}]}


NATIVE_TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}  # queries are scaled, and weights rounded, in 16 bits


def open_axes(tensors: list) -> dict:
    """Batch, heads and tokens of each."""
    return {place: [0, 1, 2] for place in range(3)}
