"""Makes torch_tensorrt's own compile convert bridge's ops, and changes little else of it.

A subclass of its interpreter prepares the plugin layers while the network is still empty (see plugin_layers.py).
Functions around it are wrapped. The wrappers register ops defined late, and add operator arguments to the cache key.
They report bridge's ops that are not converted (see unconverted_ops.py), and record the layers of networks (see
engine_records.py). Calls for which its converters are wrong are kept from them (see wrong_converters.py). The C++
runtime is not used if it would crash the process.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from torch.fx import Graph, GraphModule, Interpreter, Node

from bridge.base.log import logger
from bridge.base.patches import replace, replace_everywhere
from bridge.core import foreign
from bridge.core.library import LIBRARIES, LISTENERS, Library
from bridge.core.signature import NAMESPACE
from bridge.errors import BridgeError, BuildError, LibraryError
from bridge.graph.model_source import model_line
from bridge.graph.scalar_inputs import remove_number_inputs
from bridge.tensorrt.guest import cross_compilation, engine_records, unconverted_ops, wrong_converters
from bridge.tensorrt.guest.graph_hash import hash_arguments
from bridge.tensorrt.install import gpu, version_shims
from bridge.tensorrt.install.flavour import TORCH_TENSORRT, Flavour, registered
from bridge.tensorrt.install.tensorrt_log import errors_text
from bridge.tensorrt.network import inventory, op_converter
from bridge.tensorrt.network.broadcasts import broadcast_empty_operands
from bridge.tensorrt.network.interpreter import as_declared, with_extents
from bridge.tensorrt.network.op_converter import Conversion
from bridge.tensorrt.plugins.op_calls import find_calls
from bridge.tensorrt.plugins.plugin_layers import plugins_for
from bridge.tensorrt.plugins.registration import register_plugins, register_working_plugins
from bridge.tensorrt.plugins.requirements import check_targets, libraries_of

Rows = list[dict[str, Any]]
Rewrite = Callable[[Graph, str | None], Rows]  # of a graph, for a GPU: None where it is not known


def integrate(
    flavour: Flavour, rewrite: Rewrite, record: Callable[[GraphModule, GraphModule], None]
) -> contextlib.ExitStack:
    """Patches torch_tensorrt, which is imported; closing the returned stack undoes every patch.

    rewrite: applied to every graph that torch_tensorrt lowers for a GPU, in place; returns rows for bridge.report.
    record: called with every graph of torch.compile and the backend's result.
    LibraryError: there is no plugin library, or another one is loaded. AttributeError, ImportError: this version of
    torch_tensorrt lacks what bridge patches.
    """
    from torch_tensorrt.dynamo import _compiler
    from torch_tensorrt.dynamo._engine_cache import BaseEngineCache
    from torch_tensorrt.dynamo.backend import backends
    from torch_tensorrt.dynamo.conversion import _conversion, _TRTInterpreter
    from torch_tensorrt.dynamo.conversion.converter_utils import broadcast_to_same_shape
    from torch_tensorrt.dynamo.lowering.passes._aten_lowering_pass import ATEN_POST_LOWERING_PASSES

    with contextlib.ExitStack() as stack:
        _register_for_loading(stack, flavour)
        stack.enter_context(registered(flavour))
        op_converter.hold()
        stack.callback(op_converter.release)
        base = _TRTInterpreter.TRTInterpreter
        replacements = {
            base: _interpreter_class(base, flavour),
            _conversion.interpret_module_to_result: _interpret(_conversion.interpret_module_to_result),
            _compiler.compile_module: unconverted_ops.report_unconverted(_compiler.compile_module),
            broadcast_to_same_shape: broadcast_empty_operands(broadcast_to_same_shape),
            backends._pretraced_backend: unconverted_ops.report_failure(_backend(backends._pretraced_backend, record)),
        }
        for original, replacement in replacements.items():
            # The defining module keeps the original class: bridge's own interpreter derives from it.
            kept_in = base.__module__ if original is base else ""
            replace_everywhere(stack, TORCH_TENSORRT, original, replacement, kept_in)
        _add_pass(stack, ATEN_POST_LOWERING_PASSES.passes, _lowering_pass(rewrite))
        get_hash = _hash(BaseEngineCache.get_hash)
        replace(stack, BaseEngineCache, "get_hash", staticmethod(get_hash))
        wrong_converters.mend(stack)
        _avoid_cpp_runtime(stack, flavour)
        return stack.pop_all()


def _register_for_loading(stack: contextlib.ExitStack, flavour: Flavour) -> None:
    """Registers the plugins of all libraries, those defined later too, for engines that are loaded and not built."""
    register_working_plugins(flavour.trt(), [LIBRARIES[NAMESPACE]])

    def register(library: Library) -> None:
        try:
            register_working_plugins(flavour.trt(), [library])
        except LibraryError as error:  # must stop neither the other libraries nor the import of a package
            logger.warning("%s: its plugins are not registered: %s", library.namespace, error)

    for library in LIBRARIES.values():
        register(library)
    LISTENERS.append(register)
    stack.callback(LISTENERS.remove, register)


def _lowering_pass(rewrite: Rewrite) -> Callable[..., Any]:
    """Bridge's passes as one pass of torch_tensorrt; a no-op in bridge's own conversion, which has applied them."""

    def apply_bridge_passes(module: GraphModule, settings: Any = None) -> GraphModule:
        if version_shims.in_own_conversion():
            return module
        try:
            target = cross_compilation.current_target() or gpu.current_target()
            engine_records.record_passes(module, rewrite(module.graph, target))
            op_converter.refresh()
        except Exception as error:  # the compile is not bridge's, and must go on
            logger.warning("bridge's passes failed and left a graph of torch_tensorrt unchanged: %s", error)
            logger.debug("passes failed", exc_info=True)
            module.graph.lint()
        module.recompile()
        return module

    return apply_bridge_passes


def _add_pass(stack: contextlib.ExitStack, passes: list[Any], added: Callable[..., Any]) -> None:
    """Puts a pass first, before constant folding and the decomposition of complex numbers."""

    def remove() -> None:
        passes[:] = [each for each in passes if each is not added]

    passes.insert(0, added)
    stack.callback(remove)


def _avoid_cpp_runtime(stack: contextlib.ExitStack, flavour: Flavour) -> None:
    """Makes torch_tensorrt use its Python runtime if its C++ runtime was compiled for another TensorRT-RTX."""
    compiled_for = version_shims.other_rtx(flavour.version)
    if compiled_for is None:
        return
    from torch_tensorrt.dynamo import runtime
    from torch_tensorrt.dynamo.conversion import _conversion

    mismatch = f"torch_tensorrt's C++ runtime was compiled for TensorRT-RTX {compiled_for}, not {flavour.version}"
    features = _conversion.ENABLED_FEATURES
    if hasattr(runtime, "PythonTorchTensorRTModule"):  # before 2.13: chosen there, for each engine
        replace(stack, _conversion, "ENABLED_FEATURES", features._replace(torch_tensorrt_runtime=False))
    elif features.torch_tensorrt_runtime:  # it is loaded: too late for version_shims.hide_cpp_runtime
        logger.warning("%s, and may end the process when an engine runs: import bridge before torch_tensorrt", mismatch)
        return
    logger.info("%s: its engines run by its Python runtime", mismatch)


def _interpret(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the conversion of one graph to an engine, whether built or cached."""

    @functools.wraps(original)
    def interpret(module: Any, *args: Any, **kwargs: Any) -> Any:
        op_converter.refresh()
        engine_records.set_layers(None)
        with unconverted_ops.reporting_failure(module):
            result = original(module, *args, **kwargs)
        engine_records.record_engine(bytes(result.serialized_engine))
        return result

    return interpret


