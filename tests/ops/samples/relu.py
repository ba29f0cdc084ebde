"""Calls of relu."""

import torch
from draw import seeded


def samples() -> list[tuple]:
    shapes = [(), (0,), (1,), (7,), (3, 0, 5), (129, 33), (2, 3, 5, 7), (1, 2, 1, 3, 1, 2, 1, 5)]
    attributes = [{}, {"negative_slope": 0.1}, {"max_value": 1.0}, {"negative_slope": -0.5, "max_value": 0.25}]
    return [
        (f"{shape} {kwargs}", [torch.randn(shape, generator=seeded(i)) * 3], kwargs)
        for i, (shape, kwargs) in enumerate((s, a) for s in shapes for a in attributes)
    ]


def random_call(seed: int) -> tuple[list, dict]:
    g = seeded(seed)
    shape = torch.randint(0, 5, (seed % 8,), generator=g).tolist()
    return [torch.randn(shape, generator=g)], {"negative_slope": 0.01 * seed}


PAIR = (
    [torch.randn(129, 33, generator=seeded(0))],
    [torch.randn(7, 5, 3, generator=seeded(1))],
    {"negative_slope": 0.1, "max_value": 1.0},
)


def growing(size: int, seed: int = 0) -> tuple[torch.Tensor, list]:
    return torch.randn(size, size + 6, 33, generator=seeded(seed)), []


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 1: length}, "rest": []}


def open_axes(tensors: list) -> dict:
    return {0: range(tensors[0].dim())}
