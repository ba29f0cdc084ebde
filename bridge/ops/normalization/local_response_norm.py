"""Local response normalisation: over neighbouring channels."""

import math

import torch
from torch import Tensor

from bridge.core.op import only_shapes, op, require
from bridge.core.tensors import Floating


@op
def local_response_norm(x: Floating, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels) ^ beta.

    The semantics are torch.nn.functional.local_response_norm's.

    Args:
        x: [N, C, ...]; float32, float16 or bfloat16 (float64 on CPU).
        size: channels of a window: from size // 2 before a channel to (size - 1) // 2 behind it. Those beyond the first
            and the last channel count as 0.
        alpha: factor of the mean square; Caffe's alpha, too. Krizhevsky's is alpha / size.
        beta: the exponent.
        k: added to it.
    Returns:
        A dense tensor of the shape and dtype of x, computed in float32 and rounded once. PyTorch's squares overflow in
        float16 from 256 on; these do not.
    Raises:
        OpInputError: x has less than 3 dimensions, size is less than 1, or an attribute is not finite.
    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012, section 3.3.
    """
    _check(x, size, alpha, beta, k)
    if only_shapes() or x.numel() == 0:
        return x.new_empty(x.shape) if only_shapes() else x
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    squares = wide.square()
    near = min(size, 2 * x.shape[1])  # a window reaches no further
    before, behind = min(size // 2, near), min((size - 1) // 2, near)
    room = [squares.new_zeros(x.shape[0], extent, *x.shape[2:]) for extent in (before, behind)]
    padded = torch.cat((room[0], squares, room[1]), 1)
    sums = padded.unfold(1, before + behind + 1, 1).sum(-1)
    return (wide * (sums * (alpha / size) + k) ** -beta).to(x.dtype)


def _check(x: Tensor, size: int, alpha: float, beta: float, k: float) -> None:
    require(x.dim() >= 3, f"local_response_norm: x must have 3 dimensions or more, got shape {tuple(x.shape)}")
    require(size >= 1, f"local_response_norm: size is {size}, expected 1 or more")
    numbers = {"alpha": alpha, "beta": beta, "k": k}
    for name, number in numbers.items():
        require(math.isfinite(number), f"local_response_norm: {name} is {number}, expected a finite number")
