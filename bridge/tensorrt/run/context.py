"""Runs an engine on torch tensors, ordered by the current stream."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError, EngineInputError
from bridge.tensorrt.install.tensorrt_log import errors_text, take_errors
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.capturable import likely_causes
from bridge.tensorrt.run.input_check import InputCheck
from bridge.tensorrt.run.output_allocator import DynamicOutput

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine

# TensorRT-RTX compiles kernels in the first run with new shapes. Two at once, in two threads, crashed with 1.6.1.
_COMPILING = threading.Lock()
_ALIGNMENT = 256  # bytes; TensorRT's kernels may assume it of an address, and CUDA's allocators guarantee it


class Scratch:
    """Scratch memory shared by the contexts of one thread; `order` serialises their runs."""

    def __init__(self, device: torch.device) -> None:
        self.order = streams.StreamOrder(device)
        self.memory: Tensor | None = None
        self.address = 0
        self._device = device

    def provide(self, size: int) -> int:
        """The address of at least `size` bytes; it changes only if more are needed than before."""
        if self.memory is None or self.memory.numel() < size:
            self.memory = _bytes(size, self._device)
            self.address = self.memory.data_ptr()
        return self.address


class Context:
    """One execution context of an engine: made by `Engine.new_context`, for one thread at a time.

    scratch: by default its own. static_outputs: a call with the shapes of the last one overwrites and returns the same
    tensors, except for outputs whose shape depends on values.
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
        self.captured = False  # whether a caller's CUDA graph holds a run of it
        with torch.cuda.device(self._device):
            # The address of empty tensors: TensorRT rejects null.
            self._dummy_memory = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=self._device)
        self._reset()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        if torch.cuda.current_device() == self._device.index:
            return self.run(self._check.check(inputs), inputs)
        with torch.cuda.device(self._device):
            return self.run(self._check.check(inputs), inputs)

    @property
    def shapes(self) -> tuple[torch.Size, ...] | None:
        """The input shapes of the last run."""
        return self._shapes

    def check_capturable(self, stream: int) -> None:
        """EngineError: a CUDA graph cannot hold a run with the shapes of the last one."""
        self.check_shapes_known()
        capturable = getattr(self.native, "is_stream_capturable", None)  # in TensorRT-RTX alone
        if capturable is not None and not capturable(stream):
            causes = likely_causes(self._engine.file.layers)
            raise EngineError(
                f"TensorRT cannot capture this engine into a CUDA graph for inputs of shapes"
                f" {_shapes_text(self._shapes or ())}{f', probably because {causes}' if causes else ''}; run it with"
                f" cuda_graph=False{', or write the model without that' if causes else ''}{self._tensorrt_errors()}"
            )

    def check_shapes_known(self) -> None:
        """EngineError: the shape of an output depends on values, which a CUDA graph does not allow."""
        if self._dynamic_outputs:
            names = ", ".join(self._engine.file.outputs[index].name for index in self._dynamic_outputs)
            raise EngineError(
                f"a CUDA graph cannot hold this engine: the shape of its output {names} depends on values; run it with"
                " cuda_graph=False, outside of any capture"
            )

    def keep_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        """Replaces the tuple of the last run by an equal one, because `run` compares by identity."""
        if shapes == self._shapes:
            self._shapes = shapes

    def forget_outputs(self) -> None:
        """Makes the next run return new tensors, even with static_outputs."""
        self._static = None

    def run(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs for checked inputs; the current GPU must be the engine's."""
        if shapes is not self._shapes:
            self._set_shapes(shapes)
        captured = torch.cuda.is_current_stream_capturing()
        if captured:
            self.check_shapes_known()
            self.captured = True
        outputs = self._outputs_for(captured)
        if self._has_work:
            copies = [tensor if _usable_in_place(tensor) else _copy(tensor) for tensor in inputs]
            self._set_addresses((*copies, *outputs))
            self._enqueue(captured)  # then the copies may be freed: memory is reused in stream order
        if not self._dynamic_outputs:
            return tuple(outputs)  # type: ignore[arg-type]
        return tuple(
            [self._dynamic_outputs[i].take() if tensor is None else tensor for i, tensor in enumerate(outputs)]
        )

    def _reset(self) -> None:
        """Makes the next call set everything again."""
        self._shapes = None
        self._addresses = [0] * len(self._names)
        self._scratch_address = 0  # set in the native context; 0: none for these shapes
        self._static = None
        self._dynamic_outputs: dict[int, DynamicOutput] = {}

    def _set_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        self._shapes = self._static = None
        self._choose_profile(self._engine.profile_for(shapes))
        for name, shape in zip(self._names, shapes, strict=False):
            if not self.native.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT takes no input {name} of shape {tuple(shape)}{self._tensorrt_errors()}")
        names = self._names[len(shapes) :]
        self._output_shapes = [tuple(self.native.get_tensor_shape(name)) for name in names]
        self._add_allocators(names)
        self._has_work = any(0 not in shape for shape in self._output_shapes)
        self._compiles = self._engine.flavour.traits.compiles_kernels
        self._scratch_address = 0
        self._shapes = shapes

    def _choose_profile(self, profile: int) -> None:
        """TensorRT has chosen one for the first context of an engine only. Profile 0 has the shapes of all others."""
        active = self.native.active_optimization_profile
        if active == profile or (active == 0 and torch.cuda.is_current_stream_capturing()):
            return
        if not self.native.set_optimization_profile_async(profile, streams.for_engines(self._device)):
            raise EngineError(f"TensorRT does not take its profile {profile}{self._tensorrt_errors()}")
        self._addresses = [0] * len(self._names)

    def _add_allocators(self, names: Sequence[str]) -> None:
        """Gives TensorRT an allocator for each output whose shape depends on values."""
        self._dynamic_outputs = {}
        for index, (shape, name) in enumerate(zip(self._output_shapes, names, strict=True)):
            if all(extent >= 0 for extent in shape):
                continue
            output = DynamicOutput(self._engine.flavour.trt(), self._dtypes[index], shape, self._device)
            if not self.native.set_output_allocator(name, output.allocator):
                raise EngineError(
                    f"TensorRT takes no allocator for output {name} of shape {shape}{self._tensorrt_errors()}"
                )
            self._dynamic_outputs[index] = output

    def _outputs_for(self, captured: bool) -> tuple[Tensor | None, ...]:
        """New tensors, or the static ones; None for an output whose shape depends on values."""
        if self._static is not None and not captured:
            return self._static
        outputs = tuple(
            [
                None if index in self._dynamic_outputs else torch.empty(shape, dtype=dtype, device=self._device)
                for index, (shape, dtype) in enumerate(zip(self._output_shapes, self._dtypes, strict=True))
            ]
        )
        if self._static_outputs and not captured:
            self._static = outputs
        return outputs

    def _set_addresses(self, tensors: Sequence[Tensor | None]) -> None:
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            address = tensor.data_ptr() or self._empty_tensor_address(index, tensor)
            if address != self._addresses[index]:
                name = self._names[index]
                if not self.native.set_tensor_address(name, address):
                    raise EngineError(f"TensorRT takes no address {address:#x} for {name}{self._tensorrt_errors()}")
                self._addresses[index] = address

    def _empty_tensor_address(self, index: int, tensor: Tensor) -> int:
        if tensor.numel():
            raise EngineInputError(f"input {self._names[index]} is a tensor without memory, such as a FakeTensor")
        return self._dummy_memory.data_ptr()

    def _enqueue(self, captured: bool) -> None:
        stream = streams.for_engines(self._device)
        if captured or not self._scratch_address or self._scratch_address != self._scratch.address:
            self._provide_scratch(captured)
        self._scratch.order.enter(stream, self._reused_memory, captured)
        if self._compiles:
            with _COMPILING:
                enqueued = self.native.execute_async_v3(stream)
            self._compiles = False
        else:
            enqueued = self.native.execute_async_v3(stream)
        if not enqueued:
            shapes = self._shapes or ()
            error = next((output.error for output in self._dynamic_outputs.values() if output.error), None)
            self._reset()
            if error:
                raise error
            raise EngineError(
                f"TensorRT did not run the engine on shapes {_shapes_text(shapes)}{self._tensorrt_errors()}"
            )

    def _provide_scratch(self, captured: bool) -> None:
        size = self._scratch_size()
        if captured:  # the graph owns this memory, and may be destroyed at any time
            self._scratch_address = 0
            address = _bytes(size, self._device).data_ptr()
        else:
            address = self._scratch_address = self._scratch.provide(size)
        self.native.set_device_memory(address, size)

    def _scratch_size(self) -> int:
        """Bytes for the shapes of this call, or for all shapes if TensorRT cannot tell.

        It cannot if the size depends on extents that depend on values (seen with TensorRT-RTX 1.6.1).
        """
        take_errors(self._engine.flavour)
        size = self.native.update_device_memory_size_for_shapes()
        failed = size == 0 and take_errors(self._engine.flavour)
        return self._engine.native.device_memory_size_v2 if failed else size

    def _reused_memory(self) -> list[Tensor]:
        """The memory that later calls reuse, perhaps on other streams."""
        return [tensor for tensor in (self._scratch.memory, *(self._static or ())) if tensor is not None]

    def _tensorrt_errors(self) -> str:
        return errors_text(self._engine.flavour)


def _bytes(size: int, device: torch.device) -> Tensor:
    return torch.empty(max(size, 1), dtype=torch.uint8, device=device)


def _usable_in_place(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0 and not tensor.is_neg()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _shapes_text(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
