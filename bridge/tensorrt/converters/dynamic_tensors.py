"""Tensors created from dynamic extents, or indexed by them."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt.converters.extents import (
    Rule,
    Scalars,
    as_dtype,
    choose,
    compare,
    elementwise,
    floor_divide,
    negate,
)
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.converters.slices import slices_value_dependent


def _scalar_tensor(layers: Layers, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return as_dtype(layers, layers.reshape(value, []), dtype)


def _full(layers: Layers, size: Sequence[Any], value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    scalars = Scalars(layers)
    single = scalars.as_bool(value) if dtype is torch.bool else as_dtype(layers, scalars.promote(value)[0], dtype)
    single = layers.reshape(single, [1] * len(size))
    return layers.expand(single, [_as_extent(scalars, extent) for extent in size])


def _expand(layers: Layers, x: Any, size: Sequence[Any], **_: Any) -> Any:
    scalars = Scalars(layers)
    missing = len(size) - len(x.shape)
    extents = layers.extents(x)
    x = layers.reshape(x, [1] * missing + extents) if missing else x
    extents = [1] * missing + extents
    # Only an extent of 1 can be expanded; -1 keeps an extent.
    shape = [
        _as_extent(scalars, target) if _is(extent, 1) and not _is(target, -1) else extent
        for extent, target in zip(extents, size, strict=True)
    ]
    return layers.expand(x, shape)


def _is(extent: Any, value: int) -> bool:
    return isinstance(extent, int) and extent == value


def _as_extent(scalars: Scalars, extent: Any) -> Any:
    return extent if isinstance(extent, int) else scalars.as_integer(extent)


def _select(layers: Layers, x: Any, dim: int, index: Any) -> Any:
    axis = dim % len(x.shape)
    if isinstance(index, int) and index < 0:  # TensorRT leaves it undefined for dynamic extents
        index = elementwise("SUM")(layers, layers.extents(x)[axis], index)
    index = layers.reshape(Scalars(layers).as_integer(index), [])
    return layers.output(layers.network.add_gather(x, index, axis))


def _slice(layers: Layers, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """A slice of a dynamic dimension, or with dynamic bounds; bounds are clamped as in Python."""
    axis, rank, shape = dim % len(x.shape), len(x.shape), layers.extents(x)
    if start in (None, 0) and step == 1 and (end is None or _is(end, sys.maxsize)):
        return x
    extent = shape[axis]
    first = _clamped_bound(layers, start or 0, extent)
    last = extent if end is None or _is(end, sys.maxsize) else _clamped_bound(layers, end, extent)
    count = elementwise("MAX")(layers, elementwise("SUB")(layers, last, first), 0)
    shape[axis] = negate(layers, floor_divide(layers, negate(layers, count), step)) if step != 1 else count
    starts: list[Any] = [0] * rank
    starts[axis] = Scalars(layers).as_integer(first)
    strides = [1] * rank
    strides[axis] = step
    layer = layers.network.add_slice(x, [0] * rank, [0] * rank, strides)
    layer.set_input(1, layers.shape_tensor(starts))
    layer.set_input(2, layers.shape_tensor(shape))
    return layers.output(layer)


def _clamped_bound(layers: Layers, bound: Any, extent: Any) -> Any:
    """A bound of a slice, clamped to 0 .. extent; negative ones count from the end."""
    if isinstance(bound, int):
        if bound >= 0:
            return elementwise("MIN")(layers, bound, extent)
        return elementwise("MAX")(layers, elementwise("SUM")(layers, extent, bound), 0)
    negative = compare("LESS")(layers, bound, 0)
    counted = choose(layers, negative, elementwise("SUM")(layers, bound, extent), bound)
    return elementwise("MIN")(layers, elementwise("MAX")(layers, counted, 0), extent)


def _slices_dynamic(node: Node) -> bool:
    """Whether a slice has a dynamic dimension or dynamic bounds, but none that depends on values (see slices.py)."""
    if not isinstance(node.args[0], Node) or slices_value_dependent(node):
        return False
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    bounds = (*node.args[2:], *node.kwargs.values())
    dynamic = isinstance(node.args[0].meta["val"].shape[dim], torch.SymInt)
    return dynamic or any(isinstance(bound, Node) for bound in bounds)


def _has_computed_argument(index: int) -> Callable[[Node], bool]:
    """A validator: whether an argument is computed from extents."""

    def fits(node: Node) -> bool:
        argument = node.args[index]
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
    """The converter for an interpolation mode of TensorRT."""

    def add(layers: Layers, x: Any, size: Sequence[Any], *settings: Any) -> Any:
        align_corners = len(settings) == 2 and settings[0]
        layer = layers.network.add_resize(x)
        extents = [_as_extent(Scalars(layers), extent) for extent in size]
        layer.set_input(1, layers.shape_tensor([*layers.extents(x)[:2], *extents]))
        layer.resize_mode = getattr(layers.trt.InterpolationMode, mode)
        half = "ASYMMETRIC" if mode == "NEAREST" else "HALF_PIXEL"
        transformations = layers.trt.ResizeCoordinateTransformation
        layer.coordinate_transformation = getattr(transformations, "ALIGN_CORNERS" if align_corners else half)
        return layers.output(layer)

    return add


def _has_computed_size(node: Node) -> bool:
    """Whether a requested size is computed from extents."""
    size: Any = node.args[1]
    return size is not None and any(isinstance(extent, Node) for extent in size)


_ATEN = torch.ops.aten
TENSOR_RULES = (
    Rule(_ATEN.scalar_tensor.default, _scalar_tensor, _has_computed_argument(0)),
    Rule(_ATEN.full.default, _full, _has_computed_argument(1)),
    Rule(_ATEN.expand.default, _expand, _is_dynamic),
    Rule(_ATEN.slice.Tensor, _slice, _slices_dynamic),
    Rule(_ATEN.select.int, _select, _selects_by_extent),
    Rule(_ATEN.upsample_nearest2d.vec, _upsample("NEAREST"), _has_computed_size),
    Rule(_ATEN.upsample_nearest3d.vec, _upsample("NEAREST"), _has_computed_size),
    Rule(_ATEN.upsample_bilinear2d.vec, _upsample("LINEAR"), _has_computed_size),
    Rule(_ATEN.upsample_trilinear3d.vec, _upsample("LINEAR"), _has_computed_size),
    Rule(_ATEN.upsample_bicubic2d.vec, _upsample("CUBIC"), _has_computed_size),
)
