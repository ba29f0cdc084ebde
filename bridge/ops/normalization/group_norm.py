"""Group normalisation, with the activation that follows it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.core.op import only_shapes, op, require
from bridge.core.tensors import Floating, LikeFirstOrFloat32

_ACTIVATIONS = {"none": lambda x: x, "silu": F.silu, "relu": F.relu, "gelu": F.gelu}


@op
def group_norm(
    x: Floating,
    weight: LikeFirstOrFloat32 | None = None,
    bias: LikeFirstOrFloat32 | None = None,
    groups: int = 32,
    eps: float = 1e-5,
    activation: str = "none",
) -> Tensor:
    """activation((x - mean) / sqrt(variance + eps) * weight + bias), with the moments of each group of channels.

    The semantics are torch.nn.functional.group_norm's, followed by the activation. With as many groups as channels it
    is instance normalisation.

    Args:
        x: [N, C, ...]; float32, float16 or bfloat16 (float64 on CPU). In TensorRT's engines it is also taken, and
            returned, with channels last; in PyTorch it is copied to row-major first.
        weight, bias: [C], or None for 1 and 0; of the dtype of x, or float32.
        groups: of consecutive channels, of which each image's are normalised together.
        eps: added to variances; those are of the population, that is divided by the number of values.
        activation: "none", "silu", "relu", or "gelu" (the exact one, with erf).
    Returns:
        A dense tensor of the shape and dtype of x. Moments and results are float32 whatever the dtype, and rounded
        once. A group with a value that is not finite is NaN.
    Raises:
        OpInputError: shapes that do not fit, another activation, or an eps that is negative or not finite; the message
            has the value.
    Source: Wu and He, https://arxiv.org/abs/1803.08494, equations 1, 2 and 7; Ulyanov et al.,
        https://arxiv.org/abs/1607.08022.
    """
    _check(x, weight, bias, groups, eps, activation)
    if only_shapes():
        return x.new_empty(x.shape)
    if x.numel() == 0:
        return x
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    grouped = x.to(wide).reshape(x.shape[0], groups, -1)
    apart = grouped - grouped.mean(2, keepdim=True)
    normal = (apart * torch.rsqrt(apart.square().mean(2, keepdim=True) + eps)).reshape(x.shape)
    channels = (-1, *[1] * (x.dim() - 2))
    if weight is not None:
        normal = normal * weight.to(wide).reshape(channels)
    if bias is not None:
        normal = normal + bias.to(wide).reshape(channels)
    return _ACTIVATIONS[activation](normal).to(x.dtype)


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, activation: str) -> None:
    require(x.dim() >= 2, f"group_norm: x must have 2 dimensions or more, got shape {tuple(x.shape)}")
    require(groups >= 1, f"group_norm: groups is {groups}, expected 1 or more")
    require(math.isfinite(eps) and eps >= 0, f"group_norm: eps is {eps}, expected a number of 0 or more")
    known = activation in _ACTIVATIONS
    require(known, f'group_norm: activation is "{activation}", expected none, silu, relu or gelu')
    channels = x.shape[1]
    fits = channels > 0 and channels % groups == 0
    require(fits, f"group_norm: x has {channels} channels, expected a multiple of the {groups} groups")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            fits = tensor.dim() == 1 and tensor.shape[0] == channels
            require(fits, f"group_norm: {name} has shape {tuple(tensor.shape)}, expected ({channels},)")
