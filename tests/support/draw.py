"""Numbers drawn from a seed."""

from collections.abc import Callable

import torch


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picker(seed: int) -> Callable[[int, int], int]:
    """A function that draws a number of a range, both ends within."""
    g = seeded(seed)
    return lambda low, high: int(torch.randint(low, high + 1, (), generator=g))
