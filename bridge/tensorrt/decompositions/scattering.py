"""Writes to positions given by indices, which may repeat.

TensorRT's scatter keeps one of the values for a position. To add or reduce them, each position is compared with each
index, and the values of equal ones are reduced: exactly, in a fixed order, and for dynamic extents too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.tensorrt.decompositions.bounds import known_equal, most

aten = torch.ops.aten
MAX_COMPARISONS = 2**28
_FUSED = 2**24  # comparisons times columns; beyond, sums of floats become matrix products
_SUM, _MEAN = "sum", "mean"
_NAMES = {"add": _SUM, "multiply": "prod"}  # of torch.scatter


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with the elements of src added at index."""
    return _scatter(x, dim, index, src, _SUM, True)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """x with the elements of src reduced at index by "sum", "prod", "mean", "amax" or "amin"."""
    return _scatter(x, dim, index, src, reduce, include_self)


def scatter_by_name(x: Tensor, dim: int, index: Tensor, src: Tensor | float, *, reduce: str) -> Tensor:
    """torch.scatter with reduce="add" or "multiply"."""
    values = src if isinstance(src, Tensor) else torch.full_like(index, src, dtype=x.dtype)
    return _scatter(x, dim, index, values, _NAMES[reduce], True)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """x with slices of source, times alpha, added at index."""
    return _reduce_slices(x, dim, index, source if alpha == 1 else source * alpha, _SUM, True)


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x with slices of source written at index. torch_tensorrt 2.14 does not decompose it, and refuses most calls."""
    if not x.dim():
        return index_copy(x[None], 0, index.reshape(-1), source.reshape(-1)).squeeze(0)
    written = aten.index_put(x, [None] * (dim % x.dim()) + [index.reshape(-1)], source)
    return written.contiguous()  # PyTorch's index_fill copies in place into other strides


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """x with slices of source reduced at index."""
    return _reduce_slices(x, dim, index, source, reduce, include_self)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """x with values written or added at indices, as in x[indices] = values."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    index_tensors = [index for index in indices if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in index_tensors):
        single = len(index_tensors) == 1 and index_tensors[0].dtype == torch.bool
        return _put_masked(x, axes[0], index_tensors[0], values, accumulate) if single else NotImplemented
    position, table, rows = _as_rows(x, axes, torch.broadcast_tensors(*index_tensors), values)
    written = _put_rows(table, position, rows.to(x.dtype), accumulate)
    if written is NotImplemented:
        return NotImplemented
    order = [*axes, *_other_axes(x, axes)]
    return written.reshape([x.shape[axis] for axis in order]).permute([order.index(axis) for axis in range(x.dim())])


