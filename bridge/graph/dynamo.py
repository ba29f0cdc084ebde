"""torch._dynamo, torch.compile's tracer: what it was tracing, why, and the parts of it that bridge sets or holds.

Every use of torch._dynamo is here, for its structures are private and change from version to version.
"""

import contextlib
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.exc import TorchDynamoException
from torch.fx import GraphModule, Node

from bridge.base.log import logger
from bridge.base.patches import add
from bridge.graph.model_source import is_model_code

__all__ = ["TorchDynamoException", "compile_lock"]

_RESUMED = "torch_dynamo_resume_in_"


@dataclass(frozen=True)
class Frame:
    """The Python function that torch.compile was tracing.

    compile_id: torch's "frame/attempt", such as "0/1"; attempt counts the graphs of one function from 0.
    graph_break: why the graph ends before the function does, with the line, or None. resumed: it starts after one.
    skipped: the function of the model that calls it and runs in Python, or None.
    """

    function: str
    file: str
    line: int
    compile_id: str
    attempt: int
    graph_break: str | None
    resumed: bool
    skipped: str | None = None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


def current_frame(gm: GraphModule) -> Frame:
    """The frame of the graph that a backend is called with."""
    code = _output_graph().root_tx.f_code
    compile_id = gm.meta.get("dynamo_compile_id")
    reason = getattr(gm, "compile_subgraph_reason", None)
    return Frame(
        function=code.co_name,
        file=code.co_filename,
        line=code.co_firstlineno,
        compile_id=str(compile_id),
        attempt=getattr(compile_id, "frame_compile_id", None) or 0,
        graph_break=_break_text(reason) if reason is not None and reason.graph_break else None,
        resumed=code.co_name.startswith(_RESUMED),
        skipped=_caller_in_python(),
    )


def _caller_in_python() -> str | None:
    """The innermost function of the model that runs in Python, within the call of the compiled model."""
    function, frame = None, sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "compile_wrapper" and code.co_filename == _EVAL_FRAME:
            return function
        if function is None and is_model_code(code.co_filename):
            function = f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"
        frame = frame.f_back  # type: ignore[assignment]
    return None


_EVAL_FRAME = torch._dynamo.eval_frame.__file__


def recompile_limit() -> int:
    """How often torch.compile traces a function before it gives up and runs it in Python."""
    return int(torch._dynamo.config.recompile_limit)


def is_tracing() -> bool:
    """Whether calls are traced here; not under a stance of torch.compiler.set_stance such as force_eager."""
    stance = getattr(torch._dynamo.eval_frame, "_stance", None)
    return getattr(stance, "stance", "default") == "default"


def enter_around_calls(context: Callable[[Any, Any], Callable[[], Any] | None]) -> None:
    """Enters a context around each call of a model that torch.compile compiles from now on.

    context: takes the backend and its options, which may be None, and returns a factory of contexts, or None.
    torch looks the factory up on its own wrapper of a backend, so that class is patched, and stays so: the backend
    "bridge" is there as long as the process is, and without the patch a call that runs in PyTorch passes in silence.
    Other backends keep the factory that they have, or torch's.
    """
    from torch._dynamo.repro import after_dynamo

    def backend_ctx_ctor(wrapper: Any) -> Callable[[], Any]:
        given = wrapper._torchdynamo_orig_backend
        options = getattr(given, "kwargs", {}).get("options")
        others: Callable[[], Any] = vars(wrapper).get(_AROUND_CALLS, contextlib.nullcontext)
        return context(getattr(given, "compiler_fn", given), options) or others

    wrapper = getattr(after_dynamo, "WrapBackendDebug", None)
    if isinstance(wrapper, type):
        add(contextlib.ExitStack(), wrapper, _AROUND_CALLS, property(backend_ctx_ctor))  # for good
    else:
        logger.warning("with torch %s a call in which no engine runs is not noticed", torch.__version__)


_AROUND_CALLS = "backend_ctx_ctor"


def owner_of_current_graph() -> Any:
    """An object that belongs to one call of torch.compile; `owner_of` finds it again."""
    return _output_graph().compiler_fn


def owner_of(compiled: Any) -> Any:
    """The same object, from the result of torch.compile; None for anything else."""
    context = getattr(compiled, "dynamo_ctx", None)
    cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or () if _is_filled(cell)]
    for candidate in (context, *cells):
        callback = getattr(candidate, "callback", None)
        if callback is not None:
            return attrgetter("_torchdynamo_orig_backend._torchdynamo_orig_backend")(callback)
    return None


def recompile_reason(compile_id: str, moment: float) -> str | None:
    """Why the compilation that ran at a moment (time.time()) was a recompile.

    None: it was the first, is still running, or is so old that torch has dropped its metrics.
    """
    for row in torch._dynamo.utils.get_compilation_metrics():
        start, end = row.start_time_us, row.end_time_us
        if str(row.compile_id) == compile_id and start and end and start <= moment * 1e6 <= end:
            return row.recompile_reason
    return None


def _output_graph() -> Any:
    from torch._dynamo.symbolic_convert import InstructionTranslator

    return InstructionTranslator.current_tx().output


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _break_text(reason: Any) -> str:
    frame: traceback.FrameSummary | None = reason.user_stack[-1] if reason.user_stack else None
    where = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" if frame is not None else "an unknown line"
    lines = [line.strip() for line in reason.reason.splitlines()]
    reasons = [line.removeprefix("Explanation: ") for line in lines if line and not line.startswith(_BREAK_BOILERPLATE)]
    return f"{'; '.join(reasons)}\n  {where}"


_BREAK_BOILERPLATE = ("Hint:", "Developer debug context", "For more details")


def source_name(node: Node) -> str:
    """What an argument of a graph is to the traced function, such as L['x'] or L['self'].layers[0].weight."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", node.name)  # a method before torch 2.11
    return str(name() if callable(name) else name)


def is_weight(node: Node) -> bool:
    """Whether a placeholder is a parameter or buffer of the model, which torch.compile calls a static input."""
    return bool(node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"))


def without_runtime_asserts(enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """Within it torch.export writes no assertions on extents into programs, where `enabled`, or disabled already."""
    disabled_asserts = torch._dynamo.config.do_not_emit_runtime_asserts or enabled
    patch: contextlib.AbstractContextManager[None] = torch._dynamo.config.patch(
        do_not_emit_runtime_asserts=disabled_asserts
    )
    return patch


@contextlib.contextmanager
def counting_graph_breaks() -> Iterator[Counter[str]]:
    """Forgets every compiled graph, then counts the reasons of graph breaks within it."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield counters["graph_break"]
