"""Calls of deform_conv2d."""

import torch
from draw import picker, seeded
from torch import Tensor


def deform_conv2d_arguments(
    batch: int,
    channels: int,
    size: tuple[int, int],
    out_channels: int,
    kernel: tuple[int, int] = (3, 3),
    groups: int = 1,
    offset_groups: int = 1,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    bias: bool = True,
    mask: bool = True,
    seed: int = 0,
) -> list[Tensor | None]:
    g = seeded(seed)
    taps = kernel[0] * kernel[1]
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    return [
        torch.randn(batch, channels, *size, generator=g),
        # Fractions well inside a cell: derivatives have kinks at whole pixels. Some points lie outside the map.
        torch.randint(-3, 4, (batch, 2 * offset_groups * taps, *out), generator=g)
        + 0.1
        + 0.8 * torch.rand(batch, 2 * offset_groups * taps, *out, generator=g),
        torch.randn(out_channels, channels // groups, *kernel, generator=g),
        torch.randn(out_channels, generator=g) if bias else None,
        torch.rand(batch, offset_groups * taps, *out, generator=g) if mask else None,
    ]


SIZES = [
    {"batch": 2, "channels": 4, "size": (7, 9), "out_channels": 5, "padding": (1, 1)},
    {"batch": 1, "channels": 6, "size": (9, 11), "out_channels": 4, "kernel": (3, 2), "groups": 2, "offset_groups": 3,
     "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "bias": False},
    {"batch": 2, "channels": 4, "size": (7, 5), "out_channels": 6, "kernel": (1, 3), "offset_groups": 2,
     "stride": (1, 3), "padding": (1, 0), "dilation": (2, 1), "mask": False},
    {"batch": 0, "channels": 4, "size": (5, 5), "out_channels": 3, "padding": (1, 1)},
    {"batch": 3, "channels": 1, "size": (1, 1), "out_channels": 1, "kernel": (1, 1), "bias": False, "mask": False},
    {"batch": 1, "channels": 35, "size": (6, 13), "out_channels": 70, "groups": 5, "offset_groups": 7, "stride": (3, 2),
     "padding": (2, 1)},
    {"batch": 2, "channels": 8, "size": (10, 8), "out_channels": 8, "groups": 8, "offset_groups": 1, "dilation": (3, 2),
     "padding": (1, 3)},
    {"batch": 1, "channels": 32, "size": (12, 17), "out_channels": 130, "kernel": (5, 3), "padding": (2, 1)},
]  # fmt: skip


def samples() -> list[tuple]:
    found = []
    for seed, sizes in enumerate(SIZES):
        kwargs = {key: sizes[key] for key in ("stride", "padding", "dilation") if key in sizes}
        found.append((str(sizes), deform_conv2d_arguments(**sizes, seed=seed), kwargs))
    return found


# For kernels whose tiles need many channels: extents that fill them, or just do not.
TILES = {
    "one position": ((1, 64, (1, 1), 64), {"padding": (1, 1)}),
    "odd extents": ((2, 96, (15, 13), 100), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)}),
    "groups": ((2, 128, (12, 16), 128), {"groups": 2, "padding": (1, 1)}),
    "offset groups": ((2, 128, (12, 16), 72), {"offset_groups": 4, "padding": (1, 1)}),
    "both": ((3, 256, (9, 7), 256), {"groups": 2, "offset_groups": 4, "bias": False, "mask": False}),
    "ragged channels": ((2, 40, (12, 16), 48), {"padding": (1, 1)}),
    "large kernel": ((1, 64, (16, 16), 192), {"kernel": (5, 5), "padding": (2, 2)}),
    "several blocks a tile": ((1, 256, (14, 14), 64), {"padding": (1, 1)}),
    "columns": ((2, 256, (14, 14), 256), {"padding": (1, 1)}),
    "columns, odd extents": ((2, 232, (15, 13), 130), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)}),
    "columns, groups": ((3, 512, (9, 7), 384), {"groups": 2, "padding": (1, 1)}),
    "columns, offset groups": ((1, 256, (9, 40), 192), {"offset_groups": 4, "padding": (1, 1), "bias": False,
                                                        "mask": False}),
    "columns, large kernel": ((1, 128, (12, 16), 320), {"kernel": (5, 5), "padding": (2, 2)}),
    "columns, wide rows": ((1, 256, (5, 104), 136), {"padding": (1, 1)}),
    "narrow offset groups": ((2, 64, (20, 33), 64), {"offset_groups": 16, "padding": (1, 1)}),
    "offset groups of 8": ((1, 64, (18, 40), 64), {"offset_groups": 8, "padding": (1, 1), "mask": False}),
    "offset groups of 16": ((2, 128, (15, 22), 130), {"offset_groups": 8, "padding": (1, 1)}),
    "offset groups of 24": ((1, 48, (11, 12), 32), {"offset_groups": 2, "padding": (1, 1), "bias": False}),
    "offset groups of 5": ((2, 60, (11, 14), 40), {"groups": 2, "offset_groups": 12, "padding": (1, 1)}),
    "offset groups of 2": ((1, 32, (9, 17), 16), {"offset_groups": 16, "kernel": (2, 2)}),
    "narrow, strided": ((2, 48, (21, 19), 32), {"offset_groups": 12, "stride": (2, 1), "padding": (1, 2),
                                                "dilation": (2, 1)}),
    "narrow, one tap": ((1, 64, (9, 10), 32), {"offset_groups": 16, "kernel": (1, 1)}),
    "narrow, many taps": ((1, 24, (12, 15), 16), {"offset_groups": 6, "kernel": (5, 3), "padding": (2, 1)}),
    "narrow, several groups an offset group": ((1, 32, (8, 9), 64), {"groups": 4, "offset_groups": 2,
                                                                     "padding": (1, 1)}),
}  # fmt: skip


