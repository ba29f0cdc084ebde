"""Runs torch_tensorrt up to engine bytes for a GPU that this machine does not have."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from bridge.base.patches import replace, replace_everywhere
from bridge.errors import BuildError, EngineError
from bridge.tensorrt.guest import cpu_attention, engine_records
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import TORCH_TENSORRT, Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text

_thread = threading.local()


def current_target() -> str | None:
    """The GPU that this thread builds for; None for the GPU of this machine."""
    return getattr(_thread, "target", None)


@contextlib.contextmanager
def building_for(target: str) -> Iterator[list[bytes]]:
    """The context in which torch_tensorrt, with bridge's ops, builds for `target`; yields the list of engines."""
    if target == gpu.current_target():
        with engine_records.collecting_engines() as engines:
            yield engines
        return
    from bridge.graph.dynamo import compile_lock

    # torch.compile takes its lock before the others. Another order here could deadlock.
    with compile_lock, gpu.without_gpu(), _without_loading(), engine_records.collecting_engines() as engines:
        before, _thread.target = current_target(), target
        try:
            yield engines
        finally:
            _thread.target = before


def build(interpreter: Any, flavour: Flavour, target: str) -> Any:
    """Replaces `run` of torch_tensorrt's interpreter for another GPU: no timing cache, and the engine is not loaded.

    BuildError: TensorRT refused the network.
    """
    from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreterResult

    interpreter._construct_trt_network_def()
    if not interpreter.compilation_settings.immutable_weights and hasattr(interpreter, "_save_weight_mapping"):
        interpreter._save_weight_mapping()
    config = interpreter._populate_trt_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(flavour.trt().ComputeCapability.__members__[target.upper()], 0)
    engine = interpreter.builder.build_serialized_network(interpreter.ctx.net, config)
    if engine is None:
        refittable = "" if interpreter.compilation_settings.immutable_weights else _REFITTABLE
        details = refittable + errors_text(flavour)
        raise BuildError(f"{flavour.name} could not build the engine for {target}{details}")
    interpreter.ctx.clear_cpu_weights_reference_holder()
    values = {
        "engine": SerializedEngine(bytes(engine)),
        "input_names": interpreter._input_names,
        "output_names": interpreter._output_names,
        "weight_name_map": getattr(interpreter, "weight_name_map", None),
    }
    # Other fields are attributes of the context, by the same names; nothing sets some of them.
    fields = {name: getattr(interpreter.ctx, name, default) for name, default in _DEFAULTS.items()} | values
    return TRTInterpreterResult(**{name: fields.get(name) for name in TRTInterpreterResult._fields})


_REFITTABLE = "; without a GPU it builds no refittable engine: leave immutable_weights=True"
_DEFAULTS = {"requires_output_allocator": False, "requires_native_multidevice": False}


class SerializedEngine:
    """Replaces a loaded engine in torch_tensorrt, which only serializes it."""

    def __init__(self, engine: bytes) -> None:
        self._engine = engine

    def serialize(self) -> bytes:
        """The engine as TensorRT made it."""
        return self._engine


class EngineOfAnotherGpu:
    """Replaces the engine in a module of torch_tensorrt that cannot run here."""

    def __init__(self, target: str) -> None:
        self.target = target

    def set_output_tensors_as_unowned(self, enabled: bool) -> None:
        """No-op: this engine never runs."""

    def are_output_tensors_unowned(self) -> bool:
        """False: this engine never runs."""
        return False

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.raise_not_loaded()

    def raise_not_loaded(self, *args: Any) -> NoReturn:
        """Raises EngineError."""
        raise EngineError(
            f"this engine was built for {self.target} within bridge.cross_compile, and is not loaded here; compile the"
            f" model on a machine with such a GPU to run it"
        )


@contextlib.contextmanager
def _without_loading() -> Iterator[None]:
    """The context in which torch_tensorrt loads no engine. Without a GPU, tensors stay on the CPU."""
    from torch_tensorrt.dynamo import runtime, utils
    from torch_tensorrt.dynamo.conversion import _conversion

    with contextlib.ExitStack() as stack:
        for name in ("TorchTensorRTModule", "PythonTorchTensorRTModule"):  # later versions have one of them
            module_class = getattr(runtime, name, None)
            if module_class is not None:
                setup = _unless_cross_compiling(module_class.setup_engine, _set_placeholder_engine)
                replace(stack, module_class, "setup_engine", setup)
        for name in ("insert_engine_to_cache", "pull_cached_engine"):
            access = _unless_cross_compiling(getattr(_conversion, name), lambda *args, **kwargs: None)
            replace(stack, _conversion, name, access)
        if not torch.cuda.is_available():
            replace_everywhere(stack, TORCH_TENSORRT, utils.to_torch_device, lambda *_, **__: torch.device("cpu"))
            stack.enter_context(cpu_attention.converting())
        yield


def _unless_cross_compiling(original: Any, replacement: Any) -> Any:
    """The original in threads that build for this machine's GPU, else the replacement."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return (original if current_target() is None else replacement)(*args, **kwargs)

    return call


def _set_placeholder_engine(module: Any) -> None:
    """Replaces setup_engine."""
    module.engine = EngineOfAnotherGpu(str(current_target()))
    module.forward = module.engine.raise_not_loaded
