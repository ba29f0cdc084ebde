"""Calls of ps_roi_pool: those of roi_pool, of a map with as many channels as the bins need."""

from draw import picker
from torch import Tensor

from samples.detection.roi_pool import growing_shapes, region_arguments  # noqa: F401

_SIZES = [
    # regions, images, channels of the result, size, bins, scale
    (2, 1, 1, (4, 5), (1, 2), 0.25),
    (9, 3, 2, (13, 11), (7, 7), 0.125),
    (0, 2, 5, (4, 4), (2, 2), 1.0),
    (0, 0, 5, (4, 4), (2, 2), 1.0),
    (6, 2, 0, (4, 4), (2, 2), 1.0),
    (7, 1, 21, (17, 9), (3, 1), 0.3),
    (4, 2, 3, (1, 30), (1, 5), 1.0),
    (5, 1, 2, (12, 12), (9, 8), 0.25),
]


CHECKED = (0,)


def samples() -> list[tuple]:
    found = []
    for seed, (count, batch, channels, size, bins, scale) in enumerate(_SIZES):
        kwargs = {"output_size": bins, "spatial_scale": scale}
        args = region_arguments(count, batch, channels * bins[0] * bins[1], size, scale, seed)
        found.append((f"K{count} N{batch} C{channels} {size} {kwargs}", args, kwargs))
    return found


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    scale, bins, size = 0.5 ** pick(0, 4), (pick(1, 5), pick(1, 5)), (pick(1, 20), pick(1, 20))
    args = region_arguments(pick(0, 6), pick(1, 3), pick(1, 4) * bins[0] * bins[1], size, scale, seed)
    return args, {"output_size": bins, "spatial_scale": scale}


PAIR = (
    region_arguments(9, 2, 18, (12, 15)),
    region_arguments(5, 1, 27, (20, 11), seed=1),
    {"output_size": 3, "spatial_scale": 0.25},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = region_arguments(2 * size + 1, size, 45, (size + 6, 16), seed=seed)
    return x, rest
