"""Runs of an engine on torch tensors, in the order of the current stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError, EngineInputError
from bridge.tensorrt import streams
from bridge.tensorrt.input_check import InputCheck
from bridge.tensorrt.messages import describe_errors

if TYPE_CHECKING:
    from bridge.tensorrt.engine import Engine

_ALIGNMENT = 256  # bytes; what TensorRT's kernels may assume of an address, and CUDA's allocators give


class Context:
    """One execution context of an engine: made by `Engine.new_context`, for one thread at a time.

    static_outputs: calls with the shapes of the call before return its tensors, overwritten, instead of new ones.
    """

    def __init__(self, engine: "Engine", native: Any, static_outputs: bool = False) -> None:
        self._engine = engine
        self.native = native
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._names = [spec.name for spec in engine.file.inputs] + [spec.name for spec in engine.file.outputs]
        self._dtypes = [getattr(torch, spec.dtype) for spec in engine.file.outputs]
        self._order = streams.Order(engine.device)
        self._static_outputs = static_outputs
        with torch.cuda.device(self._device):
            # What addresses of empty tensors point to: TensorRT takes no null there.
            self._nowhere = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=self._device)
            if native.active_optimization_profile != 0:  # TensorRT selects it for the first context alone
                native.set_optimization_profile_async(0, streams.beside_default(self._device))
        self._forget()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        if torch.cuda.current_device() == self._device.index:
            return self._call(inputs)
        with torch.cuda.device(self._device):
            return self._call(inputs)

    def check_capturable(self, stream: int) -> None:
        """Whether a CUDA graph can hold a run with the shapes of the last one. EngineError: it cannot."""
        capturable = getattr(self.native, "is_stream_capturable", None)  # TensorRT-RTX alone can tell
        if capturable is not None and not capturable(stream):
            raise EngineError(
                f"TensorRT cannot capture this engine into a CUDA graph for inputs of shapes"
                f" {_spell(self._shapes or ())}; run it with cuda_graph=False{self._reasons()}"
            )

    def _call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shapes = self._check.check(inputs)
        if shapes is not self._shapes:
            self._set_shapes(shapes)
        captured = torch.cuda.is_current_stream_capturing()
        outputs = self._outputs_for(captured)
        if self._computes:
            copies = [tensor if _ready(tensor) else _copy(tensor) for tensor in inputs]
            self._set_addresses((*copies, *outputs))
            self._enqueue(captured)  # then the copies may go: their memory is reused in the order of the stream
        return outputs

    def _forget(self) -> None:
        """Sets all anew in the next call."""
        self._shapes: tuple[torch.Size, ...] | None = None
        self._addresses = [0] * len(self._names)
        self._scratch: Tensor | None = None
        self._static: tuple[Tensor, ...] | None = None

    def _set_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        self._shapes = self._static = None
        for name, shape in zip(self._names, shapes, strict=False):
            if not self.native.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT takes no input {name} of shape {tuple(shape)}{self._reasons()}")
        names = self._names[len(shapes) :]
        self._output_shapes = [tuple(self.native.get_tensor_shape(name)) for name in names]
        for inferred, name in zip(self._output_shapes, names, strict=True):
            if any(extent < 0 for extent in inferred):
                raise EngineError(
                    f"the shape of output {name} does not follow from the shapes {_spell(shapes)} of the inputs: "
                    f"TensorRT says {inferred}{self._reasons()}"
                )
        self._computes = any(0 not in shape for shape in self._output_shapes)
        self._has_scratch = False
        self._shapes = shapes

    def _outputs_for(self, captured: bool) -> tuple[Tensor, ...]:
        if self._static is not None and not captured:
            return self._static
        outputs = tuple(
            [
                torch.empty(shape, dtype=dtype, device=self._device)
                for shape, dtype in zip(self._output_shapes, self._dtypes, strict=True)
            ]
        )
        if self._static_outputs and not captured:
            self._static = outputs
        return outputs

    def _set_addresses(self, tensors: Sequence[Tensor]) -> None:
        for place, tensor in enumerate(tensors):
            address = tensor.data_ptr() or self._address_of_none(place, tensor)
            if address != self._addresses[place]:
                name = self._names[place]
                if not self.native.set_tensor_address(name, address):
                    raise EngineError(f"TensorRT takes no address {address:#x} for {name}{self._reasons()}")
                self._addresses[place] = address

    def _address_of_none(self, place: int, tensor: Tensor) -> int:
        if tensor.numel():
            raise EngineInputError(f"input {self._names[place]} is a tensor without memory, such as a FakeTensor")
        return self._nowhere.data_ptr()

    def _enqueue(self, captured: bool) -> None:
        stream = streams.for_engines(self._device)
        if captured or not self._has_scratch:
            self._provide_scratch(captured)
        self._order.enter(stream, self._kept, captured)
        enqueued = self.native.execute_async_v3(stream)
        if captured:  # its graph owns that scratch memory, and may go at any time
            self._scratch, self._has_scratch = None, False
        if not enqueued:
            shapes = self._shapes or ()
            self._forget()
            raise EngineError(f"TensorRT did not run the engine on shapes {_spell(shapes)}{self._reasons()}")

    def _provide_scratch(self, captured: bool) -> None:
        size = self.native.update_device_memory_size_for_shapes()
        if captured or self._scratch is None or self._scratch.numel() < size:
            self._scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        self.native.set_device_memory(self._scratch.data_ptr(), size)
        self._has_scratch = True

    def _kept(self) -> list[Tensor]:
        """What this context keeps for later calls, which may be on other streams."""
        return [tensor for tensor in (self._scratch, *(self._static or ())) if tensor is not None]

    def _reasons(self) -> str:
        return describe_errors(self._engine.flavour)


def _ready(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0 and not tensor.is_neg()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _spell(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
