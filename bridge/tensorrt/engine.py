"""Runs an engine on torch tensors. It needs a TensorRT of the engine's flavour and a GPU, and no torch_tensorrt."""

import json
import threading
from typing import Any

import torch
from torch import Tensor

from bridge import native
from bridge.errors import EngineError
from bridge.op import OPS
from bridge.tensorrt import fields, gpu
from bridge.tensorrt.dtypes import from_trt
from bridge.tensorrt.engine_file import EngineFile
from bridge.tensorrt.flavour import Flavour, detect, release
from bridge.tensorrt.input_check import InputCheck
from bridge.tensorrt.library import load_library
from bridge.tensorrt.messages import describe_errors, logger, take_errors

_ALIGNMENT = 256  # bytes; what TensorRT's kernels may assume of an address, and CUDA's allocators give


class Engine:
    """An engine on one GPU; call it with its inputs in order, for a tuple of its outputs.

    Any thread may call it: each gets an execution context of its own, with the scratch memory that belongs to it.
    Work is ordered by the caller's current stream, as torch's own operators are. Outputs are new tensors.

    Raises:
        EngineError: the engine cannot be used here; the message says what differs.
        EngineInputError: from a call, for inputs that the engine does not take.
    """

    def __init__(self, file: EngineFile, device: torch.device | str | int | None = None) -> None:
        flavour = detect()
        check_usable(file, flavour)
        self.file = file
        self.flavour = flavour
        self.device = _cuda_device(file, device)
        self.inputs = InputCheck(file.inputs, self.device)
        with torch.cuda.device(self.device):
            # What addresses of empty tensors point to: TensorRT takes no null there.
            self.nowhere = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=self.device)
            self.native = _deserialize(file, flavour)
        _check_tensors(file, flavour, self.native)
        self._contexts = threading.local()
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs. Inputs may be strided in any way; those that are not contiguous are copied."""
        context = getattr(self._contexts, "value", None)
        if context is None:
            context = self._contexts.value = self.new_context()
        return context(*inputs)

    def new_context(self) -> "Context":
        """A further execution context, for one thread at a time; it is called like the engine.

        Two contexts run at once where they are called on two streams. Capture a CUDA graph with a context of its own,
        called once before with the same shapes: replays use its scratch memory.
        """
        with self._lock, torch.cuda.device(self.device):
            context = self.native.create_execution_context()
            if context is None:
                raise EngineError(f"TensorRT made no execution context{describe_errors(self.flavour)}")
            return Context(self, context)

    def inspect(self) -> list[dict[str, Any]]:
        """The layers as TensorRT fused them, from its engine inspector; at least the "Name" of each."""
        form = self.flavour.trt().LayerInformationFormat.JSON
        text = self.native.create_engine_inspector().get_engine_information(form)
        layers = json.loads(text).get("Layers", [])
        return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]


class Context:
    """One execution context of an engine: made by `Engine.new_context`, for one thread at a time."""

    def __init__(self, engine: Engine, native: Any) -> None:
        self._engine = engine
        self._native = native
        self._inputs = [spec.name for spec in engine.file.inputs]
        self._outputs = [(spec.name, getattr(torch, spec.dtype)) for spec in engine.file.outputs]
        self._shapes: tuple[torch.Size, ...] | None = None
        self._output_shapes: list[tuple[int, ...]] = []
        self._own_stream = torch.cuda.Stream(engine.device)
        self._last_stream = self._own_stream
        if native.active_optimization_profile != 0:  # TensorRT selects it for the first context alone
            native.set_optimization_profile_async(0, self._own_stream.cuda_stream)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        shapes = self._engine.inputs.check(inputs)
        with torch.cuda.device(self._engine.device):
            if shapes != self._shapes:
                self._set_shapes(shapes)
            outputs = tuple(
                torch.empty(shape, dtype=dtype, device=self._engine.device)
                for shape, (_, dtype) in zip(self._output_shapes, self._outputs, strict=True)
            )
            if any(output.numel() for output in outputs):
                self._run([_aligned(tensor) for tensor in inputs], outputs)
        return outputs

    def _set_shapes(self, shapes: tuple[torch.Size, ...]) -> None:
        self._shapes = None
        for name, shape in zip(self._inputs, shapes, strict=True):
            if not self._native.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT takes no input {name} of shape {tuple(shape)}{self._reasons()}")
        self._output_shapes = [tuple(self._native.get_tensor_shape(name)) for name, _ in self._outputs]
        for inferred, (name, _) in zip(self._output_shapes, self._outputs, strict=True):
            if any(extent < 0 for extent in inferred):
                raise EngineError(
                    f"the shape of output {name} does not follow from the shapes {_spell(shapes)} of the inputs: "
                    f"TensorRT says {inferred}{self._reasons()}"
                )
        self._shapes = shapes

    def _run(self, inputs: list[Tensor], outputs: tuple[Tensor, ...]) -> None:
        """Enqueues the engine. `inputs` may be freed on return: their memory is reused in the order of the stream."""
        for name, tensor in zip(self._inputs, inputs, strict=True):
            self._native.set_tensor_address(name, tensor.data_ptr() or self._engine.nowhere.data_ptr())
        for (name, _), tensor in zip(self._outputs, outputs, strict=True):
            self._native.set_tensor_address(name, tensor.data_ptr() or self._engine.nowhere.data_ptr())
        current = torch.cuda.current_stream(self._engine.device)
        # On the legacy default stream TensorRT would synchronise the device; ours runs between two events of it.
        stream = current if current.cuda_stream else self._own_stream
        if stream is not current:
            stream.wait_stream(current)
        self._follow(stream)
        enqueued = self._native.execute_async_v3(stream.cuda_stream)
        if stream is not current:
            current.wait_stream(stream)
        if not enqueued:
            shapes, self._shapes = self._shapes, None
            raise EngineError(f"TensorRT did not run the engine on shapes {_spell(shapes or ())}{self._reasons()}")

    def _follow(self, stream: torch.cuda.Stream) -> None:
        """Runs of this context share its scratch memory, so one on another stream waits for the one before.

        A capture cannot wait for what it does not hold; torch.cuda.graph waits for the device before it begins.
        """
        if stream != self._last_stream and not torch.cuda.is_current_stream_capturing():
            stream.wait_stream(self._last_stream)
        self._last_stream = stream

    def _reasons(self) -> str:
        return describe_errors(self._engine.flavour)


def check_usable(file: EngineFile, flavour: Flavour) -> None:
    """Whether this installation can run an engine, as far as that is known before TensorRT reads it.

    Raises:
        EngineError: it is of another flavour or version, or has plugins that this bridge does not.
    """
    if file.flavour != flavour.name:
        raise EngineError(
            f"the engine was {_built(file)}; in use here is {flavour.name} {flavour.version}, which cannot read it: "
            f"compile the model again here, or install {file.flavour} {file.tensorrt_version} in another environment"
        )
    if release(file.tensorrt_version)[:2] != release(flavour.version)[:2]:
        raise EngineError(
            f"the engine was {_built(file)}; in use here is version {flavour.version}, and engines run with the "
            f"version that built them: compile the model again here, or install {file.flavour} {file.tensorrt_version}"
        )
    for name, version in file.plugins.items():
        if name not in OPS or version != fields.VERSION:
            ours = ", ".join(f"{op} {fields.VERSION}" for op in sorted(OPS))
            raise EngineError(
                f"the engine needs plugin {name} version {version}; this bridge has {ours}: "
                "compile the model again, or install the bridge that built it"
            )


def _built(file: EngineFile) -> str:
    return f"built with {file.flavour} {file.tensorrt_version} for {file.target}"


def _cuda_device(file: EngineFile, device: torch.device | str | int | None) -> torch.device:
    """The GPU to run on, with its index."""
    if not torch.cuda.is_available():
        raise EngineError(f"there is no CUDA GPU here to run on; the engine was {_built(file)}")
    wanted = torch.device("cuda" if device is None else device)
    if wanted.type != "cuda":
        raise EngineError(f"an engine runs on a CUDA GPU, not on {wanted}")
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    if index >= torch.cuda.device_count():
        raise EngineError(f"there is no {wanted}: {torch.cuda.device_count()} GPUs are visible")
    return torch.device("cuda", index)


def _deserialize(file: EngineFile, flavour: Flavour) -> Any:
    """TensorRT's engine, on the current GPU."""
    trt = flavour.trt()
    if file.plugins:
        load_library(trt, native.plugin_library())
    take_errors(flavour)
    engine = trt.Runtime(logger(flavour)).deserialize_cuda_engine(file.engine)
    if engine is None:
        here = gpu.current_target()
        advice = f"; compile the model with target={here!r}" if here != file.target else ""
        raise EngineError(
            f"{flavour.name} {flavour.version} did not load the engine on {torch.cuda.get_device_name()} ({here}); "
            f"it was {_built(file)}{advice}{describe_errors(flavour)}"
        )
    return engine


def _check_tensors(file: EngineFile, flavour: Flavour, engine: Any) -> None:
    """Compares what the file says of the engine's inputs and outputs with the engine."""
    trt = flavour.trt()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: _dtype_name(engine.get_tensor_dtype(name)) for name in names}
    described = {spec.name: spec.dtype for spec in file.inputs} | {spec.name: spec.dtype for spec in file.outputs}
    if found != described:
        raise EngineError(f"the engine's tensors are {found}, but its file describes {described}; compile it again")
    hosts = [name for name in names if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
    if hosts:
        raise EngineError(
            f"the engine has {', '.join(hosts)} in CPU memory, as a shape that it computes with, which bridge does not "
            "support: let the model take that shape from a tensor's shape"
        )


def _dtype_name(dtype: Any) -> str:
    row = from_trt(dtype)
    return row.name if row is not None else dtype.name


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it is strided or begins at an address that TensorRT does not take."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor


def _spell(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
