"""Calls of roi_pool; those of ps_roi_pool and ps_roi_align have its regions."""

import torch
from draw import picker
from torch import Tensor

from samples.detection.roi_align import roi_align_arguments


def region_arguments(
    count: int, batch: int, channels: int, size: tuple[int, int], scale: float = 0.25, seed: int = 0
) -> list[Tensor]:
    """x and regions as of roi_align; a third has corners at whole pixels, another third half way between them.

    Not for seed 0, whose results have no jump where the regions are, as derivatives need it.
    """
    x, rois = roi_align_arguments(count, batch, channels, size, scale, seed)
    if not seed:
        return [x, rois]
    kinds = torch.arange(count) % 3
    whole = (rois[:, 1:] * scale).round()
    for kind, shift in ((0, 0.0), (1, 0.5)):
        rois[kinds == kind, 1:] = ((whole + shift) / scale)[kinds == kind]
    return [x, rois]


_SIZES = [
    # regions, images, channels, size, bins, scale
    (2, 1, 2, (5, 6), (2, 3), 0.25),
    (9, 3, 2, (13, 11), (7, 7), 0.125),
    (0, 2, 5, (4, 4), (2, 2), 1.0),
    (0, 0, 5, (4, 4), (2, 2), 1.0),
    (6, 2, 0, (4, 4), (2, 2), 1.0),
    (7, 1, 67, (17, 9), (3, 1), 0.3),
    (4, 2, 3, (1, 30), (1, 5), 1.0),
    (5, 1, 3, (12, 12), (20, 17), 0.25),
]
CHECKED = (0,)


def samples() -> list[tuple]:
    found = []
    for seed, (count, batch, channels, size, bins, scale) in enumerate(_SIZES):
        kwargs = {"output_size": bins, "spatial_scale": scale}
        label = f"K{count} N{batch} C{channels} {size} {kwargs}"
        found.append((label, region_arguments(count, batch, channels, size, scale, seed), kwargs))
    return found


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    scale, size = 0.5 ** pick(0, 4), (pick(1, 20), pick(1, 20))
    args = region_arguments(pick(0, 6), pick(1, 3), pick(1, 20), size, scale, seed)
    return args, {"output_size": (pick(1, 7), pick(1, 7)), "spatial_scale": scale}


PAIR = (
    region_arguments(9, 2, 16, (12, 15)),
    region_arguments(5, 1, 7, (20, 11), seed=1),
    {"output_size": 3, "spatial_scale": 0.25},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = region_arguments(2 * size + 1, size, 8, (size + 6, 16), seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 2: length}, "rest": [{0: torch.export.Dim("count", min=0, max=50)}]}
