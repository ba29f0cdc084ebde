"""Runs of an engine on torch tensors, in the order of the current stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError, EngineInputError
from bridge.tensorrt.install.tensorrt_log import describe_errors, take_errors
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.capturable import likely_causes
from bridge.tensorrt.run.input_check import InputCheck
from bridge.tensorrt.run.output_allocator import Found

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine

_ALIGNMENT = 256  # bytes; what TensorRT's kernels may assume of an address, and CUDA's allocators give


class Scratch:
    """Scratch memory that the contexts of one thread share: they run one after the other, in `order`."""

    def __init__(self, device: torch.device) -> None:
        self.order = streams.Order(device)
        self.memory: Tensor | None = None
        self.address = 0
        self._device = device

    def provide(self, size: int) -> int:
        """The address of at least that many bytes, the same as before where those suffice."""
        if self.memory is None or self.memory.numel() < size:
            self.memory = _bytes(size, self._device)
            self.address = self.memory.data_ptr()
        return self.address


class Context:
    """One execution context of an engine: made by `Engine.new_context`, for one thread at a time.

    scratch: by default its own. static_outputs: calls with the shapes of the call before return its tensors,
    overwritten, instead of new ones, except for outputs whose shape depends on values.
    """

    _shapes: tuple[torch.Size, ...] | None
    _static: tuple[Tensor | None, ...] | None

    def __init__(
        self, engine: "Engine", native: Any, static_outputs: bool = False, scratch: Scratch | None = None
    ) -> None:
        self._engine = engine
        self.native = native
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._names = [spec.name for spec in engine.file.inputs] + [spec.name for spec in engine.file.outputs]
        self._dtypes = [getattr(torch, spec.dtype) for spec in engine.file.outputs]
        self._scratch = scratch or Scratch(engine.device)
        self._static_outputs = static_outputs
        self.captured = False  # a CUDA graph of the caller's holds a run of it
        with torch.cuda.device(self._device):
            # What addresses of empty tensors point to: TensorRT takes no null there.
            self._nowhere = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=self._device)
            if native.active_optimization_profile != 0:  # TensorRT selects it for the first context alone
                native.set_optimization_profile_async(0, streams.beside_default(self._device))
        self._forget()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        if torch.cuda.current_device() == self._device.index:
            return self.run(self._check.check(inputs), inputs)
        with torch.cuda.device(self._device):
            return self.run(self._check.check(inputs), inputs)

    @property
    def shapes(self) -> tuple[torch.Size, ...] | None:
        """Those of the inputs of the last run."""
        return self._shapes

    def check_capturable(self, stream: int) -> None:
        """Whether a CUDA graph can hold a run with the shapes of the last one. EngineError: it cannot."""
        self.check_shapes_known()
        capturable = getattr(self.native, "is_stream_capturable", None)  # TensorRT-RTX alone can tell
        if capturable is not None and not capturable(stream):
            causes = likely_causes(self._engine.file.layers)
            raise EngineError(
                f"TensorRT cannot capture this engine into a CUDA graph for inputs of shapes"
                f" {_spell(self._shapes or ())}{f', probably because {causes}' if causes else ''}; run it with"
                f" cuda_graph=False{', or write the model without that' if causes else ''}{self._reasons()}"
            )

    def check_shapes_known(self) -> None:
        """Whether the last run's shapes are those of a CUDA graph. EngineError: that of an output depends on values."""
        if self._found:
            names = ", ".join(self._engine.file.outputs[place].name for place in self._found)
            raise EngineError(
                f"a CUDA graph cannot hold this engine: the shape of its output {names} depends on values; run it with"
                " cuda_graph=False, outside of any capture"
            )

    def keep_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        """Takes this tuple for the last run's where it is equal to that: `run` compares by identity."""
        if shapes == self._shapes:
            self._shapes = shapes

    def forget_outputs(self) -> None:
        """Has the next run return new tensors, static_outputs or not."""
        self._static = None

    def run(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs for inputs that were checked, on the current GPU, which is the engine's."""
        if shapes is not self._shapes:
            self._set_shapes(shapes)
        captured = torch.cuda.is_current_stream_capturing()
        if captured:
            self.check_shapes_known()
            self.captured = True
        outputs = self._outputs_for(captured)
        if self._computes:
            copies = [tensor if _ready(tensor) else _copy(tensor) for tensor in inputs]
            self._set_addresses((*copies, *outputs))
            self._enqueue(captured)  # then the copies may go: their memory is reused in the order of the stream
        if not self._found:
            return tuple(outputs)  # type: ignore[arg-type]
        return tuple([self._found[i].take() if tensor is None else tensor for i, tensor in enumerate(outputs)])

    def _forget(self) -> None:
        """Sets all anew in the next call."""
        self._shapes = None
        self._addresses = [0] * len(self._names)
        self._scratch_address = 0  # what the native context has been given; 0: nothing for these shapes
        self._static = None
        self._found: dict[int, Found] = {}

    def _set_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        self._shapes = self._static = None
        for name, shape in zip(self._names, shapes, strict=False):
            if not self.native.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT takes no input {name} of shape {tuple(shape)}{self._reasons()}")
        names = self._names[len(shapes) :]
        self._output_shapes = [tuple(self.native.get_tensor_shape(name)) for name in names]
        self._find(names)
        self._computes = any(0 not in shape for shape in self._output_shapes)
        self._scratch_address = 0
        self._shapes = shapes

    def _find(self, names: Sequence[str]) -> None:
        """Has TensorRT ask for the memory of outputs whose shapes do not follow from those of the inputs."""
        self._found = {}
        for place, (shape, name) in enumerate(zip(self._output_shapes, names, strict=True)):
            if all(extent >= 0 for extent in shape):
                continue
            found = Found(self._engine.flavour.trt(), self._dtypes[place], shape, self._device)
            if not self.native.set_output_allocator(name, found.allocator):
                raise EngineError(f"TensorRT takes no allocator for output {name} of shape {shape}{self._reasons()}")
            self._found[place] = found

    def _outputs_for(self, captured: bool) -> tuple[Tensor | None, ...]:
        """New memory, or that of the call before; None for an output whose shape is found in the run."""
        if self._static is not None and not captured:
            return self._static
        outputs = tuple(
            [
                None if place in self._found else torch.empty(shape, dtype=dtype, device=self._device)
                for place, (shape, dtype) in enumerate(zip(self._output_shapes, self._dtypes, strict=True))
            ]
        )
        if self._static_outputs and not captured:
            self._static = outputs
        return outputs

    def _set_addresses(self, tensors: Sequence[Tensor | None]) -> None:
        for place, tensor in enumerate(tensors):
            if tensor is None:
                continue
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
        if captured or not self._scratch_address or self._scratch_address != self._scratch.address:
            self._provide_scratch(captured)
        self._scratch.order.enter(stream, self._kept, captured)
        enqueued = self.native.execute_async_v3(stream)
        if not enqueued:
            shapes = self._shapes or ()
            error = next((found.error for found in self._found.values() if found.error), None)
            self._forget()
            if error:
                raise error
            raise EngineError(f"TensorRT did not run the engine on shapes {_spell(shapes)}{self._reasons()}")

    def _provide_scratch(self, captured: bool) -> None:
        size = self._scratch_size()
        if captured:  # its graph owns that memory, and may go at any time
            self._scratch_address = 0
            address = _bytes(size, self._device).data_ptr()
        else:
            address = self._scratch_address = self._scratch.provide(size)
        self.native.set_device_memory(address, size)

    def _scratch_size(self) -> int:
        """Bytes for the shapes of this call; for all shapes where TensorRT cannot tell, as before a run that finds
        extents out which depend on values, and which layers that TensorRT-RTX 1.6.1 fuses need to know."""
        take_errors(self._engine.flavour)
        size = self.native.update_device_memory_size_for_shapes()
        failed = size == 0 and take_errors(self._engine.flavour)
        return self._engine.native.device_memory_size_v2 if failed else size

    def _kept(self) -> list[Tensor]:
        """What this context keeps for later calls, which may be on other streams."""
        return [tensor for tensor in (self._scratch.memory, *(self._static or ())) if tensor is not None]

    def _reasons(self) -> str:
        return describe_errors(self._engine.flavour)


def _bytes(size: int, device: torch.device) -> Tensor:
    return torch.empty(max(size, 1), dtype=torch.uint8, device=device)


def _ready(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0 and not tensor.is_neg()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _spell(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
