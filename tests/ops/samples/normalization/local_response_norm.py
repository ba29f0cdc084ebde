"""Calls of local_response_norm."""

import torch
from draw import picker, seeded
from torch import Tensor

_SIZES = [
    ((2, 7, 5, 3), {"alpha": 0.5}),
    ((2, 6, 4), {"size": 4, "alpha": 1.0, "beta": 0.5, "k": 2.0}),
    ((1, 3, 9, 11), {"size": 9, "alpha": 0.3}),
    ((0, 4, 3, 3), {}),
    ((2, 0, 3, 3), {"size": 3}),
    ((1, 12, 2, 3, 5), {"size": 1, "alpha": 2.0, "beta": 1.5}),
    ((2, 96, 9, 11), {"alpha": 1.0, "k": 2.0}),
    ((1, 192, 8, 12), {"size": 3, "alpha": 1.0}),
    ((1, 130, 4, 4), {"size": 9, "alpha": 1.0, "k": 0.1}),
    ((1, 40, 3, 4), {"size": 200, "alpha": 9.0, "beta": -0.5}),
]


def response_arguments(shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=seeded(seed)) * 2]


def samples() -> list[tuple]:
    return [
        (f"{shape} {kwargs}", response_arguments(shape, seed), kwargs) for seed, (shape, kwargs) in enumerate(_SIZES)
    ]


def further() -> list[tuple]:
    return [("neighbours at once", response_arguments((1, 40, 4, 6)), {"size": 5, "alpha": 1.0})]


TACTICS = (0,)  # the kernel of any size


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    shape = (pick(1, 3), pick(1, 20), *[pick(1, 9) for _ in range(pick(1, 3))])
    settings = {"size": pick(1, 11), "alpha": 0.2 * pick(0, 9), "beta": 0.25 * pick(1, 5), "k": 0.5 * pick(1, 4)}
    return response_arguments(shape, seed), settings


PAIR = (response_arguments((2, 8, 5, 7)), response_arguments((1, 12, 9), seed=1), {"size": 3, "alpha": 0.5})


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    return response_arguments((size, 16, size + 6, 5), seed)[0], []


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 2: length}, "rest": []}
