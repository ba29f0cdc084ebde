"""Which operators are taken apart before conversion, and into what."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.op import OPS
from bridge.tensorrt import bags, counting, grouped, ordering, partial_writes, pooling, resizing, scattering
from bridge.tensorrt.attention import SDPA
from bridge.tensorrt.bounds import known_equal
from bridge.tensorrt.cumulative import CUMSUM, cumsum
from bridge.tensorrt.indexing import INDEX, index
from bridge.tensorrt.integer_arithmetic import ARITHMETIC
from bridge.tensorrt.promotion import promoted

_FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_AS_STRIDED = torch.ops.aten.as_strided.default
_CAT = torch.ops.aten.cat.default
_CONVOLUTION = torch.ops.aten.convolution.default
_SOFTPLUS = torch.ops.aten.softplus.default
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
    for op in OPS.values():
        table.pop(op.overload, None)
    return promoted({**_of_torch(table), **table, **_ours()})


def _of_torch(table: Mapping[Any, Any]) -> dict[Any, Callable[..., Any]]:
    """PyTorch's own, of functional operators that torch_tensorrt neither converts nor takes apart."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    known = dict(torch._decomp.core_aten_decompositions().items())
    known |= torch._decomp.get_decompositions([torch.ops.aten.addmv])
    converted = DYNAMO_CONVERTERS.keys() | table.keys()
    return {op: theirs for op, theirs in known.items() if op.namespace == "aten" and op not in converted}


def _ours() -> dict[Any, Callable[..., Any]]:
    """Each returns NotImplemented for what it leaves as it is."""
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {
        _AS_STRIDED: as_strided,
        _BATCH_NORM: batch_norm,
        _CAT: cat,
        _CONVOLUTION: convolution,
        torch.ops.prims.broadcast_in_dim.default: broadcast_in_dim,
        **resizing.by_factors(),
        **ARITHMETIC,
        CUMSUM: cumsum,
        INDEX: index,
        _SOFTPLUS: softplus,
        aten.slice_scatter.default: partial_writes.slice_scatter,
        aten.select_scatter.default: partial_writes.select_scatter,
        aten._softmax.default: softmax,
        aten.empty.memory_format: empty,
        aten.empty_permuted.default: empty,
        aten.empty_strided.default: empty,
        aten.addbmm.default: addbmm,
        aten._grouped_mm.default: grouped.grouped_mm,
        aten._embedding_bag.default: bags.embedding_bag,
        aten._embedding_bag_forward_only.default: bags.embedding_bag,
        aten.bucketize.Tensor: counting.bucketize,
        aten.histc.default: counting.histc,
        aten.searchsorted.Tensor: counting.searchsorted,
        aten.index_add.default: scattering.index_add,
        aten.index_put.default: scattering.index_put,
        aten.index_reduce.default: scattering.index_reduce,
        aten.put.default: scattering.put,
        aten.scatter.src: scattering.scatter,
        aten.scatter.value: scattering.scatter_value,
        aten.scatter.reduce: scattering.scatter_by_name,
        aten.scatter.value_reduce: scattering.scatter_by_name,
        aten.scatter_add.default: scattering.scatter_add,
        aten.scatter_reduce.two: scattering.scatter_reduce,
        aten.sort.default: ordering.sort,
        aten.sort.stable: ordering.stable_sort,
        aten.topk.default: ordering.topk,
        aten.kthvalue.default: ordering.kthvalue,
        aten.median.default: ordering.median,
        aten.median.dim: ordering.median_dim,
        aten.nanmedian.default: ordering.nanmedian,
        aten.nanmedian.dim: ordering.nanmedian_dim,
        aten.max.dim: ordering.max_dim,
        aten.min.dim: ordering.min_dim,
        aten.argmax.default: ordering.argmax,
        aten.argmin.default: ordering.argmin,
        aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool,
        aten._adaptive_avg_pool3d.default: pooling.adaptive_avg_pool,
        aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool,
        aten.adaptive_max_pool3d.default: pooling.adaptive_max_pool,
        aten.avg_pool2d.default: functools.partial(pooling.avg_pool, rank=2),
        aten.avg_pool3d.default: functools.partial(pooling.avg_pool, rank=3),
        aten.max_pool2d_with_indices.default: functools.partial(pooling.max_pool_with_indices, rank=2),
        aten.max_pool3d_with_indices.default: functools.partial(pooling.max_pool_with_indices, rank=3),
        _REPEAT: repeat,
        _ROLL: roll,
        _UNFOLD: unfold,
        _LINEAR: upsample_linear1d,
    }
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):  # once its mixtures of experts are imported
        table[torch.ops.transformers.grouped_mm_fallback.default] = grouped.grouped_mm_fallback
    return table