def further() -> list[tuple]:
    found = []
    for label, (extents, options) in TILES.items():
        kwargs = {name: list(options[name]) for name in ("stride", "padding", "dilation") if name in options}
        found.append((label, deform_conv2d_arguments(*extents, **options), kwargs))
    return found


SWITCHES = {"allow_tf32": True}
CONSTANTS = ("weight",)


def random_options(seed: int) -> dict:
    """What deform_conv2d_arguments takes, at random."""
    pick = picker(seed)

    def pair(low: int, high: int) -> tuple[int, int]:
        return pick(low, high), pick(low, high)

    groups, offset_groups = pick(1, 3), pick(1, 3)
    sizes = {
        "batch": pick(0, 3),
        "channels": 6 * pick(1, 2),
        "size": pair(7, 12),
        "out_channels": groups * pick(1, 4),
        "kernel": pair(1, 3),
        "groups": groups,
        "offset_groups": offset_groups,
    }
    geometry = {"stride": pair(1, 3), "padding": pair(0, 2), "dilation": pair(1, 3)}
    return {**sizes, **geometry, "bias": bool(pick(0, 1)), "mask": bool(pick(0, 1)), "seed": seed}


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    options = random_options(seed)
    return deform_conv2d_arguments(**options), {name: options[name] for name in ("stride", "padding", "dilation")}


PAIR = (
    deform_conv2d_arguments(2, 8, (16, 16), 8, padding=(1, 1)),
    deform_conv2d_arguments(3, 8, (9, 31), 8, padding=(1, 1), seed=1),
    {"padding": 1},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = deform_conv2d_arguments(size, 8, (size + 6, 16), 8, padding=(1, 1), bias=False, seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    plane = {0: batch, 2: length}
    return {"x": plane, "rest": [plane, None, None, plane]}


def open_axes(tensors: list) -> dict:
    return {0: [0, 2, 3], 1: [0, 2, 3], 4: [0, 2, 3]}


# Samples and sums are rounded too, and coordinates differ by some: of the largest value.
NATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 8 * 2**-10, torch.bfloat16: 8 * 2**-7}
