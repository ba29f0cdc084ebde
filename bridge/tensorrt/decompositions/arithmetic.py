"""Products, norms and activations for which torch_tensorrt's conversion is wrong or missing."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import known_equal

aten = torch.ops.aten
_CONVOLUTION = aten.convolution.default
_SOFTPLUS = aten.softplus.default
_BATCH_NORM = aten._native_batch_norm_legit_no_training.default
_BATCH_NORM_OF_THE_BATCH = aten._native_batch_norm_legit.no_stats
_SAME_SOFTPLUS = 20


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in eval mode: x [N, C, ...] times a scale plus a shift, and two empty tensors.

    Scale and shift are computed in float32 and rounded once, as PyTorch does on a GPU; torch_tensorrt's converter
    computes them in the dtype of x. They are constants, which TensorRT folds.
    """
    scale = (variance.float() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.float()
    shift = -mean.float() * scale
    if bias is not None:
        shift = shift + bias.float()
    shape = [-1] + [1] * (x.dim() - 2)
    empty = x.new_zeros(0)
    return x * scale.to(x.dtype).reshape(shape) + shift.to(x.dtype).reshape(shape), empty, empty


def batch_norm_of_the_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of x [N, C, ...] by its own mean and variance, of each channel; the mean, and 1 / deviation.

    torch_tensorrt's converter takes a mean of 0 and a variance of 1 where there are no running ones.
    """
    dims = [0, *range(2, x.dim())]
    wide = x if x.dtype == torch.float64 else x.float()
    mean = wide.mean(dims, keepdim=True)
    centred = wide - mean
    rstd = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    y, shape = centred * rstd, [-1] + [1] * (x.dim() - 2)
    if weight is not None:
        y = y * weight.to(wide.dtype).reshape(shape)
    if bias is not None:
        y = y + bias.to(wide.dtype).reshape(shape)
    saved = x.dtype if x.device.type == "cpu" else wide.dtype
    return y.to(x.dtype), mean.flatten().to(saved), rstd.flatten().to(saved)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A matrix product if the window is as large as the map: [N, C, *window] to [N, out, 1, ...].

    For such a convolution in 16 bits, with a dynamic batch, TensorRT-RTX 1.6.1 adds the bias to the first image only
    (seen on an H200).
    """
    window = weight.shape[2:]
    if transposed and any(map(operator.gt, output_padding, padding)):
        return _transposed(x, weight, bias, stride, padding, dilation, output_padding, groups)
    whole = x.dim() == weight.dim() and all(map(known_equal, x.shape[2:], window)) and any(n > 1 for n in window)
    if not whole or transposed or groups != 1 or any(padding) or any(step != 1 for step in dilation):
        return NotImplemented
    product = torch.nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
    return product.reshape(*product.shape, *[1] * len(window))


def _transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A transposed convolution that adds more at the ends than it cuts off there; TensorRT's layer cannot.

    torch_tensorrt makes the end's padding negative, which TensorRT ignores. No product reaches what is beyond.
    """
    within = list(map(min, output_padding, padding))
    y = _CONVOLUTION(x, weight, None, stride, padding, dilation, True, within, groups)
    beyond = [extra - kept for extra, kept in zip(output_padding, within, strict=True)]
    y = torch.nn.functional.pad(y, [width for extra in reversed(beyond) for width in (0, extra)])
    return y if bias is None else y + bias.reshape(-1, *[1] * len(beyond))


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """x beyond the threshold, which torch_tensorrt ignores. From 20 on, both are equal in float32."""
    if threshold >= _SAME_SOFTPLUS:
        return NotImplemented
    return torch.where(x * beta > threshold, x, _SOFTPLUS(x, beta, _SAME_SOFTPLUS))


def softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Of a vector or a scalar: TensorRT's layer needs at least two dimensions."""
    if x.dim() > 1:
        return NotImplemented
    return torch.softmax(x.reshape(1, -1), 1).reshape(x.shape)


def addbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * the sum of the batch's products."""
    product = torch.bmm(a, b).sum(0)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (x if beta == 1 else x * beta)


def fused_multiply_add(a: Tensor, b: Tensor | float, c: Tensor) -> Tensor:
    """a * b + c. 16-bit values are computed in float32 and rounded once; float32 is rounded after the product too."""
    if c.dtype in (torch.float16, torch.bfloat16):
        factor = b.float() if isinstance(b, Tensor) else b
        return (a.float() * factor + c.float()).to(c.dtype)
    return a * b + c


def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a dtype. PyTorch's decomposition of the variance of 16-bit values calls it."""
    return x.to(dtype)


def native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: Any, c: Any, places: Any, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C] as [N, C, 1]: TensorRT's layer takes three dimensions or more."""
    if x.dim() > 2:
        return NotImplemented
    y, mean, rstd = aten.native_group_norm.default(x.unsqueeze(2), weight, bias, n, c, 1, groups, eps)
    return y.squeeze(2), mean, rstd


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _BATCH_NORM: batch_norm,
    _BATCH_NORM_OF_THE_BATCH: batch_norm_of_the_batch,
    _CONVOLUTION: convolution,
    _SOFTPLUS: softplus,
    aten._softmax.default: softmax,
    aten.addbmm.default: addbmm,
    aten.native_group_norm.default: native_group_norm,
    torch.ops.prims.convert_element_type.default: convert,
}
