"""Calls of swin_attention."""

from typing import Any

import torch
from draw import picker, seeded
from torch import Tensor

Pair = tuple[int, int]


def swin_attention_arguments(
    lead: tuple[int, ...],
    heads: int = 2,
    head_dim: int = 16,
    window: Pair | None = None,
    packed: bool = True,
    bias: bool = True,
    masks: int = 0,
    cosine: bool = False,
    seed: int = 0,
) -> list[Tensor | None]:
    """q, k, v, bias, mask and logit_scale. lead: of q, [windows, T], or [N, H, W] where there is a window."""
    g = seeded(seed)
    tokens = window[0] * window[1] if window else lead[1]

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    channels = heads * head_dim
    tensors = [random(*lead, 3 * channels), None, None] if packed else [random(*lead, channels) for _ in range(3)]
    return [
        *tensors,
        random(heads, tokens, tokens) if bias else None,
        torch.where(random(masks, tokens, tokens) > 0, 0.0, -9.0) if masks else None,
        random(heads).abs() * 10 if cosine else None,
    ]


# Of arguments and of attributes; maps have a window in both.
CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lead": (6, 49), "heads": 3, "head_dim": 32, "masks": 3}, {}),
    ({"lead": (2, 14, 21), "head_dim": 32, "window": (7, 7)}, {"shift": (3, 3)}),
    ({"lead": (3, 9), "head_dim": 7, "bias": False}, {"head_major": True, "scale": 0.3}),
    ({"lead": (2, 8, 12), "heads": 1, "head_dim": 24, "window": (4, 6), "cosine": True}, {"shift": (0, 5)}),
    ({"lead": (1, 14, 14), "head_dim": 32, "window": (7, 7), "packed": False}, {"grid": True}),
    ({"lead": (2, 65), "head_dim": 40, "packed": False, "cosine": True, "masks": 1}, {}),
    ({"lead": (1, 12, 24), "heads": 1, "head_dim": 64, "window": (12, 12)}, {"shift": (6, 1), "shift_mask": -200.0}),
    ({"lead": (4, 64), "heads": 5, "head_dim": 48, "masks": 4}, {}),
    ({"lead": (1, 100), "heads": 1, "head_dim": 128, "masks": 1}, {}),
    ({"lead": (2, 9, 10), "head_dim": 8, "window": (3, 5)}, {"grid": True, "head_major": True}),
    ({"lead": (2, 33), "heads": 1, "head_dim": 256, "bias": False}, {"scale": -0.2}),
    ({"lead": (3, 1), "head_dim": 16}, {}),
    ({"lead": (0, 4)}, {}),
    ({"lead": (0, 4, 4), "window": (2, 2)}, {"shift": (1, 1)}),
    ({"lead": (3, 0)}, {}),
]


# For kernels by the tokens of a window, whether there is a mask, and head_dim: of one window.
_WINDOWS: list[dict[str, Any]] = [
    *(
        {"lead": (1, tokens), "head_dim": head_dim, **given}
        for tokens in (49, 64)
        for head_dim in (32, 64)
        for given in ({}, {"masks": 1}, {"cosine": True})
    ),
    *({"lead": (1, tokens), "head_dim": 32, "cosine": cosine} for tokens in (66, 100) for cosine in (False, True)),
    {"lead": (1, 66), "head_dim": 64, "cosine": True},
    *({"lead": (1, tokens), "head_dim": 32, "masks": 1} for tokens in (66, 100)),
    {"lead": (1, 100), "head_dim": 64, "masks": 1},
]


def samples() -> list[tuple]:
    return _calls(CALLS)


def further() -> list[tuple]:
    return _calls([({"heads": 1, **given}, {}) for given in _WINDOWS])


def _calls(calls: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple]:
    found = []
    for seed, (given, attributes) in enumerate(calls):
        settings = {"heads": given.get("heads", 2)} | attributes
        settings |= {"window": given["window"]} if "window" in given else {}
        found.append((f"{given} {attributes}", swin_attention_arguments(**given, seed=seed), settings))
    return found


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    heads, packed = pick(1, 3), bool(pick(0, 1))
    settings: dict[str, Any] = {"heads": heads, "scale": pick(0, 3) / 4, "head_major": packed and bool(pick(0, 1))}
    window = (pick(1, 9), pick(1, 9)) if pick(0, 1) else None
    masks = pick(0, 2)
    if window is None:
        lead: tuple[int, ...] = (pick(0, 3) * max(1, masks), pick(0, 80))
    else:
        lead = (pick(0, 2) * max(1, masks), window[0] * pick(1, 3), window[1] * pick(1, 3))
        grid = bool(pick(0, 1))
        shift = (0, 0) if grid else (pick(0, window[0] - 1), pick(0, window[1] - 1))
        settings |= {"window": window, "grid": grid, "shift": shift, "shift_mask": -float(pick(1, 100))}
    head_dim = (1, 7, 8, 16, 24, 32, 64, 80)[pick(0, 7)]
    bias, cosine = bool(pick(0, 1)), bool(pick(0, 1))
    return swin_attention_arguments(lead, heads, head_dim, window, packed, bias, masks, cosine, seed), settings


PAIR = (
    swin_attention_arguments((4, 49), head_dim=32, masks=2),
    swin_attention_arguments((6, 30), head_dim=32, masks=3, seed=1),
    {"heads": 2, "scale": 0.3},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    """Windows of `size` + 6 tokens."""
    args = swin_attention_arguments((size, size + 6), head_dim=32, masks=1, seed=seed)
    return args[0], args[1:]


def growing_shapes(batch, length) -> dict:
    table = {1: length, 2: length}
    return {"x": {0: batch, 1: length}, "rest": [None, None, table, table, None]}