def empty(
    size: Sequence[Any],
    *layout: Any,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> Tensor:
    """Something to write to. An engine's tensors have one layout; torch_tensorrt puts some of these on a GPU."""
    return torch.zeros(size, dtype=dtype, device=device)


def softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Of a vector, or a single number: TensorRT's layer takes two dimensions or more."""
    if x.dim() > 1:
        return NotImplemented
    return torch.softmax(x.reshape(1, -1), 1).reshape(x.shape)


def addbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """x times beta plus the sum of a batch of products times alpha."""
    product = torch.bmm(a, b).sum(0)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (x if beta == 1 else x * beta)


def broadcast_in_dim(x: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """x with its dimensions at `axes` of a shape, repeated along the others; torch takes std apart with it."""
    placed = [1] * len(shape)
    for axis, extent in zip(axes, x.shape, strict=True):
        placed[axis] = extent
    return x.reshape(placed).expand(shape)


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
    same = len(size) == x.dim() and all(map(known_equal, size, x.shape))
    if not same or storage_offset:
        return NotImplemented
    moves = [
        ours
        for ours, extent in zip(zip(stride, x.stride(), strict=True), size, strict=True)
        if not known_equal(extent, 1)
    ]
    return torch.ops.aten.alias(x) if all(known_equal(*pair) for pair in moves) else NotImplemented


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
    whole = x.dim() == weight.dim() and all(map(known_equal, x.shape[2:], window)) and any(n > 1 for n in window)
    if not whole or transposed or groups != 1 or any(padding) or any(step != 1 for step in dilation):
        return NotImplemented
    product = torch.nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
    return product.reshape(*product.shape, *[1] * len(window))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Without the empty tensors of one dimension that PyTorch lets stand beside tensors of more, and TensorRT does not.

    transformers' caches of keys and values begin with one.
    """
    kept = [tensor for tensor in tensors if tensor.dim() != 1 or not known_equal(tensor.shape[0], 0)]
    others = {tensor.dtype for tensor in tensors} - {tensor.dtype for tensor in kept}
    if len(kept) in (0, len(tensors)) or others or kept[0].dim() == 1:
        return NotImplemented
    return _CAT(kept, dim) if len(kept) > 1 else kept[0].clone()


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """x itself beyond a threshold, which torch_tensorrt ignores. At 20 both are equal within float32's precision."""
    if threshold >= _SAME_SOFTPLUS:
        return NotImplemented
    return torch.where(x * beta > threshold, x, _SOFTPLUS(x, beta, _SAME_SOFTPLUS))


def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Dimension by dimension: PyTorch's own takes twice as many dimensions, of which TensorRT has eight."""
    x = x.reshape(*[1] * (len(repeats) - x.dim()), *x.shape)
    for axis, times in enumerate(repeats):
        if not known_equal(times, 1):
            shape = x.shape
            parts = x.unsqueeze(axis).expand(*shape[:axis], times, *shape[axis:])
            x = parts.reshape(*shape[:axis], times * shape[axis], *shape[axis + 1 :])
    return x.clone() if all(known_equal(times, 1) for times in repeats) else x


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


_SAME_SOFTPLUS = 20
