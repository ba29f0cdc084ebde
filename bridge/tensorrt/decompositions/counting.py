"""How many elements there are of each kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import most
from bridge.tensorrt.decompositions.scattering import MOST_COMPARISONS


def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements of x lie in each of `bins` intervals between min and max, [bins], in the dtype of x.

    Where min equals max, the elements' own least and greatest stand for them.
    """
    flat = x.flatten()
    if most(bins, *flat.shape) > MOST_COMPARISONS:
        return NotImplemented
    low, high = (flat.amin(), flat.amax()) if min == max else (min, max)
    if isinstance(low, Tensor):
        same = low == high
        low, high = torch.where(same, low - 1, low), torch.where(same, high + 1, high)
    inside = (flat >= low) & (flat <= high)
    place = torch.where(inside, (flat - low) * bins / (high - low), 0).to(torch.int64).clamp(max=bins - 1)
    counted = (place == torch.arange(bins, device=x.device).unsqueeze(1)) & inside  # [bins, n]
    return counted.sum(1).to(x.dtype)


def bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many of the boundaries, which are sorted, lie before each element of x; with right, or equal it."""
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
    """The same for boundaries [..., n] of each row of x [..., m], or for all elements of any x."""
    if sorter is not None or most(*x.shape, boundaries.shape[-1]) > MOST_COMPARISONS:
        return NotImplemented
    rows, mine = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2), x.unsqueeze(-1)
    before = rows <= mine if right or side == "right" else rows < mine
    return before.sum(-1).to(torch.int32 if out_int32 else torch.int64)


# Each returns NotImplemented for what it leaves as it is.
ROWS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.bucketize.Tensor: bucketize,
    torch.ops.aten.histc.default: histc,
    torch.ops.aten.searchsorted.Tensor: searchsorted,
}
