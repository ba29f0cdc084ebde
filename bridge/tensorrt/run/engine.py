"""An engine loaded on one GPU. It needs TensorRT of the engine's flavour, and no torch_tensorrt."""

import json
import threading
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import OPS
from bridge.core.signature import namespace_of
from bridge.engine_file.contents import EngineFile
from bridge.engine_file.dtypes import from_trt
from bridge.errors import EngineError, LibraryError
from bridge.generate import store
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour, detect, same_release
from bridge.tensorrt.install.tensorrt_log import errors_text, logger, take_errors
from bridge.tensorrt.plugins import fields
from bridge.tensorrt.plugins.registration import register_plugins
from bridge.tensorrt.run.context import Context, Scratch
from bridge.tensorrt.run.contexts import ContextFactory
from bridge.tensorrt.run.replay import GraphReplays
from bridge.tensorrt.run.shape_contexts import ShapeContexts


class Engine:
    """An engine on one GPU. Call it with its inputs in order; it returns a tuple of its outputs.

    Any thread may call it: each gets its own execution contexts and scratch memory. Work is ordered by the caller's
    current stream, like torch's own operators. Outputs are new tensors.

    device: the GPU, by default the current one. cuda_graph, static_outputs: as CompiledModule has them.

    Raises:
        EngineError: the engine cannot be used here; the message says what differs.
        EngineInputError: from a call, for inputs that the engine does not take.
    """

    def __init__(
        self,
        file: EngineFile,
        device: torch.device | str | int | None = None,
        *,
        cuda_graph: bool = False,
        static_outputs: bool = False,
    ) -> None:
        flavour = detect()
        check_compatible(file, flavour)
        self.file = file
        self.flavour = flavour
        self.device = _cuda_device(file, device)
        self._cuda_graph = cuda_graph
        self._static_outputs = static_outputs
        with torch.cuda.device(self.device):
            self.native = _deserialize(file, flavour)
        _check_tensors(file, flavour, self.native)
        self._tuned = _tuned_shapes(file, self.native)
        self._contexts = ContextFactory(flavour, self.native)
        self._local = threading.local()
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs. Inputs that are not contiguous are copied."""
        try:
            run = self._local.run
        except AttributeError:
            run = self._local.run = self._new_run()
        return run(*inputs)

    def new_context(
        self, *, for_capture: bool = False, static_outputs: bool = False, scratch: Scratch | None = None
    ) -> Context:
        """A new execution context, for one thread at a time; it is called like the engine.

        Contexts on different streams run concurrently. To capture a CUDA graph, make a context with `for_capture` and
        call it once with the same shapes first, so that its kernels are final.
        scratch: shared by contexts of one thread; by default the context has its own.
        """
        with self._lock, torch.cuda.device(self.device):
            return Context(self, self._contexts.make(for_capture), static_outputs, scratch)

    def profile_for(self, shapes: tuple[torch.Size, ...]) -> int:
        """The number of the profile for inputs of these shapes: of the tuned ones where it has them, else of all."""
        return int(shapes == self._tuned)

    def _new_run(self) -> ShapeContexts | GraphReplays:
        return (GraphReplays if self._cuda_graph else ShapeContexts)(self, self._static_outputs)

    def inspect(self) -> list[dict[str, Any]]:
        """The layers as TensorRT fused them, from its engine inspector; at least the "Name" of each."""
        json_format = self.flavour.trt().LayerInformationFormat.JSON
        text = self.native.create_engine_inspector().get_engine_information(json_format)
        layers = json.loads(text).get("Layers", [])
        return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]


def check_compatible(file: EngineFile, flavour: Flavour) -> None:
    """Checks that this installation can run an engine, as far as that is known before TensorRT loads it.

    Raises:
        EngineError: it is of another flavour or version, or has plugins that this bridge does not.
    """
    if file.flavour != flavour.name:
        raise EngineError(
            f"the engine was {_build_text(file)}; in use here is {flavour.name} {flavour.version}, which cannot read it"
            f": compile the model again here, or install {file.flavour} {file.tensorrt_version} in another environment"
        )
    if not same_release(file.tensorrt_version, flavour.version):
        raise EngineError(
            f"the engine was {_build_text(file)}; in use here is version {flavour.version}, and engines run with the "
            f"version that built them: compile the model again here, or install {file.flavour} {file.tensorrt_version}"
        )
    for name, version in file.plugins.items() if not file.embeds_libraries else ():
        _check_plugin(file, name, version)


def _check_plugin(file: EngineFile, name: str, version: str) -> None:
    namespace = namespace_of(name)
    try:
        store.restore(name, file.target)
        _check_restored(file, name)
        library = store.library_of(name)
    except LibraryError as error:
        raise EngineError(f"the engine needs the plugin {name}{_origin_text(file, namespace)}, but {error}") from error
    if name not in OPS or version != fields.VERSION:
        available = ", ".join(f"{op.name} {fields.VERSION}" for _, op in sorted(library.ops.items()))
        raise EngineError(
            f"the engine needs plugin {name} version {version}{_origin_text(file, namespace)}; this {namespace} has "
            f"{available}: compile the model again, or install the {namespace} that built it"
        )
    if problem := library.problems.get(OPS[name].local_name):
        raise EngineError(f"the engine needs the plugin {name}{_origin_text(file, namespace)}, but {problem}")


def _check_restored(file: EngineFile, name: str) -> None:
    """EngineError: the plugin was generated, and no library here has it."""
    if lacking := store.lacking_text(name, file.metadata.get("generated", []), file.target):
        raise EngineError(lacking)


def _origin_text(file: EngineFile, namespace: str) -> str:
    """Where the library came from that an engine was built with, as far as its file says so."""
    for row in file.metadata.get("libraries", []):
        if row["namespace"] == namespace:
            return f" of {row['origin']} ({row['file']}, SHA-256 {row['sha256'][:12]})"
    return ""


def _build_text(file: EngineFile) -> str:
    return f"built with {file.flavour} {file.tensorrt_version} for {file.target}"


def _cuda_device(file: EngineFile, device: torch.device | str | int | None) -> torch.device:
    """The GPU to run on, with its index."""
    if not torch.cuda.is_available():
        raise EngineError(f"there is no CUDA GPU here to run on; the engine was {_build_text(file)}")
    requested = torch.device("cuda" if device is None else device)
    if requested.type != "cuda":
        raise EngineError(f"an engine runs on a CUDA GPU, not on {requested}")
    index = torch.cuda.current_device() if requested.index is None else requested.index
    if index >= torch.cuda.device_count():
        raise EngineError(f"there is no {requested}: {torch.cuda.device_count()} GPUs are visible")
    return torch.device("cuda", index)


def _deserialize(file: EngineFile, flavour: Flavour) -> Any:
    """TensorRT's engine, on the current GPU."""
    trt = flavour.trt()
    runtime = trt.Runtime(logger(flavour))
    if file.embeds_libraries:
        runtime.engine_host_code_allowed = True
    else:
        found = {library.key: library for library in map(store.library_of, file.plugins)}
        register_plugins(trt, [found[key] for key in sorted(found)])
    take_errors(flavour)
    engine = runtime.deserialize_cuda_engine(file.engine)
    if engine is None:
        current = gpu.current_target()
        advice = f"; compile the model with target={current!r}" if current != file.target else ""
        raise EngineError(
            f"{flavour.name} {flavour.version} did not load the engine on {torch.cuda.get_device_name()} ({current}); "
            f"it was {_build_text(file)}{advice}{errors_text(flavour)}"
        )
    return engine


