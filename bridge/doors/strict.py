"""Strict mode of torch.compile(backend="bridge"): what would run in PyTorch in silence is an error.

torch.compile calls a backend with the graphs that it could trace, and says nothing of the rest: functions that it
skips, graphs that end early, functions that it traced too often and gave up.
"""

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from bridge.core.foreign import targets
from bridge.doors import dynamo
from bridge.doors.dynamo import Frame
from bridge.errors import GraphBreakError

_FALLBACK = 'or pass options={"fallback": True} to run what lies between the engines in PyTorch.'
_thread = threading.local()


def refuse_breaks(frame: Frame) -> None:
    """GraphBreakError: the graph is not the whole of the function that was compiled."""
    reason = frame.graph_break or ("it goes on after a graph break" if frame.resumed else None)
    if reason is not None:
        raise GraphBreakError(
            f"torch.compile cut {frame} into several graphs: {reason}\n{_way_out(reason)}, {_FALLBACK}"
        )
    if frame.skipped is not None:
        raise GraphBreakError(
            f"torch.compile does not trace {frame.skipped}, which would run in PyTorch; it compiles only {frame},"
            f' called from there. TORCH_LOGS="graph_breaks" says why; change that function, {_FALLBACK}'
        )


def refuse_recompiles(frame: Frame) -> None:
    """GraphBreakError: torch.compile is about to give the function up."""
    limit = dynamo.recompile_limit()
    if frame.attempt >= limit - 1:
        raise GraphBreakError(
            f"torch.compile traced {frame} {frame.attempt + 1} times, and would from now on run it in PyTorch without a"
            f" word (torch._dynamo.config.recompile_limit is {limit}). TORCH_LOGS=recompiles says why: give"
            " torch.compile dynamic=True, mark dimensions with torch._dynamo.mark_dynamic, or raise that limit."
        )


def _way_out(reason: str) -> str:
    """torch.compile breaks a graph where the shape of a result depends on values, unless it is told not to."""
    counted = [str(target) for target, op in targets().items() if op.counted]
    if any(f"`{target}`" in reason for target in counted):
        return "Set torch._dynamo.config.capture_dynamic_output_shape_ops = True, which keeps it in the graph"
    return "Rewrite that line"


def engine_runs() -> None:
    """To be called where a graph of this thread runs."""
    _thread.runs = _runs() + 1


def _runs() -> int:
    return getattr(_thread, "runs", 0)


class Call(contextlib.AbstractContextManager["Call"]):
    """Around each call of a model that torch.compile compiled with this backend.

    GraphBreakError: no engine ran in it. An exception that the call raises itself goes on.
    """

    def __enter__(self) -> "Call":
        self._runs = _runs()
        self._error = sys.exc_info()[1]
        return self

    def __exit__(self, *_: object) -> None:
        if _runs() == self._runs and sys.exc_info()[1] is self._error and dynamo.traces():
            raise GraphBreakError(
                "this call ran in PyTorch: torch.compile traced no graph of it, so there is no engine. It does so in"
                " silence where a function is excluded from tracing (torch._dynamo.disable, torch.compiler.disable),"
                " holds a lock or another context manager that it does not know, resizes tensors or takes sparse ones,"
                " and where Module.compile() is called on a layer of torch.nn itself (torch.compile(layer) traces it)."
                f' TORCH_LOGS="graph_breaks" says why; change that function, {_FALLBACK}'
            )


def watch(backend: Callable[..., Any]) -> None:
    """Puts a `Call` around the calls of every model that torch.compile compiles with `backend` from now on, but for
    those with options={"fallback": True}."""

    def context(found: Any, options: Any) -> Callable[[], Any] | None:
        strict = found is backend and not (isinstance(options, dict) and options.get("fallback"))
        return Call if strict else None

    dynamo.watch_calls(context)
