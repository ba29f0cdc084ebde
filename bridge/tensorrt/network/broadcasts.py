"""Operands that a layer broadcasts by itself, in the place of slices that repeat them.

Where shapes are fixed, torch_tensorrt repeats a Linear's bias, a layer norm's scale and the like to the full shape, by
slices of stride 0. TensorRT-RTX 1.7.1 fails to build some networks of such slices: MyelinCheckException in operand.cpp
or utils.cpp, seen for GPT-2 and Swin. Extents of 1 mean the same to the layers that read them.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def drop_repeats(trt: ModuleType, network: Any) -> None:
    """Connects layers to what slices of stride 0 repeat for them, where their results stay as they are.

    The slices stay in the network; those that nothing reads any more are left out of its engine.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    outputs = [(layer.get_output(0), layer) for layer in layers if layer.type == trt.LayerType.SLICE]
    slices = {id(tensor): layer for tensor, layer in outputs}  # by identity: names are not unique
    for layer in layers:
        axes_of = _BROADCASTING.get(layer.type.name)
        if axes_of is None:
            continue
        for place in range(layer.num_inputs):
            while (source := slices.get(id(layer.get_input(place)))) is not None:
                repeated = _repeated(trt, source)
                if not repeated or not axes_of(layer, place) >= repeated:
                    break
                layer.set_input(place, source.get_input(0))


def of_empty_operands(original: Callable[..., Any]) -> Callable[..., Any]:
    """torch_tensorrt's repetition of operands of different ranks, which takes the larger of 0 and 1 for the extent of
    both; where there is an extent of 0, only the ranks are made equal."""

    @functools.wraps(original)
    def broadcast_to_same_shape(ctx: Any, target: Any, source_ir: Any, name: str, lhs: Any, rhs: Any) -> Any:
        if 0 not in (*lhs.shape, *rhs.shape):
            return original(ctx, target, source_ir, name, lhs, rhs)
        from torch_tensorrt.dynamo.conversion.converter_utils import broadcast

        return broadcast(ctx, lhs, rhs, f"{name}_lhs", f"{name}_rhs")

    return broadcast_to_same_shape


def _repeated(trt: ModuleType, layer: Any) -> set[int]:
    """The axes along which a slice repeats what it takes whole; none where it does anything else."""
    if layer.num_inputs > 1:  # start, shape or stride is computed
        return set()
    layer.__class__ = trt.ISliceLayer
    extents, starts, shape, strides = tuple(layer.get_input(0).shape), layer.start, tuple(layer.shape), layer.stride
    repeated = {axis for axis, stride in enumerate(strides) if stride == 0}
    whole = all(
        extents[axis] == (1 if axis in repeated else shape[axis]) and starts[axis] == 0 for axis in range(len(shape))
    )
    return repeated if whole else set()


def _where_others_reach(layer: Any, place: int) -> set[int]:
    """The axes in which another operand has the whole extent of this one, so that this one may have 1."""
    own = tuple(layer.get_input(place).shape)
    others = [tuple(layer.get_input(other).shape) for other in range(layer.num_inputs) if other != place]
    return {axis for axis, extent in enumerate(own) if any(shape[axis] == extent for shape in others)}


def _batch_axes(layer: Any, place: int) -> set[int]:
    """The axes of a product of matrices that are neither rows nor columns."""
    own, other = (tuple(layer.get_input(index).shape) for index in (place, 1 - place))
    if len(own) != len(other):  # a vector
        return set()
    return {axis for axis, extent in enumerate(own[:-2]) if other[axis] == extent}


def _axes_of_affine(layer: Any, place: int) -> set[int]:
    """All axes of a normalization's scale and shift; none of what it normalizes."""
    return set(range(len(layer.get_input(place).shape))) if place else set()


_BROADCASTING: dict[str, Callable[[Any, int], set[int]]] = {
    "ELEMENTWISE": _where_others_reach,
    "SELECT": _where_others_reach,
    "MATRIX_MULTIPLY": _batch_axes,
    "NORMALIZATION": _axes_of_affine,
}
