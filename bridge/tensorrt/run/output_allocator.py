"""Outputs whose shape TensorRT finds while it runs: it asks for memory, and says what the shape is."""

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


class Found:
    """One such output of a context; `allocator` is TensorRT's. shape: with -1 for what is to be found."""

    def __init__(self, trt: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
        self.allocator = _allocator_class(trt)(self)
        self._dtype = dtype
        self._device = device
        self._unknown = shape
        self._memory: Tensor | None = None
        self._shape: tuple[int, ...] | None = None
        self.error: Exception | None = None

    def allocate(self, size: int) -> int:
        """The address of that many bytes; 0 where there is no such memory."""
        try:
            self._memory = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:  # TensorRT stands between here and who must be told
            self.error = error
            return 0
        return self._memory.data_ptr()

    def settle(self, shape: tuple[int, ...]) -> None:
        """Takes the shape, once it is found."""
        self._shape = shape

    def take(self) -> Tensor:
        """The output of the last run, which nothing here refers to any longer."""
        shape = self._shape or tuple(max(extent, 0) for extent in self._unknown)
        count = functools.reduce(lambda product, extent: product * extent, shape, 1)
        memory = self._memory if count else None
        self._memory = self._shape = None
        if memory is None:
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        return memory[: count * self._dtype.itemsize].view(self._dtype).view(shape)


@functools.cache
def _allocator_class(trt: ModuleType) -> type:
    class Allocator(trt.IOutputAllocator):  # type: ignore[name-defined]
        def __init__(self, found: Found) -> None:
            trt.IOutputAllocator.__init__(self)
            self._found = found

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self._found.allocate(size)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self._found.allocate(size)

        def notify_shape(self, name: str, shape: Any) -> None:
            self._found.settle(tuple(shape))

    return Allocator
