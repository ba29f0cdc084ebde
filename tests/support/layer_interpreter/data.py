"""Layers that move elements, or create them from a shape."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from layer_interpreter.table import integers, layer, require


@layer("CONSTANT")
def _constant(trt: Any, layer: Any) -> Tensor:
    return constant(layer.weights, tuple(layer.shape))


def constant(weights: Any, shape: tuple[int, ...]) -> Tensor:
    """weights: a NumPy array that shares TensorRT's memory, or trt.Weights of a dtype that NumPy lacks."""
    if hasattr(weights, "nbytes") and not hasattr(weights, "copy"):
        return _of_address(weights).reshape(shape)
    return torch.from_numpy(weights.copy()).reshape(shape)


class _Weights(ctypes.Structure):
    """nvinfer1::Weights"""

    _fields_ = (("type", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


def _of_address(weights: Any) -> Tensor:
    """bfloat16 weights, whose address has no Python API.

    pybind11 stores the address of the C++ object after the two words that start every Python object.
    """
    address = ctypes.c_void_p.from_address(id(weights) + 2 * ctypes.sizeof(ctypes.c_void_p)).value
    struct = _Weights.from_address(address)
    require(weights.dtype.name == "BF16" and struct.count == weights.size, f"weights of {weights.dtype}")
    if not struct.count:
        return torch.empty(0, dtype=torch.bfloat16)
    values = (ctypes.c_int16 * struct.count).from_address(struct.values)
    return torch.frombuffer(values, dtype=torch.bfloat16).clone()


@layer("SHAPE")
def _shape(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64)


@layer("SHUFFLE")
def _shuffle(trt: Any, layer: Any, x: Tensor, shape: Tensor | None = None) -> Tensor:
    x = x.permute(list(layer.first_transpose)[: x.dim()])
    target = (list(layer.reshape_dims) if shape is None else integers(shape)) if _reshapes(layer, shape) else None
    if target is not None:
        x = _reshape(x, target, layer.zero_is_placeholder)
    return x.permute(list(layer.second_transpose)[: x.dim()])


def _reshapes(layer: Any, shape: Tensor | None) -> bool:
    return shape is not None or layer.reshape_dims is not None


def _reshape(x: Tensor, target: list[int], zero_copies: bool) -> Tensor:
    if zero_copies:
        target = [x.shape[axis] if extent == 0 else extent for axis, extent in enumerate(target)]
    require(target.count(-1) <= 1 and min(target, default=0) >= -1, f"reshape to {target}")
    if -1 in target:
        rest = 1
        for extent in target:
            rest *= extent if extent != -1 else 1
        target[target.index(-1)] = x.numel() // rest if rest else 0
    volume = 1
    for extent in target:
        volume *= extent
    require(volume == x.numel(), f"reshape of {tuple(x.shape)} to {target}")
    return x.reshape(target)


@layer("SLICE")
def _slice(
    trt: Any,
    layer: Any,
    x: Tensor,
    start: Tensor | None = None,
    shape: Tensor | None = None,
    stride: Tensor | None = None,
    fill: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    starts = list(layer.start) if start is None else integers(start)
    sizes = list(layer.shape) if shape is None else integers(shape)
    strides = list(layer.stride) if stride is None else integers(stride)
    chosen = (list(layer.axes) if layer.axes else list(range(x.dim()))) if axes is None else integers(axes)
    require(len(starts) == len(sizes) == len(strides) == len(chosen), f"slice {starts} {sizes} {strides} {chosen}")
    inside = torch.ones((), dtype=torch.bool)
    for axis, first, size, step in zip(chosen, starts, sizes, strides, strict=True):
        require(size >= 0, f"slice of {size} elements")
        positions = first + step * torch.arange(size)
        valid = (positions >= 0) & (positions < x.shape[axis])
        if layer.mode == trt.SampleMode.FILL:
            along = valid.reshape([-1 if other == axis else 1 for other in range(x.dim())])
            inside = inside & along
        if x.shape[axis] == 0 and size and layer.mode == trt.SampleMode.FILL:
            x = x.new_zeros([size if other == axis else n for other, n in enumerate(x.shape)])
            continue
        x = x.index_select(axis, _positions_in_range(trt, layer.mode, positions, x.shape[axis]))
    if layer.mode != trt.SampleMode.FILL:
        return x
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype) if fill is None else fill.reshape(()).to(x.dtype))


def _positions_in_range(trt: Any, mode: Any, positions: Tensor, extent: int) -> Tensor:
    if not positions.numel():
        return positions
    if mode == trt.SampleMode.STRICT_BOUNDS:
        require(
            int(positions.min()) >= 0 and int(positions.max()) < extent, f"slice of {extent} at {positions.tolist()}"
        )
        return positions
    require(extent > 0, "slice of an empty tensor")
    if mode == trt.SampleMode.WRAP:
        return positions % extent
    if mode == trt.SampleMode.REFLECT:
        period = max(2 * (extent - 1), 1)
        folded = positions % period
        return torch.minimum(folded, period - folded) if extent > 1 else torch.zeros_like(positions)
    return positions.clamp(0, extent - 1)


@layer("CONCATENATION")
def _concatenation(trt: Any, layer: Any, *tensors: Tensor) -> Tensor:
    ranks, dtypes = {tensor.dim() for tensor in tensors}, {tensor.dtype for tensor in tensors}
    require(len(ranks) == len(dtypes) == 1, f"concatenation of ranks {ranks}, dtypes {dtypes}")
    return torch.cat(tensors, layer.axis)


def _index(layer: Any, indices: Tensor, extents: list[int], known: list[int]) -> Tensor:
    """Makes negative indices positive; the documentation leaves them undefined for a dynamic axis."""
    require(indices.dtype in (torch.int32, torch.int64), f"indices of {indices.dtype}")
    indices, sizes = indices.long(), torch.tensor(extents if indices.dim() else extents[0])
    if (indices < 0).any():
        require(-1 not in known, f"a negative index into a dynamic axis: {layer.name}")
    return torch.where(indices < 0, indices + sizes, indices).reshape(indices.shape)


@layer("GATHER")
def _gather(trt: Any, layer: Any, table: Tensor, indices: Tensor) -> Tensor:
    known = list(layer.get_input(0).shape)
    return _GATHERS[layer.mode.name](layer, table, indices, known)


def _gather_default(layer: Any, table: Tensor, indices: Tensor, known: list[int]) -> Tensor:
    axis, batched = layer.axis, layer.num_elementwise_dims
    indices = _index(layer, indices, [table.shape[axis]], [known[axis]])
    outside = (indices < 0) | (indices >= table.shape[axis])  # there the output is zero
    if batched:
        rows = max(table.shape[0], indices.shape[0])
        tables, positions = table.expand(rows, *table.shape[1:]), indices.expand(rows, *indices.shape[1:])
        masks = outside.expand(rows, *outside.shape[1:])
        batch = zip(tables.unbind(), positions.unbind(), masks, strict=True)
        return torch.stack([_gather_one(*operands, axis - 1) for operands in batch])
    return _gather_one(table, indices, outside, axis)


def _gather_one(table: Tensor, indices: Tensor, outside: Tensor, axis: int) -> Tensor:
    shape = (*table.shape[:axis], *indices.shape, *table.shape[axis + 1 :])
    if table.shape[axis] == 0:
        return table.new_zeros(shape)
    rows_of_table = table.index_select(axis, indices.masked_fill(outside, 0).reshape(-1)).reshape(shape)
    mask = outside.reshape([1] * axis + list(indices.shape) + [1] * (table.dim() - axis - 1))
    return rows_of_table.masked_fill(mask, 0)


def _gather_element(layer: Any, table: Tensor, indices: Tensor, known: list[int]) -> Tensor:
    axis = layer.axis
    require(table.dim() == indices.dim(), f"gather of {tuple(table.shape)} by {tuple(indices.shape)}")
    indices = _index(layer, indices, [table.shape[axis]], [known[axis]])
    outside = (indices < 0) | (indices >= table.shape[axis])
    return torch.gather(table, axis, indices.masked_fill(outside, 0)).masked_fill(outside, 0)


def _gather_nd(layer: Any, table: Tensor, indices: Tensor, known: list[int]) -> Tensor:
    batched, depth = layer.num_elementwise_dims, indices.shape[-1]
    extents = list(table.shape[batched : batched + depth])
    indices = _index(layer, indices, extents, known[batched : batched + depth])
    outside = ((indices < 0) | (indices >= torch.tensor(extents))).any(-1)
    indices = indices.masked_fill(outside[..., None], 0)
    grids = [
        torch.arange(n).reshape([-1 if other == axis else 1 for other in range(indices.dim() - 1)])
        for axis, n in enumerate(indices.shape[:batched])
    ]
    rows_of_table = table[(*grids, *indices.unbind(-1))]
    return rows_of_table.masked_fill(outside.reshape(*outside.shape, *[1] * (rows_of_table.dim() - outside.dim())), 0)


_GATHERS = {"DEFAULT": _gather_default, "ELEMENT": _gather_element, "ND": _gather_nd}


@layer("SCATTER")
def _scatter(trt: Any, layer: Any, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    known = list(layer.get_input(0).shape)
    require(x.dtype == updates.dtype, f"scatter of {updates.dtype} into {x.dtype}")
    if layer.mode == trt.ScatterMode.ELEMENT:
        axis = layer.axis
        require(indices.shape == updates.shape and x.dim() == indices.dim(), f"scatter {indices.shape} {updates.shape}")
        positions = _index(layer, indices, [x.shape[axis]], [known[axis]])
        return _unique(x, torch.scatter(x, axis, positions, updates), torch.scatter_add, axis, positions)
    depth = indices.shape[-1]
    positions = _index(layer, indices, list(x.shape[:depth]), known[:depth])
    expected = (*indices.shape[:-1], *x.shape[depth:])
    require(tuple(updates.shape) == expected, f"scatter of {tuple(updates.shape)}, expected {expected}")
    require(bool((positions >= 0).all()) and bool((positions < torch.tensor(x.shape[:depth])).all()), "scatter outside")
    index_tensors, one = positions.unbind(-1), torch.ones(()).long()
    counts = torch.zeros(x.shape[:depth], dtype=torch.int64).index_put(index_tensors, one, accumulate=True)
    require(int(counts.max() if counts.numel() else 0) <= 1, "scatter writes an element twice")
    return x.index_put(index_tensors, updates)


def _unique(x: Tensor, result: Tensor, add: Any, axis: int, positions: Tensor) -> Tensor:
    counts = add(torch.zeros(x.shape, dtype=torch.int64), axis, positions, torch.ones_like(positions))
    require(int(counts.max() if counts.numel() else 0) <= 1, "scatter writes an element twice")
    return result


@layer("FILL")
def _fill(
    trt: Any, layer: Any, shape: Tensor | None = None, alpha: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    if layer.operation != trt.FillOperation.LINSPACE:
        raise NotImplementedError(f"the interpreter has no {layer.operation.name} fill")
    extents = list(layer.shape) if shape is None else integers(shape)
    dtype = {trt.float32: torch.float32, trt.int32: torch.int32, trt.int64: torch.int64}[layer.get_output(0).dtype]
    first = torch.tensor(layer.alpha) if alpha is None else alpha
    steps = torch.tensor([layer.beta]) if beta is None else beta.reshape(-1)
    require((alpha is None) == (beta is None) and first.dtype == steps.dtype, f"fill from {first.dtype} {steps.dtype}")
    require(steps.numel() == len(extents), f"fill of {len(extents)} dimensions by {steps.numel()} steps")
    result = first.reshape([1] * len(extents))
    for axis, (extent, step) in enumerate(zip(extents, steps, strict=True)):
        positions = torch.arange(extent).reshape([-1 if other == axis else 1 for other in range(len(extents))])
        result = result + step * positions
    return result.to(dtype)


@layer("ONE_HOT")
def _one_hot(trt: Any, layer: Any, indices: Tensor, values: Tensor, depth: Tensor) -> Tensor:
    axis, rank = layer.axis, indices.dim() + 1
    axis = axis + rank if axis < 0 else axis
    positions = indices.unsqueeze(axis)
    classes = torch.arange(int(depth)).reshape([-1 if other == axis else 1 for other in range(rank)])
    return torch.where(positions == classes, values[1], values[0])


@layer("PADDING")
def _padding(trt: Any, layer: Any, x: Tensor) -> Tensor:
    before, after = list(layer.pre_padding_nd), list(layer.post_padding_nd)
    return torch.nn.functional.pad(x, (before[1], after[1], before[0], after[0]))


@layer("SQUEEZE")
def _squeeze(trt: Any, layer: Any, x: Tensor, axes: Tensor) -> Tensor:
    chosen = [axis % x.dim() for axis in integers(axes)]
    require(all(x.shape[axis] == 1 for axis in chosen), f"squeeze of {tuple(x.shape)} at {chosen}")
    return x.squeeze(chosen)


@layer("UNSQUEEZE")
def _unsqueeze(trt: Any, layer: Any, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


@layer("NON_ZERO")
def _non_zero(trt: Any, layer: Any, x: Tensor) -> Tensor:
    indices = torch.nonzero(x).T.contiguous()
    return indices.to(torch.int64 if layer.get_output(0).dtype == trt.int64 else torch.int32)


@layer("REVERSE_SEQUENCE")
def _reverse_sequence(trt: Any, layer: Any, x: Tensor, lengths: Tensor) -> Tensor:
    moved = x.movedim((layer.batch_axis, layer.sequence_axis), (0, 1))
    rows = [torch.cat((row[:n].flip(0), row[n:])) for row, n in zip(moved, integers(lengths), strict=True)]
    return torch.stack(rows).movedim((0, 1), (layer.batch_axis, layer.sequence_axis))
