"""Says which of bridge's ops torch_tensorrt leaves in PyTorch: by its own rules that is no error, and may be silent."""

import collections
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch._ops import OpOverloadPacket
from torch.fx import GraphModule, Node

from bridge.base.log import logger
from bridge.core import foreign
from bridge.errors import BridgeError
from bridge.graph.model_source import model_line
from bridge.tensorrt.guest import built_engines
from bridge.tensorrt.network import op_converter
from bridge.tensorrt.plugins import op_calls

# told: whether this thread has told of its latest compilation. traces: what `_traces` found in torch.compile's graph.
_thread = threading.local()


@contextlib.contextmanager
def told(module: GraphModule) -> Iterator[None]:
    """Logs an exception from the conversion of a graph that holds bridge's ops, which the caller may swallow."""
    try:
        yield
    except Exception as error:
        nodes = _nodes(module)
        if nodes:
            _thread.told = True
            what = str(error).partition("\n\nWhile executing")[0]  # torch.fx adds the node and much advice
            what = what if isinstance(error, BridgeError) else f"{type(error).__name__}: {what}"
            logger.error("torch_tensorrt could not convert a graph with %s\n%s", _describe(nodes), what)
        raise


def watch_partition(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps torch_tensorrt's compile_module: what no converter takes, or stands alone, it leaves in PyTorch."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def compile_module(gm: Any, *args: Any, **kwargs: Any) -> Any:
        op_converter.refresh()
        _restore_lines(gm)
        result = original(gm, *args, **kwargs)
        if isinstance(result, GraphModule):
            built_engines.note_passes(result, built_engines.passes_of(gm))
        _thread.told = True
        settings = signature.bind(gm, *args, **kwargs).arguments.get("settings")
        nodes = _left(result)
        if nodes and not getattr(settings, "dryrun", False):
            least = getattr(settings, "min_block_size", None)
            logger.warning("torch_tensorrt leaves in PyTorch %s", _describe(nodes, lambda node: _reason(node, least)))
        return result

    return compile_module


def watch_backend(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the body of torch_tensorrt's backend for torch.compile, which returns the graph itself when it fails."""

    @functools.wraps(original)
    def backend(gm: Any, *args: Any, **kwargs: Any) -> Any:
        _thread.told = False
        _thread.traces = _traces(gm)
        try:
            result = original(gm, *args, **kwargs)
        finally:
            _thread.traces = {}
        nodes = [] if _thread.told else _left(result)
        if nodes:
            logger.error("torch_tensorrt failed before it converted a graph, and runs in PyTorch %s", _describe(nodes))
        return result

    return backend


def _left(result: Any) -> list[Node]:
    modules = result.modules() if isinstance(result, nn.Module) else ()
    return [node for module in modules if isinstance(module, GraphModule) for node in _nodes(module)]


def _nodes(module: GraphModule) -> list[Node]:
    targets = foreign.targets()
    return [node for node in module.graph.nodes if _target(node) in targets]


def _target(node: Node) -> Any:
    return node.target.default if isinstance(node.target, OpOverloadPacket) else node.target


def _traces(module: GraphModule) -> dict[Any, list[str]]:
    """Where in the model each of bridge's ops stands, by the target that is called, in the graph's order."""
    traces = collections.defaultdict(list)
    for node in _nodes(module):
        traces[_target(node)].append(node.meta.get("stack_trace", ""))
    return traces


def _restore_lines(module: GraphModule) -> None:
    """Says of bridge's ops where in the model they stand, which torch_tensorrt's tracing of the graph forgets."""
    for target, traces in getattr(_thread, "traces", {}).items():
        nodes = [node for node in _nodes(module) if _target(node) == target and "stack_trace" not in node.meta]
        if len(nodes) == len(traces):
            for node, trace in zip(nodes, traces, strict=True):
                node.meta["stack_trace"] = trace


def _reason(node: Node, least: int | None) -> str:
    reason = op_calls.refuse(node)
    return f", {reason}" if reason else f", in a block of fewer than min_block_size={least} operators, or by request"


def _describe(nodes: list[Node], reason: Callable[[Node], str] = lambda node: "") -> str:
    names = foreign.targets()
    rows = [f"\n  {names[_target(node)].name} ({_target(node)}){reason(node)}: {model_line(node)}" for node in nodes]
    return f"{len(nodes)} of bridge's ops:" + "".join(rows)
