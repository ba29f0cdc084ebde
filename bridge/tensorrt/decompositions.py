"""Which operators are taken apart before conversion, and into what."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.op import OPS
from bridge.tensorrt.attention import SDPA

_FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_AS_STRIDED = torch.ops.aten.as_strided.default
_AVG_POOL = torch.ops.aten.avg_pool2d.default
_CAT = torch.ops.aten.cat.default
_CONVOLUTION = torch.ops.aten.convolution.default
_REPEAT = torch.ops.aten.repeat.default
_ROLL = torch.ops.aten.roll.default
_LINEAR = torch.ops.aten.upsample_linear1d.vec
_BILINEAR = torch.ops.aten.upsample_bilinear2d.vec
_UNFOLD = torch.ops.aten.unfold.default
_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch_tensorrt's table, less what would take apart an operator that has a converter or needs a GPU."""
    from torch_tensorrt.dynamo.lowering import get_decompositions

    table = dict(get_decompositions())
    table.pop(SDPA, None)
    table |= torch._decomp.get_decompositions([_FLASH_ON_CPU])  # in programs that were decomposed before they came here
    for name in ("empty_permuted", "empty_strided"):  # torch_tensorrt's put their result on a GPU
        table.pop(getattr(torch.ops.aten, name).default, None)
    for op in OPS.values():
        table.pop(op.overload, None)
    return table | {
        _AS_STRIDED: as_strided,
        _AVG_POOL: avg_pool2d,
        _BATCH_NORM: batch_norm,
        _CAT: cat,
        _CONVOLUTION: convolution,
        _REPEAT: repeat,
        _ROLL: roll,
        _UNFOLD: unfold,
        _LINEAR: upsample_linear1d,
    }


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
    computes them in the dtype of x. They are constants, so nothing of this is left in the engine.
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


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """A view of x that holds the same elements in the same places is x, however it says so.

    PyTorch's adaptive pooling makes one, whose strides of extents of 1 say in which order the other ones are.
    """
    same = len(size) == x.dim() and all(map(_known_equal, size, x.shape))
    if not same or storage_offset:
        return NotImplemented
    moves = [
        ours
        for ours, extent in zip(zip(stride, x.stride(), strict=True), size, strict=True)
        if not _known_equal(extent, 1)
    ]
    return torch.ops.aten.alias(x) if all(_known_equal(*pair) for pair in moves) else NotImplemented


def avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Where windows fit a whole number of times, rounding up is rounding down, which has a converter."""
    pads, windows = _pair(padding), _pair(kernel_size)
    steps = _pair(stride) if stride else windows
    left = [(n + 2 * p - k) % s for n, p, k, s in zip(x.shape[-2:], pads, windows, steps, strict=True)]
    if not ceil_mode or not all(_known_equal(extent, 0) for extent in left):
        return NotImplemented
    return _AVG_POOL(x, windows, steps, pads, False, count_include_pad, divisor_override)


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
    """Where the window is as large as the map, a product of matrices: [N, C, *window] to [N, out, 1, ...].

    TensorRT-RTX 1.6.1 leaves the bias of such a convolution out for other images than the first, where their number is
    dynamic and the dtype has 16 bits (seen on an H200).
    """
    window = weight.shape[2:]
    whole = x.dim() == weight.dim() and all(map(_known_equal, x.shape[2:], window)) and any(n > 1 for n in window)
    if not whole or transposed or groups != 1 or any(padding) or any(step != 1 for step in dilation):
        return NotImplemented
    product = torch.nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
    return product.reshape(*product.shape, *[1] * len(window))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Without the empty tensors of one dimension that PyTorch lets stand beside tensors of more, and TensorRT does not.

    transformers' caches of keys and values begin with one.
    """
    kept = [tensor for tensor in tensors if tensor.dim() != 1 or not _known_equal(tensor.shape[0], 0)]
    others = {tensor.dtype for tensor in tensors} - {tensor.dtype for tensor in kept}
    if len(kept) in (0, len(tensors)) or others or kept[0].dim() == 1:
        return NotImplemented
    return _CAT(kept, dim) if len(kept) > 1 else kept[0].clone()


def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Dimension by dimension: PyTorch's own takes twice as many dimensions, of which TensorRT has eight."""
    x = x.reshape(*[1] * (len(repeats) - x.dim()), *x.shape)
    for axis, times in enumerate(repeats):
        if not _known_equal(times, 1):
            shape = x.shape
            parts = x.unsqueeze(axis).expand(*shape[:axis], times, *shape[axis:])
            x = parts.reshape(*shape[:axis], times * shape[axis], *shape[axis + 1 :])
    return x.clone() if all(_known_equal(times, 1) for times in repeats) else x


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """By extents: the end before the beginning."""
    if not dims or all(isinstance(shift, int) for shift in shifts):
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        moved = shift % x.shape[dim]
        rest = x.shape[dim] - moved
        x = _CAT([x.narrow(dim, rest, moved), x.narrow(dim, 0, rest)], dim)
    return x


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of a dimension, as many slices as a window is long: [..., n, ...] to [..., windows, ..., size]."""
    if x.dim() == 0 or not isinstance(size, int) or not isinstance(step, int):
        return NotImplemented
    axis = dimension % x.dim()
    windows = (x.shape[axis] - size) // step + 1
    parts = [x.narrow(axis, start, (windows - 1) * step + 1) for start in range(size)]
    return torch.stack(
        [part if step == 1 else part[(slice(None),) * axis + (slice(None, None, step),)] for part in parts], -1
    )


def upsample_linear1d(
    x: Tensor, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Tensor:
    """As an image of one row, whose size may be dynamic: [N, C, W]."""
    size = None if output_size is None else [1, *output_size]
    scales = None if scale_factors is None else [1.0, *scale_factors]
    return _BILINEAR(x.unsqueeze(2), size, align_corners, scales).squeeze(2)


def _pair(values: Sequence[int]) -> list[int]:
    return [values[0], values[-1]]


def _known_equal(a: Any, b: Any) -> bool:
    """For every value that dynamic extents may have; no assumption about them is made."""
    return statically_known_true(a == b)
