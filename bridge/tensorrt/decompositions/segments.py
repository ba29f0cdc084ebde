"""Pooling of sets that stand one after the other, such as the words or points of a batch; embedding bags among them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.scattering import reduce_rows, scatter_reduce

aten = torch.ops.aten
# Of torch.segment_reduce: the reduction of torch.scatter_reduce, and the value of a set without elements.
_REDUCTIONS: dict[str, tuple[str, float]] = {
    "sum": ("sum", 0.0),
    "mean": ("sum", math.nan),
    "max": ("amax", -math.inf),
    "min": ("amin", math.inf),
    "prod": ("prod", 1.0),
}
_MODES = ("sum", "mean", "amax")  # of embedding bags


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor:
    """data [..., N, ...] reduced over sets of elements along an axis, to [..., S, ...].

    The sets have lengths [..., S] or lie between offsets [..., S + 1]. Elements behind the last set are in none.
    """
    ends = _ends(lengths, offsets)
    if ends is None or indices is not None:
        return NotImplemented
    axis %= data.dim()
    name, empty = _REDUCTIONS[reduce]
    wide = data.float() if data.dtype in (torch.float16, torch.bfloat16) else data
    shape = [*data.shape[:axis], ends[1].shape[-1], *data.shape[axis + 1 :]]
    start = initial if initial is not None else 0.0 if reduce == "mean" else empty
    index = _spread(_sets(ends[1], data.shape[axis]), data, axis)
    reduced = scatter_reduce(wide.new_full(shape, start), axis, index, wide, name)
    if reduced is NotImplemented:
        return NotImplemented
    if reduce == "mean":
        counts = _spread(ends[1] - ends[0], reduced, axis)
        reduced = torch.where(counts > 0, reduced / counts, empty if initial is None else initial)
    return reduced.to(data.dtype)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of weight [V, D] at indices [n], reduced by bags that begin at offsets [B]: [B, D], zeros for an empty bag.

    The other three results serve training alone, and are empty.
    """
    starts = offsets[:-1] if include_last_offset else offsets
    position = torch.arange(indices.shape[0], device=indices.device)
    bag = (position.unsqueeze(1) >= starts).sum(1) - 1  # [n]
    rows = weight.index_select(0, indices)
    if padding_idx >= 0:
        bag = torch.where(indices == padding_idx, -1, bag)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    zeros = torch.zeros(starts.shape[0], weight.shape[1], dtype=weight.dtype, device=weight.device)
    reduced = reduce_rows(zeros, bag, rows, _MODES[mode], include_self=False)
    empty = indices.new_zeros(0)
    return reduced if reduced is NotImplemented else (reduced, empty, empty, empty)


def _ends(lengths: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Where each set begins and ends."""
    if offsets is not None:
        return offsets[..., :-1], offsets[..., 1:]
    if lengths is None:
        return None
    ends = lengths.cumsum(-1)
    return ends - lengths, ends


def _sets(ends: Tensor, count: Any) -> Tensor:
    """The set that each of `count` elements is in: how many end before it."""
    positions = torch.arange(count, device=ends.device, dtype=ends.dtype)
    return (ends.unsqueeze(-2) <= positions.unsqueeze(-1)).sum(-1)


def _spread(x: Tensor, like: Tensor, axis: int) -> Tensor:
    """x, of the dimensions up to an axis, repeated along the others."""
    return x.reshape(*x.shape, *[1] * (like.dim() - axis - 1)).expand(like.shape)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.segment_reduce.default: segment_reduce,
    aten._embedding_bag.default: embedding_bag,
    aten._embedding_bag_forward_only.default: embedding_bag,
}
