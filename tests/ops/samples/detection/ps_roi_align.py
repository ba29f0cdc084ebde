"""Calls of ps_roi_align: those of ps_roi_pool, whose regions may be sampled anywhere."""

import torch
from draw import picker

from samples.detection import ps_roi_pool
from samples.detection.ps_roi_pool import growing, growing_shapes  # noqa: F401
from samples.detection.roi_align import roi_align_arguments

CHECKED = (0,)


def samples() -> list[tuple]:
    ratios = (2, 3, 1, 2, -1, 1, 2, 4)
    return [
        (f"{label} {ratio}", args, {**kwargs, "sampling_ratio": ratio})
        for ratio, (label, args, kwargs) in zip(ratios, ps_roi_pool.samples(), strict=True)
    ]


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes; adaptive samples lie in regions that have an area."""
    pick = picker(seed)
    scale, bins, size = 0.5 ** pick(0, 4), (pick(1, 5), pick(1, 5)), (pick(1, 20), pick(1, 20))
    channels, ratio = pick(1, 4) * bins[0] * bins[1], pick(-1, 3)
    x, rois = roi_align_arguments(pick(0, 6), pick(1, 3), channels, size, scale, seed)
    if ratio <= 0:
        rois[:, 3:] = torch.maximum(rois[:, 3:], rois[:, 1:3] + 1)
    return [x, rois], {"output_size": bins, "spatial_scale": scale, "sampling_ratio": ratio}


PAIR = (*ps_roi_pool.PAIR[:2], {**ps_roi_pool.PAIR[2], "sampling_ratio": 2})
