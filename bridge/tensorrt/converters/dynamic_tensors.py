"""Tensors made of dynamic extents, or taken apart by them."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt.converters.extents import (
    Numbers,
    Rule,
    as_dtype,
    choose,
    compare,
    elementwise,
    floor_divide,
    negate,
)
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.converters.slices import is_of_values


def _scalar_tensor(layers: Layers, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return as_dtype(layers, layers.reshape(value, []), dtype)


def _full(layers: Layers, size: Sequence[Any], value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    numbers = Numbers(layers)
    single = numbers.as_condition(value) if dtype is torch.bool else as_dtype(layers, numbers.alike(value)[0], dtype)
    single = layers.reshape(single, [1] * len(size))
    return layers.expand(single, [extent if isinstance(extent, int) else numbers.as_integer(extent) for extent in size])


def _expand(layers: Layers, x: Any, size: Sequence[Any], **_: Any) -> Any:
    numbers = Numbers(layers)
    missing = len(size) - len(x.shape)
    own = layers.extents(x)
    x = layers.reshape(x, [1] * missing + own) if missing else x
    own = [1] * missing + own
    kept = [mine if isinstance(asked, int) and asked == -1 else asked for mine, asked in zip(own, size, strict=True)]
    wanted = [extent if isinstance(extent, int) else numbers.as_integer(extent) for extent in kept]
    # An extent of 1 is expanded to any, another one to itself alone.
    wanted = [theirs if isinstance(mine, int) and mine == 1 else mine for mine, theirs in zip(own, wanted, strict=True)]
    return layers.expand(x, wanted)


def _select(layers: Layers, x: Any, dim: int, index: Any) -> Any:
    axis = dim % len(x.shape)
    if isinstance(index, int) and index < 0:  # undefined for TensorRT, where the extent is dynamic
        index = elementwise("SUM")(layers, layers.extents(x)[axis], index)
    place = layers.reshape(Numbers(layers).as_integer(index), [])
    return layers.output(layers.network.add_gather(x, place, axis))


def _slice(layers: Layers, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Of a dynamic dimension, or by extents: bounds that lie outside are moved in, as Python does."""
    axis, rank, shape = dim % len(x.shape), len(x.shape), layers.extents(x)
    if start in (None, 0) and step == 1 and (end is None or (isinstance(end, int) and end == sys.maxsize)):
        return x
    extent = shape[axis]
    first = _place(layers, start or 0, extent)
    last = extent if end is None or (isinstance(end, int) and end == sys.maxsize) else _place(layers, end, extent)
    count = elementwise("MAX")(layers, elementwise("SUB")(layers, last, first), 0)
    shape[axis] = negate(layers, floor_divide(layers, negate(layers, count), step)) if step != 1 else count
    starts: list[Any] = [0] * rank
    starts[axis] = Numbers(layers).as_integer(first)
    strides = [1] * rank
    strides[axis] = step
    layer = layers.network.add_slice(x, [0] * rank, [0] * rank, strides)
    layer.set_input(1, layers.shape_tensor(starts))
    layer.set_input(2, layers.shape_tensor(shape))
    return layers.output(layer)


def _place(layers: Layers, bound: Any, extent: Any) -> Any:
    """A bound of a slice, counted from the start and within the extent."""
    if isinstance(bound, int):
        if bound >= 0:
            return elementwise("MIN")(layers, bound, extent)
        return elementwise("MAX")(layers, elementwise("SUM")(layers, extent, bound), 0)
    negative = compare("LESS")(layers, bound, 0)
    counted = choose(layers, negative, elementwise("SUM")(layers, bound, extent), bound)
    return elementwise("MIN")(layers, elementwise("MAX")(layers, counted, 0), extent)


def _slices_dynamic(node: Node) -> bool:
    """Whether a slice is of a dynamic dimension, or by extents; where that depends on values, slices.py has it."""
    if not isinstance(node.args[0], Node) or is_of_values(node):
        return False
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    bounds = (*node.args[2:], *node.kwargs.values())
    dynamic = isinstance(node.args[0].meta["val"].shape[dim], torch.SymInt)
    return dynamic or any(isinstance(bound, Node) for bound in bounds)


def _has_number(place: int) -> Callable[[Node], bool]:
    """Whether an argument is computed from extents."""

    def fits(node: Node) -> bool:
        argument = node.args[place]
        return isinstance(argument, Node) and not isinstance(argument.meta.get("val"), torch.Tensor)

    return fits


def _selects_by_extent(node: Node) -> bool:
    """Whether the index is computed from extents, or counts from the end of a dynamic dimension."""
    arguments: Any = node.args
    x, dim, index = arguments
    return isinstance(index, Node) or (index < 0 and isinstance(x.meta["val"].shape[dim], torch.SymInt))


def _is_dynamic(node: Node) -> bool:
    """Whether the result has dynamic extents."""
    return any(isinstance(extent, torch.SymInt) for extent in node.meta["val"].shape)


def _upsample(mode: str) -> Callable[..., Any]:
    """By an interpolation mode of TensorRT's."""

    def add(layers: Layers, x: Any, size: Sequence[Any], *rest: Any) -> Any:
        align_corners = len(rest) == 2 and rest[0]
        layer = layers.network.add_resize(x)
        extents = [extent if isinstance(extent, int) else Numbers(layers).as_integer(extent) for extent in size]
        layer.set_input(1, layers.shape_tensor([*layers.extents(x)[:2], *extents]))
        layer.resize_mode = getattr(layers.trt.InterpolationMode, mode)
        half = "ASYMMETRIC" if mode == "NEAREST" else "HALF_PIXEL"
        transformations = layers.trt.ResizeCoordinateTransformation
        layer.coordinate_transformation = getattr(transformations, "ALIGN_CORNERS" if align_corners else half)
        return layers.output(layer)

    return add


def _to_extents(node: Node) -> bool:
    """Whether a size that is asked for is computed from extents."""
    size: Any = node.args[1]
    return size is not None and any(isinstance(extent, Node) for extent in size)


_ATEN = torch.ops.aten
TENSORS = (
    Rule(_ATEN.scalar_tensor.default, _scalar_tensor, _has_number(0)),
    Rule(_ATEN.full.default, _full, _has_number(1)),
    Rule(_ATEN.expand.default, _expand, _is_dynamic),
    Rule(_ATEN.slice.Tensor, _slice, _slices_dynamic),
    Rule(_ATEN.select.int, _select, _selects_by_extent),
    Rule(_ATEN.upsample_nearest2d.vec, _upsample("NEAREST"), _to_extents),
    Rule(_ATEN.upsample_nearest3d.vec, _upsample("NEAREST"), _to_extents),
    Rule(_ATEN.upsample_bilinear2d.vec, _upsample("LINEAR"), _to_extents),
    Rule(_ATEN.upsample_trilinear3d.vec, _upsample("LINEAR"), _to_extents),
    Rule(_ATEN.upsample_bicubic2d.vec, _upsample("CUBIC"), _to_extents),
)
