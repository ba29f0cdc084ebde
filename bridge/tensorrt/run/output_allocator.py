"""Outputs whose shape depends on values: TensorRT asks for memory during the run, and reports the shape."""

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


class DynamicOutput:
    """One such output of a context. shape: -1 for extents that depend on values. allocator: TensorRT's interface."""

    def __init__(self, trt: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
        self.allocator = _allocator_class(trt)(self)
        self._dtype = dtype
        self._device = device
        self._symbolic_shape = shape
        self._memory: Tensor | None = None
        self._shape: tuple[int, ...] | None = None
        self.error: Exception | None = None

    def allocate(self, size: int) -> int:
        """The address of `size` bytes; 0 if there is not enough memory."""
        try:
            self._memory = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:  # it must not cross TensorRT's frames; Context raises it
            self.error = error
            return 0
        return self._memory.data_ptr()

    def set_shape(self, shape: tuple[int, ...]) -> None:
        """Sets the shape, once TensorRT knows it."""
        self._shape = shape

    def take(self) -> Tensor:
        """The output of the last run; this object keeps no reference to it."""
        shape = self._shape or tuple(max(extent, 0) for extent in self._symbolic_shape)
        count = functools.reduce(lambda product, extent: product * extent, shape, 1)
        memory = self._memory if count else None
        self._memory = self._shape = None
        if memory is None:
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        return memory[: count * self._dtype.itemsize].view(self._dtype).view(shape)


@functools.cache
def _allocator_class(trt: ModuleType) -> type:
    class Allocator(trt.IOutputAllocator):  # type: ignore[name-defined]
        def __init__(self, output: DynamicOutput) -> None:
            trt.IOutputAllocator.__init__(self)
            self._output = output

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self._output.allocate(size)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self._output.allocate(size)

        def notify_shape(self, name: str, shape: Any) -> None:
            self._output.set_shape(tuple(shape))

    return Allocator
