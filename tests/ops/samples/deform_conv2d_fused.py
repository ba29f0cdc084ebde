"""Calls of deform_conv2d_fused, at the sizes of those of deform_conv2d."""

import torch
from draw import picker, seeded
from torch import Tensor

from samples import deform_conv2d as plain


def deform_conv2d_fused_arguments(*sizes, mask: bool = True, seed: int = 0, **options) -> list[Tensor | None]:
    """Those of deform_conv2d, with logits of the mask behind the offsets where there is a mask."""
    x, offset, weight, bias, _ = plain.deform_conv2d_arguments(*sizes, mask=False, seed=seed, **options)
    if mask:
        n, channels, *plane = offset.shape
        logits = torch.randn(n, channels // 2, *plane, generator=seeded(seed + 1000)) * 2
        offset = torch.cat([offset, logits], 1)
    return [x, offset, weight, bias]


_ACTIVATIONS = ({}, {"activation": "relu"}, {"activation": "leaky_relu", "negative_slope": 0.1})


def _with_options(label: str, seed: int, sizes: tuple, options: dict) -> tuple:
    """A sample with an activation in turn."""
    kwargs = {name: list(options[name]) for name in ("stride", "padding", "dilation") if name in options}
    kwargs |= {"modulated": options.get("mask", True), **_ACTIVATIONS[seed % 3]}
    return label, deform_conv2d_fused_arguments(*sizes, seed=seed, **options), kwargs


def samples() -> list[tuple]:
    return [_with_options(str(sizes), seed, (), sizes) for seed, sizes in enumerate(plain.SIZES)]


def further() -> list[tuple]:
    return [_with_options(label, seed, *tile) for seed, (label, tile) in enumerate(plain.TILES.items())]


SWITCHES = {"allow_tf32": True}
CONSTANTS = ("weight",)


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    options = plain.random_options(seed)
    pick = picker(seed + 1000)
    activation = _ACTIVATIONS[pick(0, 2)]
    kwargs = {name: options[name] for name in ("stride", "padding", "dilation")}
    return deform_conv2d_fused_arguments(**options), {**kwargs, "modulated": options["mask"], **activation}


PAIR = (
    deform_conv2d_fused_arguments(2, 8, (16, 16), 8, padding=(1, 1)),
    deform_conv2d_fused_arguments(3, 8, (9, 31), 8, padding=(1, 1), seed=1),
    {"padding": 1, "activation": "leaky_relu"},
)


def growing(size: int, seed: int = 0) -> tuple[Tensor, list]:
    x, *rest = deform_conv2d_fused_arguments(size, 8, (size + 6, 16), 8, padding=(1, 1), bias=False, seed=seed)
    return x, rest


def growing_shapes(batch, length) -> dict:
    plane = {0: batch, 2: length}
    return {"x": plane, "rest": [plane, None, None]}


def open_axes(tensors: list) -> dict:
    return {0: [0, 2, 3], 1: [0, 2, 3]}


NATIVE_TOLERANCE = plain.NATIVE_TOLERANCE
