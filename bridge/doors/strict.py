"""Strict mode of torch.compile(backend="bridge"): silent fallback to PyTorch is an error.

torch.compile calls a backend with the graphs that it could trace, and does not report the rest: skipped functions,
graph breaks, and functions that reached the recompile limit.
"""

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from bridge.core.foreign import targets
from bridge.errors import GraphBreakError
from bridge.graph import dynamo
from bridge.graph.dynamo import Frame

_FALLBACK = 'or pass options={"fallback": True} to run what lies between the engines in PyTorch.'
_thread = threading.local()


def check_no_graph_break(frame: Frame) -> None:
    """GraphBreakError: the graph is only a part of the compiled function."""
    reason = frame.graph_break or ("it goes on after a graph break" if frame.resumed else None)
    if reason is not None:
        raise GraphBreakError(
            f"torch.compile cut {frame} into several graphs: {reason}\n{_advice(reason)}, {_FALLBACK}"
        )
    if frame.skipped is not None:
        raise GraphBreakError(
            f"torch.compile does not trace {frame.skipped}, which would run in PyTorch; it compiles only {frame},"
            f' called from there. TORCH_LOGS="graph_breaks" says why; change that function, {_FALLBACK}'
        )


def check_recompile_limit(frame: Frame) -> None:
    """GraphBreakError: the next recompile would reach torch.compile's limit, after which it runs in PyTorch."""
    limit = dynamo.recompile_limit()
    if frame.attempt >= limit - 1:
        raise GraphBreakError(
            f"torch.compile traced {frame} {frame.attempt + 1} times, and would from now on run it in PyTorch"
            f" silently (torch._dynamo.config.recompile_limit is {limit}). TORCH_LOGS=recompiles says why: give"
            " torch.compile dynamic=True, mark dimensions with torch._dynamo.mark_dynamic, or raise that limit."
        )


def _advice(reason: str) -> str:
    """What to do: torch.compile breaks a graph at value-dependent shapes and warnings unless a setting allows them."""
    if "`_warnings.warn`" in reason:
        return "Call torch._dynamo.config.ignore_logging_functions.add(warnings.warn), which leaves the warning out"
    counted = [str(target) for target, op in targets().items() if op.counted]
    if any(f"`{target}`" in reason for target in counted):
        return "Set torch._dynamo.config.capture_dynamic_output_shape_ops = True, which keeps it in the graph"
    return "Rewrite that line"


def count_engine_run() -> None:
    """Call it whenever an engine runs, in the thread that runs it."""
    _thread.runs = _engine_runs() + 1


def _engine_runs() -> int:
    return getattr(_thread, "runs", 0)


class StrictCall(contextlib.AbstractContextManager["StrictCall"]):
    """Surrounds each call of a model that torch.compile compiled with this backend.

    GraphBreakError: no engine ran in the call. Exceptions of the call pass through.
    """

    def __enter__(self) -> "StrictCall":
        self._runs = _engine_runs()
        self._error = sys.exc_info()[1]
        return self

    def __exit__(self, *_: object) -> None:
        if _engine_runs() == self._runs and sys.exc_info()[1] is self._error and dynamo.is_tracing():
            raise GraphBreakError(
                "this call ran in PyTorch: torch.compile traced no graph of it, so there is no engine. It does so"
                " silently where a function is excluded from tracing (torch._dynamo.disable, torch.compiler.disable),"
                " holds a lock or another context manager that it does not know, resizes tensors or takes sparse ones,"
                " and where Module.compile() is called on a layer of torch.nn itself (torch.compile(layer) traces it)."
                f' TORCH_LOGS="graph_breaks" says why; change that function, {_FALLBACK}'
            )


def check_calls(backend: Callable[..., Any]) -> None:
    """Puts a `StrictCall` around every call of the models that torch.compile compiles with `backend` from now on.

    Models compiled with options={"fallback": True} are left out.
    """

    def context(called_backend: Any, options: Any) -> Callable[[], Any] | None:
        strict = called_backend is backend and not (isinstance(options, dict) and options.get("fallback"))
        return StrictCall if strict else None

    dynamo.enter_around_calls(context)
