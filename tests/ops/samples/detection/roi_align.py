"""Calls of roi_align."""

import torch
from draw import picker, seeded
from torch import Tensor


def roi_align_arguments(
    count: int, batch: int, channels: int, size: tuple[int, int], scale: float = 0.25, seed: int = 0
) -> list[Tensor]:
    """x and regions: within the map, partly and wholly outside it, small ones and reversed ones."""
    g = seeded(seed)
    extents = torch.tensor([size[1], size[0]]) / scale
    first = (1.6 * torch.rand(count, 2, generator=g) - 0.3) * extents
    sides = (1.2 * torch.rand(count, 2, generator=g) - 0.1) * extents
    # Images are what these are rounded down to: derivatives have a jump at whole ones.
    images = torch.randint(0, max(batch, 1), (count, 1), generator=g) + 0.25
    rois = torch.cat((images, first, first + sides), 1)
    return [torch.randn(batch, channels, *size, generator=g), rois]


_SIZES = [
    # regions, images, channels, size, bins, scale, sampling_ratio, aligned
    (3, 2, 3, (7, 9), (2, 3), 0.25, 2, True),
    (5, 2, 4, (6, 5), (3, 2), 1.0, -1, False),
    (4, 1, 2, (5, 8), (3, 3), 0.5, 1, False),
    (9, 3, 1, (13, 11), (7, 7), 0.125, 0, True),
    (0, 2, 5, (4, 4), (2, 2), 1.0, 2, False),
    (0, 0, 5, (4, 4), (2, 2), 1.0, 0, True),
    (6, 2, 0, (4, 4), (2, 2), 1.0, 2, False),
    (7, 1, 256, (17, 9), (7, 7), 0.25, 2, False),
    (3, 2, 67, (1, 30), (1, 5), 1.0, 3, True),
    (2, 1, 16, (40, 50), (14, 14), 0.5, 2, True),
    (3, 1, 8, (90, 3), (2, 1), 1.0, -1, True),
    (2, 1, 3, (12, 12), (20, 17), 0.25, 2, True),
]


def samples() -> list[tuple]:
    found = []
    for seed, (count, batch, channels, size, bins, scale, ratio, aligned) in enumerate(_SIZES):
        kwargs = {"output_size": bins, "spatial_scale": scale, "sampling_ratio": ratio, "aligned": aligned}
        label = f"K{count} N{batch} C{channels} {size} {kwargs}"
        found.append((label, roi_align_arguments(count, batch, channels, size, scale, seed), kwargs))
    return found


TACTICS = (0,)  # the kernel of any call


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)

    scale, channels = 0.5 ** pick(0, 4), 4 * pick(1, 5) + pick(-3, 0)
    args = roi_align_arguments(pick(0, 6), pick(1, 3), channels, (pick(1, 20), pick(1, 20)), scale, seed)
    kwargs = {"output_size": (pick(1, 7), pick(1, 7)), "spatial_scale": scale, "sampling_ratio": pick(-1, 3)}
    return args, {**kwargs, "aligned": bool(pick(0, 1))}


PAIR = (
    roi_align_arguments(9, 2, 16, (12, 15)),
    roi_align_arguments(5, 1, 7, (20, 11), seed=1),
    {"spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = roi_align_arguments(2 * size + 1, size, 8, (size + 6, 16), seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 2: length}, "rest": [{0: torch.export.Dim("count", min=0, max=50)}]}
