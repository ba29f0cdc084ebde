"""Adds TensorRT's own layers to a network: those that converters and native lowerings need.

A shape is a list of extents: an int if it is known, else a tensor of one int64.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy

Extent: TypeAlias = Any  # an int, or an ITensor of one int64


class Layers:
    """The layers of one call of an op; they are named for it.

    constants: arrays that the network points to are appended. Keep them until the engine is built.
    """

    def __init__(self, trt: ModuleType, network: Any, name: str, constants: list[Any]) -> None:
        self.trt = trt
        self.network = network
        self._name = name
        self._constants = constants
        self._count = 0

    def output(self, layer: Any) -> Any:
        """The first output of a layer that was just added."""
        if layer is None:
            raise ValueError(f"TensorRT did not take a layer of {self._name}")
        layer.name = f"{self._name} {self._count}"
        self._count += 1
        return layer.get_output(0)

    def constant(self, value: Any, dtype: Any = numpy.float32) -> Any:
        """A constant tensor, by default float32."""
        array = numpy.ascontiguousarray(value, dtype=dtype).reshape(numpy.shape(value))
        self._constants.append(array)
        return self.output(self.network.add_constant(array.shape, self.trt.Weights(array)))

    def cast(self, tensor: Any, dtype: Any) -> Any:
        """The tensor in a dtype of TensorRT."""
        return tensor if tensor.dtype == dtype else self.output(self.network.add_cast(tensor, dtype))

    def scalar_like(self, value: float, like: Any) -> Any:
        """A constant of the rank and dtype of another tensor, for elementwise layers."""
        return self.cast(self.constant(numpy.full((1,) * len(like.shape), value)), like.dtype)

    def activation(self, tensor: Any, function: str, alpha: float | None = None, beta: float | None = None) -> Any:
        """An activation; `function` names a member of trt.ActivationType."""
        layer = self.network.add_activation(tensor, getattr(self.trt.ActivationType, function))
        if alpha is not None:
            layer.alpha = alpha
        if beta is not None:
            layer.beta = beta
        return self.output(layer)

    def elementwise(self, operation: str, a: Any, b: Any) -> Any:
        """`operation` names a member of trt.ElementWiseOperation. Extents of 1 are broadcast."""
        return self.output(self.network.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation)))

    def add(self, a: Any, b: Any) -> Any:
        """a + b."""
        return self.elementwise("SUM", a, b)

    def subtract(self, a: Any, b: Any) -> Any:
        """a - b."""
        return self.elementwise("SUB", a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        """a * b."""
        return self.elementwise("PROD", a, b)

    def divide(self, a: Any, b: Any) -> Any:
        """a / b."""
        return self.elementwise("DIV", a, b)

    def product(self, a: Extent, b: Extent) -> Extent:
        """The product of two extents."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        known = [self.constant([item], numpy.int64) if isinstance(item, int) else item for item in (a, b)]
        return self.multiply(*known)

    def extents(self, tensor: Any) -> list[Extent]:
        """The tensor's shape."""
        known = tuple(tensor.shape)
        if all(extent >= 0 for extent in known):
            return list(known)
        shape = self.output(self.network.add_shape(tensor))
        return [extent if extent >= 0 else self._item(shape, axis) for axis, extent in enumerate(known)]

    def reshape(self, tensor: Any, shape: Sequence[Extent]) -> Any:
        """The same elements in another shape."""
        layer = self.network.add_shuffle(tensor)
        layer.zero_is_placeholder = False
        if sum(not isinstance(extent, int) for extent in shape) <= 1:
            layer.reshape_dims = [extent if isinstance(extent, int) else -1 for extent in shape]
        else:
            layer.set_input(1, self.shape_tensor(shape))
        return self.output(layer)

    def slice(self, tensor: Any, axis: int, start: int, size: int, step: int = 1) -> Any:
        """`size` elements of one axis."""
        rank = len(tensor.shape)
        shape = self.extents(tensor)
        shape[axis] = size
        starts, steps = [0] * rank, [1] * rank
        starts[axis], steps[axis] = start, step
        return self._slice(tensor, starts, shape, steps)

    def first(self, tensor: Any, shape: Sequence[Extent]) -> Any:
        """The leading elements, in a smaller shape."""
        return self._slice(tensor, [0] * len(shape), shape, [1] * len(shape))

    def expand(self, tensor: Any, shape: Sequence[Extent]) -> Any:
        """The tensor with extents of 1 repeated to those of `shape`."""
        strides = [0 if extent == 1 and target != 1 else 1 for extent, target in zip(tensor.shape, shape, strict=True)]
        if all(strides):
            return tensor
        return self._slice(tensor, [0] * len(strides), shape, strides)

    def concatenate(self, tensors: Sequence[Any], axis: int) -> Any:
        """The tensors concatenated along an axis."""
        layer = self.network.add_concatenation(list(tensors))
        layer.axis = axis
        return self.output(layer)

    def gather(self, table: Any, indices: Any) -> Any:
        """Rows of a table."""
        return self.output(self.network.add_gather(table, indices, 0))

    def matrix_multiply(self, a: Any, b: Any) -> Any:
        """The matrix product over the last two dimensions."""
        none = self.trt.MatrixOperation.NONE
        return self.output(self.network.add_matrix_multiply(a, none, b, none))

    def arange(self, count: Extent, start: float, step: float) -> Any:
        """`count` float32 values from `start`, with a step."""
        if isinstance(count, int):
            return self.constant(start + step * numpy.arange(count))
        layer = self.network.add_fill((1,), self.trt.FillOperation.LINSPACE, self.trt.DataType.FLOAT)
        layer.set_input(0, count)
        layer.set_input(1, self.constant(start))
        layer.set_input(2, self.constant([step]))
        return self.output(layer)

    def shape_tensor(self, shape: Sequence[Extent]) -> Any:
        """A shape as one tensor."""
        items = [self.constant([item], numpy.int64) if isinstance(item, int) else item for item in shape]
        return self.concatenate(items, 0)

    def _item(self, shape: Any, axis: int) -> Any:
        return self.output(self.network.add_slice(shape, (axis,), (1,), (1,)))

    def _slice(self, tensor: Any, starts: Sequence[int], shape: Sequence[Extent], steps: Sequence[int]) -> Any:
        fixed = all(isinstance(extent, int) for extent in shape)
        layer = self.network.add_slice(tensor, starts, shape if fixed else [0] * len(shape), steps)
        if not fixed:
            layer.set_input(2, self.shape_tensor(shape))
        return self.output(layer)
