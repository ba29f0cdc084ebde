"""Views, copies and concatenations: operators that move elements and compute nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import known_equal

aten = torch.ops.aten
_AS_STRIDED = aten.as_strided.default
_CAT = aten.cat.default
_REPEAT = aten.repeat.default
_ROLL = aten.roll.default
_UNFOLD = aten.unfold.default


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """x itself, for a view with the same elements in the same order.

    In PyTorch's adaptive pooling such views differ only in strides of extents of 1, which encode the memory format.
    """
    same = len(size) == x.dim() and all(map(known_equal, size, x.shape))
    if not same or storage_offset:
        return NotImplemented
    equal = all(known_equal(n, 1) or known_equal(a, b) for n, a, b in zip(size, stride, x.stride(), strict=True))
    return torch.ops.aten.alias(x) if equal else NotImplemented


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Without empty tensors of rank 1, which PyTorch accepts beside tensors of a higher rank, and TensorRT does not.

    transformers' caches of keys and values begin with one.
    """
    kept = [tensor for tensor in tensors if tensor.dim() != 1 or not known_equal(tensor.shape[0], 0)]
    lost_dtypes = {tensor.dtype for tensor in tensors} - {tensor.dtype for tensor in kept}
    if len(kept) in (0, len(tensors)) or lost_dtypes or kept[0].dim() == 1:
        return NotImplemented
    return _CAT(kept, dim) if len(kept) > 1 else kept[0].clone()


def broadcast_in_dim(x: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """x with its dimensions at `axes` of a shape, broadcast along the others. torch's decomposition of std calls it."""
    aligned = [1] * len(shape)
    for axis, extent in zip(axes, x.shape, strict=True):
        aligned[axis] = extent
    return x.reshape(aligned).expand(shape)


def copy_strided(x: Tensor, stride: Sequence[int]) -> Tensor:
    """A copy of x. A network's tensors have no strides."""
    return x.clone()


def empty(
    size: Sequence[Any],
    *layout: Any,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> Tensor:
    """Zeros. An engine's tensors have one layout; torch_tensorrt puts some of these on a GPU."""
    return torch.zeros(size, dtype=dtype, device=device)


def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Dimension by dimension: PyTorch's decomposition doubles the rank, and TensorRT allows eight dimensions."""
    x = x.reshape(*[1] * (len(repeats) - x.dim()), *x.shape)
    for axis, times in enumerate(repeats):
        if not known_equal(times, 1):
            shape = x.shape
            parts = x.unsqueeze(axis).expand(*shape[:axis], times, *shape[axis:])
            x = parts.reshape(*shape[:axis], times * shape[axis], *shape[axis + 1 :])
    return x.clone() if all(known_equal(times, 1) for times in repeats) else x


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """For dynamic shifts: concatenates the end and the beginning."""
    if not dims or all(isinstance(shift, int) for shift in shifts):
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        moved = shift % x.shape[dim]
        rest = x.shape[dim] - moved
        x = _CAT([x.narrow(dim, rest, moved), x.narrow(dim, 0, rest)], dim)
    return x


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of a dimension, from one slice per element of a window: [..., n, ...] to [..., windows, ..., size]."""
    if x.dim() == 0 or not isinstance(size, int) or not isinstance(step, int):
        return NotImplemented
    axis = dimension % x.dim()
    windows = (x.shape[axis] - size) // step + 1
    parts = [x.narrow(axis, start, (windows - 1) * step + 1) for start in range(size)]
    return torch.stack(
        [part if step == 1 else part[(slice(None),) * axis + (slice(None, None, step),)] for part in parts], -1
    )


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _AS_STRIDED: as_strided,
    _CAT: cat,
    torch.ops.prims.broadcast_in_dim.default: broadcast_in_dim,
    torch.ops.prims.copy_strided.default: copy_strided,
    aten.empty.memory_format: empty,
    aten.empty_permuted.default: empty,
    aten.empty_strided.default: empty,
    _REPEAT: repeat,
    _ROLL: roll,
    _UNFOLD: unfold,
}