def _backend(original: Callable[..., Any], record: Callable[[GraphModule, GraphModule], None]) -> Callable[..., Any]:
    """Wraps torch_tensorrt's backend for torch.compile: removes number inputs, and records the result.

    The backend of 2.11 fails for extents of tensors in a list or dictionary, as in transformers' models. It removes the
    wrong arguments if two tensors have dynamic extents, and cannot trace integers and floats.
    """

    @functools.wraps(original)
    def backend(gm: Any, sample_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        remove_number_inputs(gm, sample_inputs)
        result = original(gm, sample_inputs, *args, **kwargs)
        try:
            record(gm, result)
        except Exception:  # the compile is not bridge's, and must go on
            logger.debug("a result of torch_tensorrt's backend is not recorded", exc_info=True)
        return result

    return backend


def _hash(original: Callable[..., str]) -> Callable[..., str]:
    """Wraps the key of the engine cache, which ignores the arguments of operators."""

    @functools.wraps(original)
    def get_hash(gm: Any, *args: Any, **kwargs: Any) -> str:
        return original(gm, *args, **kwargs) + hash_arguments(gm.graph)

    return get_hash


def _interpreter_class(base: Any, flavour: Flavour) -> type:
    """The subclass that replaces torch_tensorrt's interpreter."""
    return type("BridgeInterpreter", (_BridgeInterpreter, base), {"flavour": flavour})


class _BridgeInterpreter(Interpreter):
    """torch_tensorrt's interpreter, for graphs that may hold bridge's ops."""

    flavour: Flavour
    ctx: Any

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        op_converter.refresh()
        super().__init__(module, *args, **kwargs)
        # Further subclasses, such as bridge's own interpreter, fill a network of their own.
        is_guest = type(self).__bases__[0] is _BridgeInterpreter
        calls = {call.name: call for call in find_calls(module)} if is_guest else {}
        self._bridge: Conversion | None = None
        self._bridge_inputs: set[Node] = set()
        if calls:
            ops = [call.op for call in calls.values()]
            check_targets(ops, cross_compilation.current_target() or gpu.current_target())
            register_plugins(self.flavour.trt(), libraries_of(ops))
            plugins = plugins_for(self.flavour, self.ctx.net, list(calls.values()))
            self._bridge = self.ctx.bridge = Conversion(plugins, calls)
            users = [node for node in module.graph.nodes if node.name in calls]
            self._bridge_inputs = {node for user in users for node in user.all_input_nodes}

    def run_node(self, n: Node) -> Any:
        if self._bridge is None:
            return super().run_node(n)
        try:
            value = super().run_node(n)
            if n.op != "call_function" and n not in self._bridge_inputs:
                return value
            # Attention needs known extents of values beside the queries and keys of a plugin.
            declare = as_declared if n in self._bridge_inputs else with_extents
            return declare(self.ctx.net, value, n.meta.get("val"))
        except BridgeError:
            raise
        except Exception as error:
            if n.target not in foreign.targets():
                raise
            details = errors_text(self.flavour)
            raise BuildError(f"{n.target} cannot be converted: {error}\n  {model_line(n)}{details}") from error

    def _construct_trt_network_def(self) -> None:
        super()._construct_trt_network_def()  # type: ignore[misc]
        unused = self._bridge.plugins.unused() if self._bridge is not None else []
        if unused:
            raise BuildError(f"these nodes were not converted to the plugin layers prepared for them: {unused}")
        engine_records.set_layers(_layers_or_none(self.ctx.net, self._bridge))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        target = cross_compilation.current_target()
        if target is None:
            return super().run(*args, **kwargs)
        return cross_compilation.build(self, self.flavour, target)


def _layers_or_none(network: Any, conversion: Conversion | None) -> list[dict[str, Any]] | None:
    try:
        return inventory.layers(network, {} if conversion is None else conversion.layers)
    except Exception:  # the compile is not bridge's, and must go on
        logger.debug("a network of torch_tensorrt's has no inventory", exc_info=True)
        return None
