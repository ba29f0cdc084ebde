"""Sorting, and operators that need the order of elements.

TensorRT's TopK layer returns at most 3840 elements, a fixed number, and does not define the order of equal ones. In
other cases an element's rank is the number of elements before it: that is stable, and right for dynamic extents.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.tensorrt.decompositions.bounds import known, most

aten = torch.ops.aten
MAX_K = 3840  # of a TopK layer
MAX_COMPARISONS = 2**28
_SORTS = (aten.sort.default, aten.sort.stable)


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Values and indices; the order of equal elements is undefined."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    count = x.shape[dim]
    if known(count) and 0 < count <= MAX_K:
        return torch.topk(x, count, dim, largest=descending)
    return _sort(x, dim, descending)


def stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """Values and indices; equal elements keep their order."""
    if not stable or not x.dim():
        return sort(x, dim, descending)
    return _sort(x, dim, descending)


def topk(x: Tensor, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Calls that the TopK layer does not take.

    These are vectors, booleans, axes before the last four, a k of more than 3840 or a dynamic one.
    """
    if not x.dim():
        return sort(x)
    if x.dtype == torch.bool:
        values, indices = torch.topk(x.int(), k, dim, largest)
        return values.bool(), indices
    if not known(k) or k > MAX_K:
        ordered = _sort(x, dim, largest)
        return ordered if ordered is NotImplemented else (ordered[0].narrow(dim, 0, k), ordered[1].narrow(dim, 0, k))
    if x.dim() == 1:
        return tuple(each.squeeze(0) for each in torch.topk(x.unsqueeze(0), k, 1, largest))  # type: ignore[return-value]
    if dim % x.dim() < x.dim() - 4:
        return tuple(each.movedim(-1, dim) for each in torch.topk(x.movedim(dim, -1), k, -1, largest))  # type: ignore[return-value]
    return NotImplemented


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest element, counted from 1, and its index."""
    values, indices = torch.sort(x, dim=dim, stable=True)
    if not x.dim():
        return values, indices
    return _at(values, indices, torch.full_like(indices.narrow(dim, 0, 1), k - 1), dim, keepdim)


def median_dim(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median and its index; NaN if an element is NaN."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, indices = torch.sort(x, dim=dim, stable=True)  # NaN comes last
    position = torch.full_like(indices.narrow(dim, 0, 1), (x.shape[dim] - 1) // 2)
    if x.is_floating_point():
        position = torch.where(torch.isnan(x).any(dim, keepdim=True), x.shape[dim] - 1, position)
    return _at(values, indices, position, dim, keepdim)


def nanmedian_dim(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median of elements that are not NaN, and its index."""
    if not x.dim() or not x.is_floating_point():
        return median_dim(x, dim, keepdim)
    values, indices = torch.sort(x, dim=dim, stable=True)
    count = torch.isnan(x).logical_not().sum(dim, keepdim=True)
    return _at(values, indices, (count - 1).clamp(min=0) // 2, dim, keepdim)


def median(x: Tensor) -> Tensor:
    """The lower median of all elements."""
    return median_dim(x.flatten(), 0)[0]


def nanmedian(x: Tensor) -> Tensor:
    """The lower median of all elements that are not NaN."""
    return nanmedian_dim(x.flatten(), 0)[0]


def max_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Maxima, and the index of the first of each."""
    return _extreme(x, dim, keepdim, torch.amax)


def min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Minima, and the index of the first of each."""
    return _extreme(x, dim, keepdim, torch.amin)


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first maximum; torch_tensorrt's converter compares integers as float32."""
    return _first_extreme_index(x, dim, keepdim, torch.amax)


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first minimum."""
    return _first_extreme_index(x, dim, keepdim, torch.amin)


def first_index(x: Tensor, dim: int, extreme: Callable[..., Tensor], among: Tensor | None = None) -> Tensor:
    """The index along dim of the first element that is the extreme, or NaN.

    among: a mask of the elements that count; it broadcasts.
    """
    count = x.shape[dim]
    best = x == extreme(x, dim, keepdim=True)
    best = best | torch.isnan(x) if x.is_floating_point() else best
    best = best if among is None else best & among
    position = torch.arange(count, device=x.device).reshape(
        [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
    )
    return torch.where(best, position, count - 1).amin(dim)


def refusal(node: Node) -> str | None:
    """Why a node that was not decomposed cannot be part of an engine; None for others."""
    if node.target not in (*_SORTS, aten.topk.default) or not isinstance(node.args[0], Node):
        return None
    x = node.args[0].meta["val"]
    dim_index = {aten.sort.default: 1, aten.topk.default: 2}.get(node.target, len(node.args))
    dim: Any = node.args[dim_index] if len(node.args) > dim_index else node.kwargs.get("dim", -1)
    if _takes_layer(node) or not _exceeds_comparisons(x, dim):
        return None
    return (
        f"it orders up to {most(x.shape[dim]):,.0f} elements in up to {most(*x.shape) / most(x.shape[dim]):,.0f} rows;"
        f" TensorRT's TopK layer returns at most {MAX_K}, a fixed number, and beyond it bridge compares each with"
        f" each, up to {MAX_COMPARISONS:,} times. Take fewer elements, or give the dimension a smaller bound"
    )


def _takes_layer(node: Node) -> bool:
    """Whether it is a TopK layer, whose axis may be longer than what it returns."""
    if node.target is not aten.topk.default:
        return False
    count: Any = node.args[1] if len(node.args) > 1 else node.kwargs["k"]
    count = count.meta["val"] if isinstance(count, Node) else count
    return bool(known(count) and count <= MAX_K)


def _sort(x: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    if _exceeds_comparisons(x, dim):
        return NotImplemented
    rows = x.movedim(dim, -1)
    ranks = _ranks(rows.int() if x.dtype == torch.bool else rows, descending)
    index = torch.arange(x.shape[dim], device=x.device).expand(ranks.shape)
    indices = torch.zeros_like(ranks).scatter(-1, ranks, index).movedim(-1, dim)
    return x.gather(dim, indices), indices


def _ranks(x: Tensor, descending: bool) -> Tensor:
    """The rank of each element of the last dimension: how many are before it. NaN is the greatest."""
    order = torch.arange(x.shape[-1], device=x.device)
    a, b = x.unsqueeze(-1), x.unsqueeze(-2)  # [..., n, 1], [..., 1, n]
    is_before, equal = b > a if descending else b < a, b == a
    if x.is_floating_point():
        a_nan, b_nan = torch.isnan(a), torch.isnan(b)
        is_before = is_before | (b_nan & ~a_nan if descending else a_nan & ~b_nan)
        equal = equal | (a_nan & b_nan)
    return (is_before | (equal & (order < order[:, None]))).sum(-1)


def _exceeds_comparisons(x: Tensor, dim: int) -> bool:
    return bool(x.dim()) and most(*x.shape, x.shape[dim]) > MAX_COMPARISONS


def _at(values: Tensor, indices: Tensor, position: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    value, index = values.gather(dim, position), indices.gather(dim, position)
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


def _extreme(x: Tensor, dim: int, keepdim: bool, extreme: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    if x.dtype == torch.bool:
        values, indices = _extreme(x.int(), dim, keepdim, extreme)
        return values.bool(), indices
    values, indices = extreme(x, dim, keepdim=keepdim), first_index(x, dim, extreme)
    return values, indices.unsqueeze(dim) if keepdim else indices


def _first_extreme_index(x: Tensor, dim: int | None, keepdim: bool, extreme: Callable[..., Tensor]) -> Tensor:
    if not x.dim():
        return torch.zeros_like(x, dtype=torch.int64)
    if dim is None:
        index = _first_extreme_index(x.flatten(), 0, False, extreme)
        return index.reshape([1] * x.dim()) if keepdim else index
    index = first_index(x.int() if x.dtype == torch.bool else x, dim, extreme)
    return index.unsqueeze(dim) if keepdim else index


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
    aten.topk.default: topk,
    aten.kthvalue.default: kthvalue,
    aten.median.default: median,
    aten.median.dim: median_dim,
    aten.nanmedian.default: nanmedian,
    aten.nanmedian.dim: nanmedian_dim,
    aten.max.dim: max_dim,
    aten.min.dim: min_dim,
    aten.argmax.default: argmax,
    aten.argmin.default: argmin,
}
