"""torch_tensorrt with bridge's ops in it: its own compile converts them, and nothing else of it changes.

A subclass of its interpreter prepares the plugin layers while the network is still empty (see plugin_layers.py).
Around it four functions are wrapped: so that ops defined late are known, failures are told (see unconverted_ops.py),
engines of the cache are told apart by the arguments of their operators, and what a network held can be asked for (see
built_engines.py). Its C++ runtime is passed over where it would end the process.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from torch.fx import Graph, GraphModule, Node

from bridge.base.log import logger
from bridge.base.patches import replace, replace_everywhere
from bridge.core import foreign, libraries
from bridge.errors import BridgeError, BuildError
from bridge.graph.model_source import model_line
from bridge.graph.scalar_inputs import take_numbers
from bridge.tensorrt.guest import built_engines, cross_compilation, unconverted_ops
from bridge.tensorrt.guest.graph_hash import hash_arguments
from bridge.tensorrt.install import version_shims
from bridge.tensorrt.install.flavour import TORCH_TENSORRT, Flavour, registered
from bridge.tensorrt.install.tensorrt_log import describe_errors
from bridge.tensorrt.network import inventory, op_converter
from bridge.tensorrt.network.broadcasts import of_empty_operands
from bridge.tensorrt.network.interpreter import as_declared, with_extents
from bridge.tensorrt.network.op_converter import Conversion
from bridge.tensorrt.plugins.op_calls import find_calls
from bridge.tensorrt.plugins.plugin_layers import plugins_for
from bridge.tensorrt.plugins.registration import load_library

Rows = list[dict[str, Any]]


def integrate(
    flavour: Flavour, rewrite: Callable[[Graph], Rows], record: Callable[[GraphModule, GraphModule], None]
) -> contextlib.ExitStack:
    """Changes torch_tensorrt, which is imported; closing what it returns puts back all that was there.

    rewrite: applied to every graph that torch_tensorrt lowers, in place; returns what it did, for bridge.report.
    record: told every graph of torch.compile and what its backend made of it.
    LibraryError: there is no plugin library, or another one is loaded. AttributeError, ImportError: this version of
    torch_tensorrt is not like those that bridge knows.
    """
    from torch_tensorrt.dynamo import _compiler
    from torch_tensorrt.dynamo._engine_cache import BaseEngineCache
    from torch_tensorrt.dynamo.backend import backends
    from torch_tensorrt.dynamo.conversion import _conversion, _TRTInterpreter
    from torch_tensorrt.dynamo.conversion.converter_utils import broadcast_to_same_shape
    from torch_tensorrt.dynamo.lowering.passes._aten_lowering_pass import ATEN_POST_LOWERING_PASSES

    load_library(flavour.trt(), libraries.plugin_library())  # engines that are loaded, not built, hold plugins too
    with contextlib.ExitStack() as stack:
        stack.enter_context(registered(flavour))
        op_converter.hold()
        stack.callback(op_converter.release)
        base = _TRTInterpreter.TRTInterpreter
        theirs = {
            base: _interpreter_class(base, flavour),
            _conversion.interpret_module_to_result: _interpret(_conversion.interpret_module_to_result),
            _compiler.compile_module: unconverted_ops.watch_partition(_compiler.compile_module),
            broadcast_to_same_shape: of_empty_operands(broadcast_to_same_shape),
            backends._pretraced_backend: unconverted_ops.watch_backend(_backend(backends._pretraced_backend, record)),
        }
        for original, ours in theirs.items():
            # The class keeps its name where it is defined: bridge's own interpreter derives from it there.
            but = base.__module__ if original is base else ""
            replace_everywhere(stack, TORCH_TENSORRT, original, ours, but)
        _add_pass(stack, ATEN_POST_LOWERING_PASSES.passes, _lowering_pass(rewrite))
        get_hash = _hash(BaseEngineCache.get_hash)
        replace(stack, BaseEngineCache, "get_hash", staticmethod(get_hash))
        _pass_over_cpp_runtime(stack, flavour)
        return stack.pop_all()


def _lowering_pass(rewrite: Callable[[Graph], Rows]) -> Callable[..., Any]:
    """Bridge's passes as one of torch_tensorrt's; bridge's own conversion has applied them before."""

    def apply_bridge_passes(module: GraphModule, settings: Any = None) -> GraphModule:
        if version_shims.in_own_conversion():
            return module
        try:
            built_engines.note_passes(module, rewrite(module.graph))
        except Exception as error:  # a graph that is not understood must not end a compile that is not bridge's
            logger.warning("bridge's passes left a graph of torch_tensorrt's as it is: %s", error)
            logger.debug("passes failed", exc_info=True)
            module.graph.lint()
        module.recompile()
        return module

    return apply_bridge_passes


def _add_pass(stack: contextlib.ExitStack, passes: list[Any], ours: Callable[..., Any]) -> None:
    """Puts a pass first, before those that fold constants or take complex numbers apart."""

    def remove() -> None:
        passes[:] = [each for each in passes if each is not ours]

    passes.insert(0, ours)
    stack.callback(remove)


