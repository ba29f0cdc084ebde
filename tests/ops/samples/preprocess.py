"""Calls of preprocess."""

import torch
from draw import picker, seeded
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Random bytes."""
    return torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)


def boxes_of(count: int, height: int, width: int, seed: int = 0, step: int = 1) -> Tensor:
    """Boxes within images of that size, their numbers multiples of `step`."""
    pick = picker(seed)
    rows = []
    for _ in range(count):
        left, top = pick(0, width // step - 1), pick(0, height // step - 1)
        rows.append([left, top, pick(left + 1, width // step), pick(top + 1, height // step)])
    return step * torch.tensor(rows, dtype=torch.int64).reshape(count, 4)


def samples() -> list[tuple]:
    x, ragged = pixels(2, 23, 37, 3), boxes_of(2, 23, 37, 5)
    normalised = {"output_size": (16, 20), "mean": MEAN, "std": STD}
    found = [
        ("bilinear", [x], normalised),
        ("one pixel", [pixels(1, 1, 1, 3)], {"output_size": (3, 5)}),
        ("boxes", [x, None, ragged], {**normalised, "result": "bgr"}),
        ("no image", [pixels(0, 5, 4, 3)], {"output_size": 3}),
        ("int8", [x.view(torch.int8), None, ragged.int()], normalised),
        ("a row", [pixels(1, 1, 9, 3)], {"output_size": (4, 6)}),
        ("a column", [pixels(3, 9, 1, 3)], {"output_size": (4, 6)}),
        ("larger, channels last", [x], {**normalised, "output_size": (41, 51), "channels_last": True}),
        ("odd, channels last", [x], {"output_size": (9, 21), "channels_last": True}),
        ("a slice", [x[:, 2:20, 3:31]], normalised),
        ("rgba", [pixels(2, 9, 12, 4)], {"source": "rgba", "output_size": (7, 8)}),
        ("bgra to gray", [pixels(2, 9, 12, 4)], {"source": "bgra", "result": "gray", "output_size": (7, 8)}),
        ("gray", [pixels(2, 9, 12, 1)], {"source": "gray", "output_size": (7, 8), "std": STD}),
        ("planes", [pixels(2, 3, 9, 13)], {"layout": "nchw", "output_size": (7, 8)}),
        ("rounded", [pixels(1, 16, 24, 3)], {"rounded": True, "mode": "bicubic", "output_size": (4, 6)}),
    ]
    found += [
        (f"{mode} {'antialiased' if antialias else ''}", [x], {**normalised, "mode": mode, "antialias": antialias})
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
        for antialias in (False, True)
    ]
    found += [
        (
            f"{fit} {resize} {center}",
            [x, None, ragged],
            {**normalised, "fit": fit, "resize_size": resize, "center": center, "fill": (114.0, 0.0, 3.5)},
        )
        for fit in ("stretch", "letterbox", "crop")
        for resize in (0, (13, 31))
        for center in (True, False)
    ]
    luma, chroma = pixels(2, 12, 18), pixels(2, 6, 9, 2, seed=1)
    found += [
        (
            f"nv12 {matrix} {full}",
            [luma, chroma, boxes_of(2, 12, 18, 3, step=2)],
            {"source": "nv12", "output_size": (9, 10), "matrix": matrix, "full_range": full, "fit": "letterbox"},
        )
        for matrix in ("bt601", "bt709")
        for full in (False, True)
    ]
    return found


def further() -> list[tuple]:
    x = pixels(2, 40, 64, 3)  # rows of whole words
    return [
        ("smaller", [x], {"output_size": (19, 33), "mean": MEAN, "std": STD}),
        ("smaller, antialiased", [x], {"output_size": (19, 33), "antialias": True}),
    ]


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    count, height, width = pick(0, 3), pick(1, 40), pick(1, 70)
    x = pixels(count, height, width, 3, seed=seed)
    boxes = boxes_of(count, height, width, seed) if seed % 2 else None
    mode = ("bilinear", "bilinear", "bicubic", "nearest")[seed % 4]
    settings = {"mode": mode, "antialias": seed % 3 == 0, "fit": ("stretch", "letterbox", "crop")[seed % 3]}
    return [x, None, boxes], {"output_size": (pick(1, 40), pick(1, 70)), "mean": MEAN, "std": STD, **settings}


PAIR = (
    [pixels(2, 12, 15, 3), None, boxes_of(2, 12, 15)],
    [pixels(1, 20, 11, 3, seed=1), None, boxes_of(1, 20, 11, 1)],
    {"output_size": (9, 8), "mean": MEAN, "std": STD},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    return pixels(size, size + 6, 16, 3, seed=seed), [None, boxes_of(size, size + 6, 16, seed)]


def growing_shapes(batch, length) -> dict:
    return {"x": {0: batch, 1: length}, "rest": [None, {0: batch}]}
