"""Deformable convolution, versions 1 and 2."""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from bridge.core.binding import bind
from bridge.core.foreign import Arguments, SortedArguments, reason_unknown, shape_of
from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating, LikeFirst


@op
def deform_conv2d(
    x: Floating,
    offset: LikeFirst,
    weight: LikeFirst,
    bias: LikeFirst | None = None,
    mask: LikeFirst | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    allow_tf32: bool = False,
) -> Tensor:
    """Convolution whose every tap samples at a learned offset, bilinearly, with zeros outside the map.

    The semantics are torchvision.ops.deform_conv2d's. With G offset groups, K = KH KW taps:

    Args:
        x: [N, C, H, W]; float32, float16 or bfloat16 (float64 on CPU).
        offset: [N, 2 G K, OH, OW], (y, x) in pixels for each group and tap; the dtype of x, as are all others.
        weight: [O, C / groups, KH, KW]; the number of groups follows from C.
        bias: [O], or None.
        mask: [N, G K, OH, OW] factors of the samples (version 2, modulated), or None (version 1).
        stride, padding, dilation: a number, or (height, width).
        allow_tf32: on CUDA, round float32 samples and weights to TF32 (11 bits) for speed; no effect on other dtypes.
    Returns:
        [N, O, OH, OW], dense; coordinates and the sums over channels and taps are float32 whatever the dtype. A NaN
        offset gives NaN.
    Raises:
        OpInputError: ranks, dtypes, channels, groups or extents that do not fit; the message names the value.
    Source: Dai et al., https://arxiv.org/abs/1703.06211; Zhu et al., https://arxiv.org/abs/1811.11168.
    """
    name, geometry = "deform_conv2d", check_geometry("deform_conv2d", stride, padding, dilation)
    shape = check_shapes(name, geometry, x, ("offset", offset, 2), weight, bias)
    if mask is not None:
        check_same(name, "mask", mask, (x.shape[0], offset.shape[1] // 2, *shape[2:]))
    if only_shapes():
        return x.new_empty(shape)
    return convolve(x, offset, mask, weight, bias, geometry).to(x.dtype)


class Geometry(NamedTuple):
    """Of the taps, each (height, width)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def check_geometry(op_name: str, *pairs: Pair) -> Geometry:
    """The stride, padding and dilation of a call. OpInputError: numbers that do not fit."""
    geometry = Geometry(*((p, p) if isinstance(p, int) else p for p in pairs))
    for (name, pair), least in zip(geometry._asdict().items(), (1, 0, 1), strict=True):
        for value in pair:
            require(least <= value <= 1 << 20, f"{op_name}: {name} is {value}, expected {least} or more")
    return geometry


def check_shapes(
    op_name: str, geometry: Geometry, x: Tensor, offset: tuple[str, Tensor, int], weight: Tensor, bias: Tensor | None
) -> tuple[int, int, int, int]:
    """The shape of the result. OpInputError: shapes that do not fit.

    offset: its name, and how many of its channels there are for each offset group and tap.
    """
    called, offsets, _ = offset
    shapes = f"{tuple(x.shape)}, {tuple(offsets.shape)} and {tuple(weight.shape)}"
    ranks = x.dim() == 4 and offsets.dim() == 4 and weight.dim() == 4
    require(ranks, f"{op_name}: x, {called} and weight must have 4 dimensions, got shapes {shapes}")
    _check_groups(op_name, x, offset, weight)
    out = _out_extents(op_name, x, weight, geometry)
    check_same(op_name, called, offsets, (x.shape[0], offsets.shape[1], *out))
    if bias is not None:
        check_same(op_name, "bias", bias, (weight.shape[0],))
    return x.shape[0], weight.shape[0], *out


def convolve(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """The convolution in float32, or in float64 where x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, _, out_h, out_w = offset.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    groups, taps = x.shape[1] // group_channels, kernel_h * kernel_w
    offset_groups = offset.shape[1] // (2 * taps)
    y, x_position = _positions(offset.to(wide), (kernel_h, kernel_w), geometry)
    samples = _sample(x.to(wide), y, x_position, offset_groups)  # [N, G, C/G, K, OH, OW]
    if mask is not None:
        samples = samples * mask.to(wide).reshape(n, offset_groups, 1, taps, out_h, out_w)
    samples = samples.reshape(n, groups, group_channels, taps, out_h, out_w)
    kernels = weight.to(wide).reshape(groups, out_channels // groups, group_channels, taps)
    out = torch.einsum("ngckhw,gock->ngohw", samples, kernels).reshape(n, out_channels, out_h, out_w)
    return out if bias is None else out + bias.to(wide).reshape(1, -1, 1, 1)


def _check_groups(op_name: str, x: Tensor, offset: tuple[str, Tensor, int], weight: Tensor) -> None:
    called, offsets, of_tap = offset
    c, (out_channels, group_channels, kernel_h, kernel_w) = x.shape[1], weight.shape
    fits = group_channels > 0 and c % group_channels == 0 and c > 0
    require(fits, f"{op_name}: x has {c} channels, not a multiple of the weight's {group_channels}")
    groups = c // group_channels
    fits = out_channels % groups == 0
    require(fits, f"{op_name}: the weight's {out_channels} output channels do not divide into {groups} groups")
    of_group, channels = of_tap * kernel_h * kernel_w, offsets.shape[1]
    fits = of_group > 0 and channels > 0 and channels % of_group == 0
    require(
        fits,
        f"{op_name}: {called} has {channels} channels, expected a multiple of "
        f"{of_tap} * kernel height * kernel width = {of_group}",
    )
    offset_groups = channels // of_group
    require(c % offset_groups == 0, f"{op_name}: x's {c} channels do not divide into {offset_groups} offset groups")


def _out_extents(op_name: str, x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    extents = []
    for axis in (0, 1):
        dilation = geometry.dilation[axis]
        room = x.shape[2 + axis] + 2 * geometry.padding[axis] - dilation * (weight.shape[2 + axis] - 1)
        require(
            room > 0,
            f"{op_name}: the kernel {weight.shape[2]} x {weight.shape[3]} with dilation {dilation} "
            f"does not fit the padded input {tuple(x.shape)}",
        )
        extents.append((room - 1) // geometry.stride[axis] + 1)
    return extents[0], extents[1]


def check_same(op_name: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """OpInputError: a tensor of another shape."""
    same = tensor.dim() == len(shape) and all(a == b for a, b in zip(tensor.shape, shape, strict=True))
    require(same, f"{op_name}: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def _positions(offset: Tensor, kernel: tuple[int, int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """y and x of every sample, each [N, G, K, OH, OW]."""
    n, channels, out_h, out_w = offset.shape
    taps, (stride, padding, dilation) = kernel[0] * kernel[1], geometry
    offset = offset.reshape(n, channels // (2 * taps), taps, 2, out_h, out_w)
    dtype, device = offset.dtype, offset.device
    tap = torch.arange(taps, device=device)
    tap_y = ((tap // kernel[1]) * dilation[0]).to(dtype).reshape(taps, 1, 1)
    tap_x = ((tap % kernel[1]) * dilation[1]).to(dtype).reshape(taps, 1, 1)
    rows = (torch.arange(out_h, dtype=dtype, device=device) * stride[0] - padding[0]).reshape(1, out_h, 1)
    columns = (torch.arange(out_w, dtype=dtype, device=device) * stride[1] - padding[1]).reshape(1, 1, out_w)
    return offset[:, :, :, 0] + rows + tap_y, offset[:, :, :, 1] + columns + tap_x


def _sample(x: Tensor, y: Tensor, x_position: Tensor, offset_groups: int) -> Tensor:
    """Bilinear samples [N, G, C/G, K, OH, OW] of x at the positions [N, G, K, OH, OW]."""
    n, c, height, width = x.shape
    maps = x.reshape(n, offset_groups, c // offset_groups, height * width)
    inside = ~((y <= -1) | (y >= height) | (x_position <= -1) | (x_position >= width))
    top, left = y.floor(), x_position.floor()
    total = None
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner_y, corner_x = top + row, left + column
        weight = (1 - (y - corner_y).abs()) * (1 - (x_position - corner_x).abs())
        valid = inside & (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
        index = torch.where(valid, corner_y * width + corner_x, torch.zeros_like(y)).long()
        index = index.flatten(2).unsqueeze(2).expand(-1, -1, c // offset_groups, -1)
        value = maps.gather(3, index).reshape(n, offset_groups, c // offset_groups, *y.shape[2:])
        # where, not a product with zero: an infinite pixel must not leak, and a NaN offset must show.
        known = (valid | y.isnan() | x_position.isnan()).unsqueeze(2)
        term = torch.where(known, weight.unsqueeze(2) * value, torch.zeros_like(value))
        total = term if total is None else total + term
    assert total is not None
    return total


_EXTENTS = {"stride": ("stride_h", "stride_w"), "padding": ("pad_h", "pad_w"), "dilation": ("dilation_h", "dilation_w")}


def _from_torchvision(given: Arguments) -> SortedArguments:
    mask = given["mask"] if given["use_mask"] else None  # where there is none, torchvision passes zeros
    tensors = [given["input"], given["offset"], given["weight"], given["bias"], mask]
    return tensors, {name: tuple(given[theirs] for theirs in pair) for name, pair in _EXTENTS.items()}


def _reason_against(given: Arguments) -> str | None:
    """The op derives both numbers of groups from the shapes; torchvision's is also told them."""
    if reason := reason_unknown(given, chain(*_EXTENTS.values())):
        return reason
    x, weight, offset = (shape_of(given[name]) for name in ("input", "weight", "offset"))
    derived = {"groups": (x[1], weight[1]), "offset_groups": (offset[1], 2 * weight[2] * weight[3])}
    for name, (whole, part) in derived.items():
        if whole != part * given[name]:
            return f"{name} is {given[name]}, but the shapes make it {whole} / {part}"
    return None


bind("torchvision::deform_conv2d", "deform_conv2d", arguments=_from_torchvision, reason_against=_reason_against)