def scatter(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """For a src larger than the index: scatters the part that is written."""
    part = _cut(src, index)
    return NotImplemented if part is src else aten.scatter.src(x, dim, index, part)


def scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    """Scatters a scalar as a tensor in the dtype of x; torch_tensorrt's is float64."""
    return aten.scatter.src(x, dim, index, torch.full_like(index, value, dtype=x.dtype))


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """index_put of the flattened tensors."""
    return aten.index_put(x.flatten(), [index.flatten()], source.flatten(), accumulate).reshape(x.shape)


def refusal(node: Node) -> str | None:
    """Why a node that was not decomposed cannot be part of an engine; None for others."""
    if node.target is aten.bincount.default:
        return (
            "the shape of its result depends on values. torch.histc(x.float(), bins=n, min=0, max=n - 1) counts up to a"
            " number of classes n that is known"
        )
    if node.target not in _REDUCING:
        return None
    if node.target is aten.index_put.default:
        indices: Any = node.args[1]
        if {index.meta["val"].dtype for index in indices if index is not None} & {torch.bool, torch.uint8}:
            return "it takes a mask beside other indices; write it with torch.where, or with a single mask"
    return (
        "TensorRT keeps one of the values whose indices are equal, so bridge compares each index with each position,"
        f" here more than {MAX_COMPARISONS:,} times. Scatter into fewer positions, or lower the dynamic dimensions' max"
    )


def _as_rows(
    x: Tensor, axes: Sequence[int], indices: Sequence[Tensor], values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices [M], x as a table [N, F] with the indexed axes flattened into N, and values as rows [M, F]."""
    other_axes = _other_axes(x, axes)
    shape = [x.shape[axis] for axis in other_axes]
    adjacent = list(axes) == list(range(axes[0], axes[-1] + 1))
    lead, rank = axes[0] if adjacent else 0, indices[0].dim()  # where the indices' dimensions are in x[indices]
    values = values.expand(*shape[:lead], *indices[0].shape, *shape[lead:])
    values = values.permute(*range(lead, lead + rank), *range(lead), *range(lead + rank, values.dim()))
    position: Any = 0
    for axis, index in zip(axes, indices, strict=True):
        position = position * x.shape[axis] + torch.where(index < 0, index + x.shape[axis], index)
    count, columns = math.prod(x.shape[axis] for axis in axes), math.prod(shape)
    table = x.permute(*axes, *other_axes).reshape(count, columns)
    return position.flatten(), table, values.reshape(math.prod(indices[0].shape), columns)


def _other_axes(x: Tensor, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(x.dim()) if axis not in axes]


def _put_rows(x: Tensor, index: Tensor, rows: Tensor, accumulate: bool) -> Tensor:
    """x [N, F] with rows [M, F] written or added at index [M]."""
    if accumulate:
        return reduce_rows(x, index, rows, _SUM, True)
    return x.scatter(0, index.unsqueeze(1).expand(rows.shape), rows)


def _put_masked(x: Tensor, axis: int, mask: Tensor, values: Tensor, accumulate: bool) -> Tensor:
    """x with values where the mask is true. The mask has the dimensions of x from an axis on.

    There is one value for all, or one for each true element: the n-th true element gets the n-th value.
    """
    rest = x.dim() - axis - mask.dim()
    spread = mask.reshape(*mask.shape, *[1] * rest)
    if values.dim() > rest and not known_equal(values.shape[-rest - 1], 1):
        position = (mask.flatten().to(torch.int64).cumsum(0) - 1).clamp(min=0)
        values = values.expand(*x.shape[:axis], values.shape[-rest - 1], *x.shape[axis + mask.dim() :])
        values = values.index_select(axis, position).reshape(x.shape)
    elif values.dim() > rest:
        values = values.reshape(*values.shape[: -rest - 1], *[1] * mask.dim(), *values.shape[values.dim() - rest :])
    written = x + values if accumulate else values
    return torch.where(spread, written.to(x.dtype), x)


def _scatter(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool) -> Tensor:
    if not x.dim():
        return _scatter(x[None], 0, index.reshape(-1), src.reshape(-1), reduce, include_self).squeeze(0)
    dim %= x.dim()
    src = _cut(src, index)
    for axis, extent in enumerate(index.shape):
        if axis != dim and not known_equal(extent, x.shape[axis]):
            written = _scatter(x.narrow(axis, 0, extent), dim, index, src, reduce, include_self)
            rest = x.narrow(axis, extent, x.shape[axis] - extent)
            return written if written is NotImplemented else torch.cat([written, rest], axis)
    if all(axis == dim or _is_spread(index, axis) for axis in range(x.dim())):
        for axis in range(x.dim()):
            index = index if axis == dim else index.narrow(axis, 0, 1)
        return _reduce_slices(x, dim, index.flatten(), src, reduce, include_self)
    if most(*index.shape, x.shape[dim]) > MAX_COMPARISONS:
        return NotImplemented
    positions = torch.arange(x.shape[dim], device=x.device)
    equal = index.movedim(dim, -1).unsqueeze(-2) == positions.unsqueeze(-1)  # [..., N, M]
    values = src.movedim(dim, -1).unsqueeze(-2)  # [..., 1, M]
    return _combined(x.movedim(dim, -1), equal, values, -1, reduce, include_self).movedim(-1, dim)


def _reduce_slices(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool) -> Tensor:
    """x with slices of src along dim reduced at index [M]."""
    if not x.dim():
        return _reduce_slices(x[None], 0, index, src.reshape(-1), reduce, include_self).squeeze(0)
    first = x.movedim(dim, 0)
    rows = src.movedim(dim, 0) if src.dim() else src[None]
    columns = math.prod(first.shape[1:])
    tables = (each.reshape(each.shape[0], columns) for each in (first, rows))
    written = reduce_rows(next(tables), index.reshape(-1), next(tables), reduce, include_self)
    return written if written is NotImplemented else written.reshape(first.shape).movedim(0, dim)


def reduce_rows(x: Tensor, index: Tensor, rows: Tensor, reduce: str, include_self: bool) -> Tensor:
    """x [N, F] with rows [M, F] reduced at index [M]."""
    shape = x.shape[0], index.shape[0], x.shape[1]
    floats = reduce in (_SUM, _MEAN) and x.is_floating_point()
    as_product = floats and most(*shape) > _FUSED
    if most(*(shape[:2] if as_product else shape)) > MAX_COMPARISONS:
        return NotImplemented
    equal = torch.arange(shape[0], device=x.device).unsqueeze(1) == index  # [N, M]
    if not as_product:
        return _combined(x, equal.unsqueeze(-1), rows, 1, reduce, include_self)
    return _with_sum(x, _product(equal, rows.float()), equal.sum(1, keepdim=True), reduce, include_self)


def _combined(x: Tensor, equal: Tensor, values: Tensor, axis: int, reduce: str, include_self: bool) -> Tensor:
    """x with the values marked as equal reduced along an axis."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    count = equal.sum(axis)
    if reduce in (_SUM, _MEAN):
        return _with_sum(x, torch.where(equal, wide, 0).sum(axis), count, reduce, include_self)
    neutral, reduction, combine = _REDUCTIONS[reduce]
    reduced = reduction(torch.where(equal, wide, neutral(values.dtype)), axis)
    before = x.to(reduced.dtype)
    after = combine(before, reduced) if include_self else reduced
    return torch.where(count > 0, after, before).to(x.dtype)


def _with_sum(x: Tensor, total: Tensor, count: Tensor, reduce: str, include_self: bool) -> Tensor:
    before = x.to(total.dtype)
    after = before + total if include_self else total
    if reduce == _MEAN:
        divisor = count + 1 if include_self else count.clamp(min=1)
        after = after / divisor if x.is_floating_point() else after // divisor
    return (after if include_self else torch.where(count > 0, after, before)).to(x.dtype)


def _product(equal: Tensor, rows: Tensor) -> Tensor:
    """For each position the sum of the rows [M, F] whose index equals it, by equal [N, M].

    Values that are not finite are counted separately: in a matrix product they would reach all positions.
    """
    missing = torch.isnan(rows)
    finite = torch.where(rows.abs() < math.inf, rows, 0)
    above, below = (rows == math.inf) | missing, (rows == -math.inf) | missing
    sums = equal.float() @ torch.cat([finite, above.float(), below.float()], 1)
    total, positive, negative = sums.split(rows.shape[1], 1)
    return total + torch.where(positive > 0, math.inf, 0.0) + torch.where(negative > 0, -math.inf, 0.0)


def _cut(src: Tensor, index: Tensor) -> Tensor:
    """The part of src that corresponds to index, which may be smaller."""
    for axis, extent in enumerate(index.shape):
        src = src if known_equal(src.shape[axis], extent) else src.narrow(axis, 0, extent)
    return src


def _is_spread(index: Tensor, axis: int) -> bool:
    """Whether the indices are constant along an axis, as in an expanded tensor."""
    return known_equal(index.shape[axis], 1) or known_equal(index.stride(axis), 0)


def _least(dtype: torch.dtype) -> float | int:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _greatest(dtype: torch.dtype) -> float | int:
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


_REDUCTIONS: dict[str, tuple[Callable[[torch.dtype], Any], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "prod": (lambda dtype: 1, torch.prod, torch.mul),
    "amax": (_least, torch.amax, torch.maximum),
    "amin": (_greatest, torch.amin, torch.minimum),
}
_REDUCING = (
    aten.scatter_add.default,
    aten.scatter_reduce.two,
    aten.scatter.reduce,
    aten.scatter.value_reduce,
    aten.index_add.default,
    aten.index_reduce.default,
    aten.index_put.default,
    aten.put.default,
    aten.segment_reduce.default,
)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.index_put.default: index_put,
    aten.index_reduce.default: index_reduce,
    aten.put.default: put,
    aten.scatter.src: scatter,
    aten.scatter.value: scatter_value,
    aten.scatter.reduce: scatter_by_name,
    aten.scatter.value_reduce: scatter_by_name,
    aten.scatter_add.default: scatter_add,
    aten.scatter_reduce.two: scatter_reduce,
}
