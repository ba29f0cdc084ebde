"""What each step of a chain does to the levels of images, as one affine map of each channel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, value

CHANNELS = {3: "rgb", 1: "gray"}
"""What images hold, by their number of channels."""
RESIZES: dict[Any, tuple[str, bool]] = {
    getattr(aten, name): (mode, antialias)
    for name, mode, antialias in (
        ("upsample_bilinear2d", "bilinear", False),
        ("_upsample_bilinear2d_aa", "bilinear", True),
        ("upsample_bicubic2d", "bicubic", False),
        ("_upsample_bicubic2d_aa", "bicubic", True),
        ("upsample_nearest2d", "nearest", False),
        ("_upsample_nearest_exact2d", "nearest-exact", False),
    )
}
ARITHMETIC: dict[Any, str] = {
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), "mul"),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), "div"),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), "add"),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), "sub"),
}


class Declined(Exception):
    """Why what resembles a chain is not replaced."""


@dataclass
class Levels:
    """What the steps so far make of levels of 0 to 255: level * factor + shift, [channels] each."""

    factor: Tensor
    shift: Tensor
    axis: int  # of the channels
    reversed: bool = False
    rounded: bool = False
    resized: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether they are levels still."""
        return bool((self.factor == 1).all() and (self.shift == 0).all())


def dtype_of(node: Node) -> torch.dtype | None:
    """The dtype of a node's tensor; None for other nodes."""
    tensor = value(node)
    return None if tensor is None else tensor.dtype


def evaluate(images: Node, steps: Sequence[Node], constants: Constants) -> Levels:
    """The map of a whole chain. Declined: a step is none that the op has."""
    shape = images.meta["val"].shape
    packed = any(step.target is aten.permute.default for step in steps)
    channels = shape[3 if packed else 1] if len(shape) == 4 else None
    if channels not in CHANNELS:
        raise Declined(f"images of shape {list(shape)} have neither one channel nor three, expected four dimensions")
    one = torch.ones(channels, dtype=torch.float64)
    levels = Levels(one, one * 0, 3 if packed else 1, settings={"layout": "nhwc" if packed else "nchw"})
    for step in steps:
        _STEPS.get(getattr(step.target, "overloadpacket", step.target), _convert)(step, levels, constants)
    return levels


def _permute(step: Node, levels: Levels, constants: Constants) -> None:
    order = [axis % 4 for axis in step.args[1]]  # type: ignore[union-attr, operator]
    if levels.axis != 3 or order != [0, 3, 1, 2]:
        raise Declined(f"it permutes axes as {order}, expected one permutation from [N, H, W, C] to [N, C, H, W]")
    levels.axis = 1


def _flip(step: Node, levels: Levels, constants: Constants) -> None:
    if [axis % 4 for axis in step.args[1]] != [levels.axis]:  # type: ignore[union-attr, operator]
        raise Declined("it flips the images themselves, not their channels alone")
    levels.factor, levels.shift, levels.reversed = levels.factor.flip(0), levels.shift.flip(0), not levels.reversed


def _resize(step: Node, levels: Levels, constants: Constants) -> None:
    given, (mode, antialias) = arguments(step), RESIZES[step.target.overloadpacket]  # type: ignore[union-attr]
    if levels.axis != 1 or levels.resized:
        raise Declined("it resizes twice, or along other axes than height and width")
    if given.get("align_corners"):
        raise Declined("it aligns corners, which bridge.preprocess does not")
    scales = [given.get(name) for name in ("scale_factors", "scales_h", "scales_w", "scales")]
    size = given.get("output_size")
    if any(each is not None for each in scales) or not size or not all(isinstance(side, int) for side in size):
        raise Declined("it resizes by a factor, or to a size that depends on shapes; expected output_size in numbers")
    levels.rounded = levels.rounded or dtype_of(step) == torch.uint8
    levels.resized = True
    levels.settings |= {"output_size": list(size), "mode": mode, "antialias": antialias}


def _round(step: Node, levels: Levels, constants: Constants) -> None:
    if not levels.resized or not levels.plain or arguments(step).get("decimals"):
        raise Declined("it rounds something else than resized levels")
    levels.rounded = True


def _clamp(step: Node, levels: Levels, constants: Constants) -> None:
    given = arguments(step)
    if not levels.plain or not levels.resized or (given.get("min"), given.get("max")) != (0, 255):
        raise Declined("it clamps something else than resized levels, or to other bounds than 0 and 255")
    levels.settings["clamped"] = True


def _arithmetic(step: Node, levels: Levels, constants: Constants) -> None:
    if not value(step).dtype.is_floating_point or arguments(step).get("alpha", 1) != 1:  # type: ignore[union-attr]
        raise Declined("it computes with whole numbers, or with a factor alpha")
    kind, turned = ARITHMETIC[step.target], not _is_variable(step.args[0], constants)
    constant = _per_channel(step.args[0 if turned else 1], levels, constants)
    if kind == "div" and turned:
        raise Declined("it divides by the images")
    if kind in ("mul", "div"):
        constant = 1 / constant if kind == "div" else constant
        levels.factor, levels.shift = levels.factor * constant, levels.shift * constant
    elif kind == "add":
        levels.shift = levels.shift + constant
    else:
        sign = -1.0 if turned else 1.0
        levels.factor, levels.shift = sign * levels.factor, sign * (levels.shift - constant)


def _is_variable(argument: Any, constants: Constants) -> bool:
    return isinstance(argument, Node) and constants.value(argument) is None


def _per_channel(argument: Any, levels: Levels, constants: Constants) -> Tensor:
    """[channels] of a number, or of a constant that differs from channel to channel alone."""
    tensor = constants.value(argument) if isinstance(argument, Node) else torch.tensor(argument, dtype=torch.float64)
    assert tensor is not None
    shape = (1,) * (4 - tensor.dim()) + tuple(tensor.shape)
    channels = len(levels.factor)
    if len(shape) != 4 or any(extent != 1 for axis, extent in enumerate(shape) if axis != levels.axis):
        raise Declined(f"it computes with a constant of shape {list(tensor.shape)}, which is none of channels alone")
    return tensor.double().cpu().flatten().expand(channels)


def _convert(step: Node, levels: Levels, constants: Constants) -> None:
    """A conversion to another dtype, or a copy."""
    dtype, before = dtype_of(step), dtype_of(step.args[0])  # type: ignore[arg-type]
    if dtype is None or dtype.is_floating_point or dtype == before:
        return
    within = levels.settings.get("clamped") or levels.settings.get("mode") != "bicubic"
    if dtype != torch.uint8 or not (levels.rounded and levels.plain and within):
        raise Declined(f"it converts to {dtype} what is no rounded level within 0 to 255")


_STEPS: dict[Any, Any] = {
    aten.permute: _permute,
    aten.flip: _flip,
    aten.round: _round,
    aten.clamp: _clamp,
    **dict.fromkeys(RESIZES, _resize),
    **dict.fromkeys((target.overloadpacket for target in ARITHMETIC), _arithmetic),
}
