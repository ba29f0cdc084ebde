"""Histograms and searches in sorted boundaries: counts of elements."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import most
from bridge.tensorrt.decompositions.scattering import MAX_COMPARISONS


def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """The number of elements of x in each of `bins` intervals between min and max: [bins], in the dtype of x.

    If min equals max, the range is that of the elements.
    """
    flat = x.flatten()
    if most(bins, *flat.shape) > MAX_COMPARISONS:
        return NotImplemented
    low, high = (flat.amin(), flat.amax()) if min == max else (min, max)
    if isinstance(low, Tensor):
        empty_range = low == high
        low, high = torch.where(empty_range, low - 1, low), torch.where(empty_range, high + 1, high)
    inside = (flat >= low) & (flat <= high)
    interval = torch.where(inside, (flat - low) * bins / (high - low), 0).to(torch.int64).clamp(max=bins - 1)
    is_member = (interval == torch.arange(bins, device=x.device).unsqueeze(1)) & inside  # [bins, n]
    return is_member.sum(1).to(x.dtype)


def bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The number of sorted boundaries below each element of x; with right, below or equal."""
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


def searchsorted(
    boundaries: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """The same for boundaries [..., n] of the rows of x [..., m], or boundaries [n] of any x."""
    if sorter is not None or most(*x.shape, boundaries.shape[-1]) > MAX_COMPARISONS:
        return NotImplemented
    rows, elements = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2), x.unsqueeze(-1)
    is_before = rows <= elements if right or side == "right" else rows < elements
    return is_before.sum(-1).to(torch.int32 if out_int32 else torch.int64)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.bucketize.Tensor: bucketize,
    torch.ops.aten.histc.default: histc,
    torch.ops.aten.searchsorted.Tensor: searchsorted,
}
