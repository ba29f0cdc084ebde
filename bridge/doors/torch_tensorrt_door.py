"""Registers bridge's ops with torch_tensorrt.compile and torch.compile(backend="torch_tensorrt").

`import bridge` imports neither TensorRT nor torch_tensorrt. It installs an import hook that changes torch_tensorrt when
anyone imports it, before or after bridge (`register`); `unregister` undoes it.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from torch.fx import Graph, GraphModule

from bridge.base import import_hook
from bridge.base.log import logger
from bridge.errors import BridgeError, FlavourError
from bridge.tensorrt.install.flavour import TORCH_TENSORRT, Flavour, detect, importing

_lock = threading.RLock()
_changes: contextlib.ExitStack | None = None  # to torch_tensorrt; closing it undoes them
_passes: bool | Sequence[str] = True  # the argument of `register`


def register(passes: bool | Sequence[str] = True) -> None:
    """Lets torch_tensorrt convert bridge's ops; `import bridge` does this. It may be called again.

    If bridge does not support the installed TensorRT or torch_tensorrt, a warning is logged and torch_tensorrt stays
    unchanged.

    Args:
        passes: the graph rewrites that its own compile applies from now on: True, False or names, as in bridge.Config.
    """
    global _passes
    if passes is not True:
        from bridge.config import Config  # takes time to import, as the passes do

        Config(passes=passes)  # ValueError, TypeError: there is no such pass
    _passes = passes
    with _lock:
        import_hook.remove(_FINDER)
        import_hook.install(_FINDER)
    if TORCH_TENSORRT in sys.modules and _changes is None:
        importlib.import_module(TORCH_TENSORRT)  # waits for a thread that is about to import it
        with _around_import():
            pass


def unregister() -> None:
    """Restores torch_tensorrt, now and for later imports; `register` changes it again.

    bridge.compile and torch.compile(backend="bridge") still work. The plugins stay registered with TensorRT, so that
    engines with them still run.
    """
    global _changes
    with _lock:
        import_hook.remove(_FINDER)
        if _changes is not None:
            _changes.close()
        _changes = None


@contextlib.contextmanager
def cross_compile(target: str | None = None) -> Iterator[list[bytes]]:
    """The context in which torch_tensorrt builds engines for a GPU that this machine need not have.

    torch_tensorrt.compile, torch.compile(backend="torch_tensorrt") and the conversions to a serialized engine work up
    to the engine's bytes, which are appended to the list that the context yields. Compiled modules raise EngineError
    when they run; torch.compile runs them at once. Nothing changes if `target` is the GPU of this machine. One thread
    at a time is inside. torch_tensorrt's own engine cache is not used.

    Args:
        target: a compute capability, such as "sm86"; None means the GPU of this machine.
    Raises:
        TargetError: this TensorRT does not build for it here; standard TensorRT builds for this machine's GPU alone.
        FlavourError: there is no TensorRT or torch_tensorrt that bridge supports.
        BridgeError: bridge is not registered with torch_tensorrt.
    """
    from bridge.tensorrt.guest import cross_compilation
    from bridge.tensorrt.install.target import resolve_target

    flavour = detect()
    flavour.torch_tensorrt()
    if _changes is None:
        raise BridgeError("bridge is not registered with torch_tensorrt; call bridge.register()")
    with cross_compilation.building_for(resolve_target(flavour, target)) as engines:
        yield engines


def engines_of(compiled: Any) -> list[bytes]:
    """Every engine in a module that torch_tensorrt compiled, in the module's order."""
    modules = [compiled, *compiled.modules()] if hasattr(compiled, "modules") else [compiled]
    serialized = [getattr(module, "serialized_engine", None) for module in dict.fromkeys(modules)]
    return [bytes(engine) for engine in serialized if engine]


def layers_of(engine: Any) -> list[dict[str, Any]] | None:
    """The layers of the network that torch_tensorrt built an engine from: see CompiledModule.layers.

    engine: its bytes, or a module that torch_tensorrt compiled; the layers of several engines are concatenated.
    None: this process did not build it with bridge registered, or built 64 others since; or there is no engine.
    """
    from bridge.tensorrt.guest import engine_records

    engines = [bytes(engine)] if isinstance(engine, (bytes, bytearray, memoryview)) else engines_of(engine)
    known = [layers for layers in map(engine_records.layers_of, engines) if layers is not None]
    complete = len(known) == len(engines) > 0
    return [layer for layers in known for layer in layers] if complete else None


@contextlib.contextmanager
def _around_import() -> Iterator[None]:
    """Surrounds the import of torch_tensorrt."""
    with contextlib.ExitStack() as stack:
        flavour = _flavour_to_import(stack)
        yield
    if flavour is not None:
        _integrate(flavour)


def _flavour_to_import(stack: contextlib.ExitStack) -> Flavour | None:
    try:
        flavour = detect()
        if flavour.torch_tensorrt_version is None:
            raise FlavourError(f"{flavour.traits.torch_tensorrt} is not installed; {flavour.traits.remedy}")
        stack.enter_context(importing(flavour))
    except FlavourError as error:
        logger.warning("torch_tensorrt will not convert bridge's ops: %s", error)
        return None
    return flavour


def _integrate(flavour: Flavour) -> None:
    global _changes
    with _lock:
        if _changes is not None:
            return
        try:
            from bridge.tensorrt.guest.integration import integrate

            _changes = integrate(flavour, _rewrite, _record)
        except Exception as error:  # the import of torch_tensorrt is the user's and must go on
            version = flavour.torch_tensorrt_version
            logger.warning("torch_tensorrt %s will not convert bridge's ops: %s", version, error)
            logger.debug("integration failed", exc_info=True)


def _rewrite(graph: Graph, target: str | None) -> list[dict[str, Any]]:
    """Applies the passes; then generates plugins, unless it is not known for which GPU. Returns what passes did."""
    from bridge.config import Config
    from bridge.doors.generation import generate_marked, warn_of_refusal
    from bridge.doors.lowerings import measured_configurations
    from bridge.passes import PASSES, pass_names, rewrite_graph
    from bridge.tensorrt.install import gpu

    flavour = detect()
    names = set(pass_names(_passes, flavour.name, target)) - {each.name for each in PASSES if each.reads_bytes}
    rows = [outcome.row() for outcome in rewrite_graph(graph, names, by_default=_passes is True)]
    if target is not None:
        selection = measured_configurations.selection(Config(), flavour, target, gpu.name_of(target))
        generate_marked(graph, target, warn_of_refusal, selection)
    return rows


def _record(gm: GraphModule, result: GraphModule) -> None:
    from bridge.doors.reporting import record_torch_tensorrt

    record_torch_tensorrt(gm, result)


_FINDER = import_hook.Finder(TORCH_TENSORRT, _around_import)