def _tuned_shapes(file: EngineFile, engine: Any) -> tuple[torch.Size, ...] | None:
    """The shapes that the engine has a profile of their own for; None if it has no such profile."""
    if engine.num_optimization_profiles < 2:
        return None
    return tuple(torch.Size(engine.get_tensor_profile_shape(spec.name, 1)[1]) for spec in file.inputs)


def _check_tensors(file: EngineFile, flavour: Flavour, engine: Any) -> None:
    """EngineError: the engine's inputs and outputs are not those that its file describes."""
    trt = flavour.trt()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: _dtype_text(engine.get_tensor_dtype(name)) for name in names}
    described = {spec.name: spec.dtype for spec in file.inputs} | {spec.name: spec.dtype for spec in file.outputs}
    if {name: _of_bytes(dtype, described.get(name)) for name, dtype in dtypes.items()} != described:
        raise EngineError(f"the engine's tensors are {dtypes}, but its file describes {described}; compile it again")
    hosts = [name for name in names if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
    if hosts:
        raise EngineError(
            f"the engine has {', '.join(hosts)} in CPU memory, as a shape that it computes with, which bridge does not "
            "support: let the model take that shape from a tensor's shape"
        )


def _of_bytes(dtype: str, described: str | None) -> str:
    """uint8 where an engine reads an input's bytes as INT8, see plugins/byte_inputs.py."""
    return "uint8" if (dtype, described) == ("int8", "uint8") else dtype


def _dtype_text(dtype: Any) -> str:
    row = from_trt(dtype)
    return row.name if row is not None else dtype.name
