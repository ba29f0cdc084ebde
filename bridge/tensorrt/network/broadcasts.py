"""Replaces operands that are expanded by a slice with the operand itself, which the layer broadcasts.

Where shapes are fixed, torch_tensorrt expands a Linear's bias, a layer norm's scale and the like by slices of stride 0.
TensorRT-RTX 1.7.1 fails to build some networks with such slices: MyelinCheckException in operand.cpp or utils.cpp, seen
for GPT-2 and Swin. The layers that read them broadcast extents of 1 themselves.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def drop_expansions(trt: ModuleType, network: Any) -> None:
    """Connects layers to the inputs of such slices, if that does not change their results.

    The slices stay in the network; TensorRT drops those that nothing reads.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    outputs = [(layer.get_output(0), layer) for layer in layers if layer.type == trt.LayerType.SLICE]
    slices = {id(tensor): layer for tensor, layer in outputs}  # by identity: names are not unique
    for layer in layers:
        axes_of = _BROADCASTING.get(layer.type.name)
        if axes_of is None:
            continue
        for operand in range(layer.num_inputs):
            while (expansion := slices.get(id(layer.get_input(operand)))) is not None:
                repeated = _expanded_axes(trt, expansion)
                if not repeated or not axes_of(layer, operand) >= repeated:
                    break
                layer.set_input(operand, expansion.get_input(0))


def broadcast_empty_operands(original: Callable[..., Any]) -> Callable[..., Any]:
    """Corrects torch_tensorrt's broadcasting of empty operands: it takes the larger of the extents 0 and 1.

    If an extent is 0, only the ranks are made equal.
    """

    @functools.wraps(original)
    def broadcast_to_same_shape(ctx: Any, target: Any, source_ir: Any, name: str, lhs: Any, rhs: Any) -> Any:
        if 0 not in (*lhs.shape, *rhs.shape):
            return original(ctx, target, source_ir, name, lhs, rhs)
        from torch_tensorrt.dynamo.conversion.converter_utils import broadcast

        return broadcast(ctx, lhs, rhs, f"{name}_lhs", f"{name}_rhs")

    return broadcast_to_same_shape


def _expanded_axes(trt: ModuleType, layer: Any) -> set[int]:
    """The axes that a slice expands, if it does nothing else; otherwise none."""
    if layer.num_inputs > 1:  # start, shape or stride is a tensor
        return set()
    layer.__class__ = trt.ISliceLayer
    extents, starts, shape, strides = tuple(layer.get_input(0).shape), layer.start, tuple(layer.shape), layer.stride
    repeated = {axis for axis, stride in enumerate(strides) if stride == 0}
    whole = all(
        extents[axis] == (1 if axis in repeated else shape[axis]) and starts[axis] == 0 for axis in range(len(shape))
    )
    return repeated if whole else set()


def _axes_of_other_operands(layer: Any, operand: int) -> set[int]:
    """The axes in which another operand has the same extent, so that this one may have extent 1."""
    own = tuple(layer.get_input(operand).shape)
    other_shapes = [tuple(layer.get_input(other).shape) for other in range(layer.num_inputs) if other != operand]
    return {axis for axis, extent in enumerate(own) if any(shape[axis] == extent for shape in other_shapes)}


def _axes_of_batch(layer: Any, operand: int) -> set[int]:
    """The batch axes of a matrix product."""
    own, other = (tuple(layer.get_input(index).shape) for index in (operand, 1 - operand))
    if len(own) != len(other):  # a vector
        return set()
    return {axis for axis, extent in enumerate(own[:-2]) if other[axis] == extent}


def _axes_of_affine(layer: Any, operand: int) -> set[int]:
    """All axes of a normalization's scale and shift; none of its input."""
    return set(range(len(layer.get_input(operand).shape))) if operand else set()


_BROADCASTING: dict[str, Callable[[Any, int], set[int]]] = {
    "ELEMENTWISE": _axes_of_other_operands,
    "SELECT": _axes_of_other_operands,
    "MATRIX_MULTIPLY": _axes_of_batch,
    "NORMALIZATION": _axes_of_affine,
}
