"""Reports which of bridge's ops torch_tensorrt leaves in PyTorch: that is no error there, and may be silent."""

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
from bridge.tensorrt.guest import engine_records
from bridge.tensorrt.network import op_converter
from bridge.tensorrt.plugins import op_calls

# reported: whether this thread has reported on its latest compilation. traces: `_traces` of torch.compile's graph.
_thread = threading.local()


@contextlib.contextmanager
def reporting_failure(module: GraphModule) -> Iterator[None]:
    """Logs an exception from the conversion of a graph that holds bridge's ops, which the caller may swallow."""
    try:
        yield
    except Exception as error:
        nodes = _op_nodes(module)
        if nodes:
            _thread.reported = True
            what = str(error).partition("\n\nWhile executing")[0]  # torch.fx appends the node and advice
            what = what if isinstance(error, BridgeError) else f"{type(error).__name__}: {what}"
            logger.error("torch_tensorrt could not convert a graph with %s\n%s", _ops_text(nodes), what)
        raise


def report_unconverted(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps torch_tensorrt's compile_module, which leaves unsupported and isolated operators in PyTorch."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def compile_module(gm: Any, *args: Any, **kwargs: Any) -> Any:
        op_converter.refresh()
        _restore_lines(gm)
        result = original(gm, *args, **kwargs)
        if isinstance(result, GraphModule):
            engine_records.record_passes(result, engine_records.passes_of(gm))
        _thread.reported = True
        settings = signature.bind(gm, *args, **kwargs).arguments.get("settings")
        nodes = _ops_in_torch(result)
        if nodes and not getattr(settings, "dryrun", False):
            min_block_size = getattr(settings, "min_block_size", None)
            ops = _ops_text(nodes, lambda node: _reason_text(node, min_block_size))
            logger.warning("torch_tensorrt leaves in PyTorch %s", ops)
        return result

    return compile_module


def report_failure(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the body of torch_tensorrt's backend for torch.compile, which returns the graph itself when it fails."""

    @functools.wraps(original)
    def backend(gm: Any, *args: Any, **kwargs: Any) -> Any:
        _thread.reported = False
        _thread.traces = _traces(gm)
        try:
            result = original(gm, *args, **kwargs)
        finally:
            _thread.traces = {}
        nodes = [] if _thread.reported else _ops_in_torch(result)
        if nodes:
            logger.error("torch_tensorrt failed before it converted a graph, and runs in PyTorch %s", _ops_text(nodes))
        return result

    return backend


def _ops_in_torch(result: Any) -> list[Node]:
    modules = result.modules() if isinstance(result, nn.Module) else ()
    return [node for module in modules if isinstance(module, GraphModule) for node in _op_nodes(module)]


def _op_nodes(module: GraphModule) -> list[Node]:
    targets = foreign.targets()
    return [node for node in module.graph.nodes if _overload(node) in targets]


def _overload(node: Node) -> Any:
    return node.target.default if isinstance(node.target, OpOverloadPacket) else node.target


def _traces(module: GraphModule) -> dict[Any, list[str]]:
    """The stack traces of bridge's ops, by target, in the graph's order."""
    traces = collections.defaultdict(list)
    for node in _op_nodes(module):
        traces[_overload(node)].append(node.meta.get("stack_trace", ""))
    return traces


def _restore_lines(module: GraphModule) -> None:
    """Restores the stack traces of bridge's ops, which torch_tensorrt's tracing of the graph drops."""
    for target, traces in getattr(_thread, "traces", {}).items():
        nodes = [node for node in _op_nodes(module) if _overload(node) == target and "stack_trace" not in node.meta]
        if len(nodes) == len(traces):
            for node, trace in zip(nodes, traces, strict=True):
                node.meta["stack_trace"] = trace


def _reason_text(node: Node, min_block_size: int | None) -> str:
    too_small = f"in a block of fewer than min_block_size={min_block_size} operators, or by request"
    return f", {op_calls.plugin_refusal(node) or too_small}"


def _ops_text(nodes: list[Node], reason: Callable[[Node], str] = lambda node: "") -> str:
    ops = foreign.targets()
    rows = [f"\n  {ops[_overload(node)].name} ({_overload(node)}){reason(node)}: {model_line(node)}" for node in nodes]
    return f"{len(nodes)} of bridge's ops:" + "".join(rows)
