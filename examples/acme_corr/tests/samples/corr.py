"""Calls of acme::corr, for bridge.testing and `bridge test`, `bridge sanitize`."""

import torch

# Odd extents and radii: a map smaller than the window, one wider than a block's piece of a row, and an empty one.
CALLS = [
    ((2, 3, 5, 7), (1, 2)),
    ((1, 17, 9, 4), (4, 4)),
    ((1, 5, 3, 131), (0, 6)),
    ((2, 9, 2, 33), (5, 1)),
    ((0, 4, 6, 6), (1, 1)),
]


def samples():
    generator = torch.Generator().manual_seed(0)
    for shape, radii in CALLS:
        f1, f2 = (torch.randn(shape, generator=generator) for _ in range(2))
        yield f"{shape}, radii {radii}", [f1, f2], {"radii": list(radii)}
