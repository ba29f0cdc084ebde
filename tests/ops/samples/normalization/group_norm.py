"""Calls of group_norm."""

import torch
from draw import picker, seeded
from torch import Tensor

ACTIVATIONS = ("none", "silu", "relu", "gelu")


def group_norm_arguments(shape: tuple[int, ...], weights: str = "both", seed: int = 0) -> list[Tensor | None]:
    """x, weight and bias; each image has a mean of its own. weights: "both", "weight", "bias" or ""."""
    g = seeded(seed)
    means = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=g)
    x = torch.randn(shape, generator=g) + means
    given = {name: torch.randn(shape[1], generator=g) for name in ("weight", "bias")}
    return [x, *(given[name] if weights in ("both", name) else None for name in given)]


_SIZES = [
    ((2, 6, 5, 7), "both", {"groups": 3, "activation": "silu"}),
    ((3, 8), "both", {"groups": 2}),
    ((2, 6, 4), "weight", {"groups": 6, "activation": "gelu"}),  # instance normalisation
    ((0, 4, 3, 3), "both", {"groups": 2}),
    ((2, 4, 0, 3), "both", {"groups": 2, "activation": "relu"}),
    ((1, 12, 2, 3, 5), "bias", {"groups": 1, "eps": 0.1, "activation": "relu"}),  # layer normalisation
    ((2, 35, 17, 13), "", {"groups": 7}),
    ((1, 64, 32, 40), "both", {"groups": 32, "activation": "silu"}),
    ((2, 16, 1, 1), "both", {"groups": 4, "eps": 1e-3}),
    ((1, 6, 3, 1, 2, 1, 3, 2), "both", {"groups": 2}),
]


def samples() -> list[tuple]:
    return [
        (f"{shape} {weights} {kwargs}", group_norm_arguments(shape, weights, seed), kwargs)
        for seed, (shape, weights, kwargs) in enumerate(_SIZES)
    ]


# For kernels with plans by size: groups that clusters and blocks hold or do not, in vectors or not.
_PLANS = [
    ((1, 8, 128, 256), 4),
    ((1, 4, 512, 640), 1),
    ((1, 6, 301, 333), 2),
    ((3, 40, 31, 33), 2),
    ((1, 2560, 8, 8), 32),
    ((2, 320, 33, 32), 32),
    ((1, 8, 4, 4), 2),
    ((2, 8, 4, 6), 1),
    ((1, 5, 7), 1),
    ((1, 1, 257, 512), 1),
    ((1, 1, 513, 512), 1),
    ((1, 2048, 6, 11), 32),
    # On 132 multiprocessors, threads with 2 values, and with 2 to 8 packets of them, of groups that one block holds.
    ((1, 128, 37, 41), 128),
    ((1, 128, 96, 96), 128),
    ((1, 128, 130, 132), 128),
    ((1, 128, 186, 188), 128),
]
TACTICS = (0, 1)  # in one launch, value by value; in two


def further() -> list[tuple]:
    return [
        (f"{shape}, {groups} groups", group_norm_arguments(shape, seed=seed), {"groups": groups, "activation": "silu"})
        for seed, (shape, groups) in enumerate(_PLANS)
    ]


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    groups, rank = pick(1, 6), pick(0, 3)
    # At least two values a group, and a variance well above eps: of equal values the results are rounding errors.
    shape = (pick(1, 3), groups * pick(2, 4), *[pick(2, 9) for _ in range(rank)])
    weights = ("both", "weight", "bias", "")[pick(0, 3)]
    kwargs = {"groups": groups, "eps": 0.01 * pick(1, 9), "activation": ACTIVATIONS[pick(0, 3)]}
    return group_norm_arguments(shape, weights, seed), kwargs


PAIR = (
    group_norm_arguments((2, 8, 5, 7)),
    group_norm_arguments((1, 12, 9, 4), seed=1),
    {"groups": 4, "activation": "silu"},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = group_norm_arguments((size, 32, size + 6, 5), seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 2: length}, "rest": [None, None]}
