"""torch_tensorrt up to engine bytes for a GPU that is not here."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from bridge.base.patches import replace, replace_everywhere
from bridge.errors import BuildError, EngineError
from bridge.tensorrt.guest import built_engines, cpu_attention
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import TORCH_TENSORRT, Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text

_thread = threading.local()


def current_target() -> str | None:
    """The GPU that this thread builds for, if it is not the one that is here."""
    return getattr(_thread, "target", None)


@contextlib.contextmanager
def building_for(target: str) -> Iterator[list[bytes]]:
    """Within it torch_tensorrt, with bridge in it, builds for `target`; gives the list of the engines made."""
    if target == gpu.current_target():
        with built_engines.listening() as engines:
            yield engines
        return
    from bridge.graph.dynamo import compile_lock

    # torch.compile takes its lock before anything here does, so this thread must not be the other way round.
    with compile_lock, gpu.without_gpu(), _nothing_loaded(), built_engines.listening() as engines:
        before, _thread.target = current_target(), target
        try:
            yield engines
        finally:
            _thread.target = before


def build(interpreter: Any, flavour: Flavour, target: str) -> Any:
    """What torch_tensorrt's interpreter does in `run`, for another GPU: no timing cache, and the engine is not loaded.

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
        said = refittable + errors_text(flavour)
        raise BuildError(f"{flavour.name} could not build the engine for {target}{said}")
    interpreter.ctx.clear_cpu_weights_reference_holder()
    values = {
        "engine": Serialized(bytes(engine)),
        "input_names": interpreter._input_names,
        "output_names": interpreter._output_names,
        "weight_name_map": getattr(interpreter, "weight_name_map", None),
    }
    # Other fields are attributes of the context, by the same names, or what they are where nothing sets them.
    fields = {name: getattr(interpreter.ctx, name, default) for name, default in _DEFAULTS.items()} | values
    return TRTInterpreterResult(**{name: fields.get(name) for name in TRTInterpreterResult._fields})


_REFITTABLE = "; without a GPU it builds no engine whose weights can change: leave immutable_weights=True"
_DEFAULTS = {"requires_output_allocator": False, "requires_native_multidevice": False}


class Serialized:
    """Of an engine that is not loaded, what torch_tensorrt uses of it."""

    def __init__(self, engine: bytes) -> None:
        self._engine = engine

    def serialize(self) -> bytes:
        """The engine as TensorRT made it."""
        return self._engine


class Elsewhere:
    """Takes the place of the engine in a module of torch_tensorrt's that cannot run here."""

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
        self.refuse()

    def refuse(self, *args: Any) -> NoReturn:
        """Raises EngineError."""
        raise EngineError(
            f"this engine was built for {self.target} within bridge.cross_compile, and is not loaded here; compile the"
            f" model on a machine with such a GPU to run it"
        )


@contextlib.contextmanager
def _nothing_loaded() -> Iterator[None]:
    """torch_tensorrt loads no engine, in modules or from its cache; without a GPU it leaves tensors where they are."""
    from torch_tensorrt.dynamo import runtime, utils
    from torch_tensorrt.dynamo.conversion import _conversion

    with contextlib.ExitStack() as stack:
        for name in ("TorchTensorRTModule", "PythonTorchTensorRTModule"):  # later versions have one
            holder = getattr(runtime, name, None)
            if holder is not None:
                replace(stack, holder, "setup_engine", _only_here(holder.setup_engine, _leave_out))
        for name in ("insert_engine_to_cache", "pull_cached_engine"):
            replace(stack, _conversion, name, _only_here(getattr(_conversion, name), lambda *args, **kwargs: None))
        if not torch.cuda.is_available():
            replace_everywhere(stack, TORCH_TENSORRT, utils.to_torch_device, lambda *_, **__: torch.device("cpu"))
            stack.enter_context(cpu_attention.converted())
        yield


def _only_here(original: Any, other: Any) -> Any:
    """A function that is another one in threads that build for another GPU."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return (original if current_target() is None else other)(*args, **kwargs)

    return call


def _leave_out(module: Any) -> None:
    """In the place of setup_engine."""
    module.engine = Elsewhere(str(current_target()))
    module.forward = module.engine.refuse
