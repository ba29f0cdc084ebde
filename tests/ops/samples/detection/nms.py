"""Calls of nms."""

import torch
from draw import seeded


def samples() -> list[tuple]:
    """Boxes that overlap, and scores of which some are equal."""
    found = []
    for count in (0, 1, 63, 64, 65, 300):
        g = seeded(count)
        corners, sides = 20 * torch.rand(count, 2, generator=g), 20 * torch.rand(count, 2, generator=g)
        scores = torch.randint(0, 30, (count,), generator=g).float()
        args = [torch.cat((corners, corners + sides), 1), scores]
        found.append((f"{count} boxes", args, {"iou_threshold": 0.5}))
    return found