def _pass_over_cpp_runtime(stack: contextlib.ExitStack, flavour: Flavour) -> None:
    """Takes torch_tensorrt's Python runtime where its C++ one was compiled for another TensorRT-RTX."""
    made_for = version_shims.other_rtx(flavour.version)
    if made_for is None:
        return
    from torch_tensorrt.dynamo import runtime
    from torch_tensorrt.dynamo.conversion import _conversion

    mismatch = f"torch_tensorrt's C++ runtime was made for TensorRT-RTX {made_for}, not {flavour.version}"
    features = _conversion.ENABLED_FEATURES
    if hasattr(runtime, "PythonTorchTensorRTModule"):  # before 2.13: chosen there, for each engine
        replace(stack, _conversion, "ENABLED_FEATURES", features._replace(torch_tensorrt_runtime=False))
    elif features.torch_tensorrt_runtime:  # it is loaded: shims.hide_cpp_runtime came too late
        logger.warning("%s, and may end the process when an engine runs: import bridge before torch_tensorrt", mismatch)
        return
    logger.info("%s: its engines run by its Python runtime", mismatch)


def _interpret(original: Callable[..., Any]) -> Callable[..., Any]:
    """Conversion of one graph to an engine, built or from the cache."""

    @functools.wraps(original)
    def interpret(module: Any, *args: Any, **kwargs: Any) -> Any:
        op_converter.refresh()
        built_engines.note(None)
        with unconverted_ops.told(module):
            result = original(module, *args, **kwargs)
        built_engines.keep(bytes(result.serialized_engine))
        return result

    return interpret


def _backend(original: Callable[..., Any], record: Callable[[GraphModule, GraphModule], None]) -> Callable[..., Any]:
    """The body of torch_tensorrt's backend for torch.compile, which calls it with graphs that take numbers.

    That of 2.11 fails for an extent of a tensor in a list or dictionary, as transformers' models have them, takes other
    arguments away where two tensors have dynamic extents, and cannot trace integers and floats.
    """

    @functools.wraps(original)
    def backend(gm: Any, sample_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        take_numbers(gm, sample_inputs)
        result = original(gm, sample_inputs, *args, **kwargs)
        try:
            record(gm, result)
        except Exception:  # a result that is not understood must not end a compile that is not bridge's
            logger.debug("what torch_tensorrt made of a graph is not recorded", exc_info=True)
        return result

    return backend


def _hash(original: Callable[..., str]) -> Callable[..., str]:
    """The key of the engine cache, which by itself leaves out the arguments of the operators."""

    @functools.wraps(original)
    def get_hash(gm: Any, *args: Any, **kwargs: Any) -> str:
        return original(gm, *args, **kwargs) + hash_arguments(gm.graph)

    return get_hash


def _interpreter_class(base: Any, flavour: Flavour) -> type:
    class BridgeInterpreter(base):
        """torch_tensorrt's interpreter, for graphs that may hold bridge's ops."""

        def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
            op_converter.refresh()
            super().__init__(module, *args, **kwargs)
            # A subclass, such as bridge's own interpreter, fills a network of its own.
            calls = {call.name: call for call in find_calls(module)} if type(self) is BridgeInterpreter else {}
            self._bridge: Conversion | None = None
            self._bridge_inputs: set[Node] = set()
            if calls:
                load_library(flavour.trt(), libraries.plugin_library())
                network = self.ctx.net
                self._bridge = self.ctx.bridge = Conversion(plugins_for(flavour, network, list(calls.values())), calls)
                users = [node for node in module.graph.nodes if node.name in calls]
                self._bridge_inputs = {node for user in users for node in user.all_input_nodes}

        def run_node(self, n: Node) -> Any:
            if self._bridge is None:
                return super().run_node(n)
            try:
                value = super().run_node(n)
                if n.op != "call_function" and n not in self._bridge_inputs:
                    return value
                # Attention takes no values of unknown extents beside the queries and keys that a plugin gives.
                declare = as_declared if n in self._bridge_inputs else with_extents
                return declare(self.ctx.net, value, n.meta.get("val"))
            except BridgeError:
                raise
            except Exception as error:
                if n.target not in foreign.targets():
                    raise
                said = describe_errors(flavour)
                raise BuildError(f"{n.target} cannot be converted: {error}\n  {model_line(n)}{said}") from error

        def _construct_trt_network_def(self) -> None:
            super()._construct_trt_network_def()
            unused = self._bridge.plugins.unused() if self._bridge is not None else []
            if unused:
                raise BuildError(f"these nodes were not converted to the plugin layers made for them: {unused}")
            built_engines.note(_inventory(self.ctx.net, self._bridge))

        def run(self, *args: Any, **kwargs: Any) -> Any:
            target = cross_compilation.current_target()
            return super().run(*args, **kwargs) if target is None else cross_compilation.build(self, flavour, target)

    return BridgeInterpreter


def _inventory(network: Any, conversion: Conversion | None) -> list[dict[str, Any]] | None:
    try:
        return inventory.layers(network, {} if conversion is None else conversion.layers)
    except Exception:  # a network that is not understood must not end a compile that is not bridge's
        logger.debug("a network of torch_tensorrt's has no inventory", exc_info=True)
        return None
