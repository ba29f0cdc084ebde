"""Calls of deform_roi_pool: regions of roi_align, and offsets of their bins."""

import torch
from draw import picker, seeded
from torch import Tensor

from samples.detection.roi_align import roi_align_arguments


def deform_roi_arguments(
    count: int,
    batch: int,
    channels: int,
    size: tuple[int, int],
    bins: tuple[int, int] = (3, 2),
    scale: float = 0.25,
    offsets: bool = True,
    seed: int = 0,
) -> list[Tensor | None]:
    """x, rois and offset; some bins move out of the map."""
    x, rois = roi_align_arguments(count, batch, channels, size, scale, seed)
    offset = torch.randn(count, 2, *bins, generator=seeded(seed + 1)) * 3
    return [x, rois, offset if offsets else None]


_SIZES = [
    # regions, images, channels, size, bins, scale, offsets
    (3, 1, 2, (5, 6), (2, 3), 0.25, True),
    (9, 3, 8, (13, 11), (7, 7), 0.125, True),
    (5, 2, 3, (9, 8), (3, 2), 0.5, False),
    (0, 2, 5, (4, 4), (2, 2), 1.0, True),
    (0, 0, 5, (4, 4), (2, 2), 1.0, True),
    (6, 2, 0, (4, 4), (2, 2), 1.0, True),
    (7, 1, 67, (17, 9), (3, 1), 0.3, True),
    (4, 2, 16, (1, 30), (1, 5), 1.0, True),
]
CHECKED = (0, 2)


def samples() -> list[tuple]:
    ratios = (2, 3, 1, 2, -1, 1, 2, 4)
    found = []
    for seed, (*sizes, size, bins, scale, offsets) in enumerate(_SIZES):
        kwargs = {"output_size": bins, "spatial_scale": scale, "sampling_ratio": ratios[seed], "gamma": 0.1 + seed / 9}
        args = deform_roi_arguments(*sizes, size, bins, scale, offsets, seed)
        found.append((f"{sizes} {size} {kwargs}", args, kwargs))
    return found


def further() -> list[tuple]:
    """A map that is more than shared memory holds, samples that are, and those of an adaptive grid."""
    found = []
    for size, bins, ratio in (((60, 75), (3, 2), 2), ((9, 8), (7, 7), 40), ((130, 6), (7, 7), 0)):
        kwargs = {"output_size": bins, "spatial_scale": 0.25, "sampling_ratio": ratio}
        found.append((f"{size} {kwargs}", deform_roi_arguments(3, 2, 5, size, bins), kwargs))
    return found


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    scale, size, bins = 0.5 ** pick(0, 4), (pick(1, 20), pick(1, 20)), (pick(1, 5), pick(1, 5))
    args = deform_roi_arguments(pick(0, 6), pick(1, 3), pick(1, 20), size, bins, scale, pick(0, 3) > 0, seed)
    kwargs = {"output_size": bins, "spatial_scale": scale, "sampling_ratio": pick(-1, 3), "gamma": 0.05 * pick(0, 9)}
    return args, kwargs


PAIR = (
    deform_roi_arguments(9, 2, 16, (12, 15), (3, 3)),
    deform_roi_arguments(5, 1, 7, (20, 11), (3, 3), seed=1),
    {"output_size": 3, "spatial_scale": 0.25, "sampling_ratio": 2},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = deform_roi_arguments(2 * size + 1, size, 8, (size + 6, 16), (3, 3), seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    count = torch.export.Dim("count", min=0, max=50)
    return {"x": {0: batch, 2: length}, "rest": [{0: count}, {0: count}]}
