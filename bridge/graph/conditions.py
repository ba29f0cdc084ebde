"""The conditions on extents under which torch captures or lowers a model.

A program is valid only for extents that give the same answers as the example's. torch keeps an answer as a guard or as
a runtime assertion, but not every one. An extent whose range begins at 0 or 1 counts as 2 or more. Assertions on floats
are dropped, and so are guards made after the capture.
"""

import contextlib
import itertools
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import sympy
import torch
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import Max

from bridge.base.patches import replace
from bridge.graph.model_source import line_of_trace

_BRIDGE = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_DRIVERS = tuple(
    str(Path(__file__).parents[1] / name) for name in ("graph/capture.py", "tensorrt/network/convertible_graph.py")
)  # the callers of these are not the model
_DYNAMO = str(Path(torch.__file__).parent / "_dynamo")
_TORCH_INIT = str(Path(torch.__file__))
# The frames between the model's question and the answer: SymInt, SymBool and their implementation.
_SYMBOLIC = tuple(
    str(Path(torch.__file__).parent / name)
    for name in ("__init__.py", "fx/experimental/sym_node.py", "fx/experimental/symbolic_shapes.py",
                 "fx/experimental/recording.py", "_ops.py", "utils/_stats.py")
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """What holds for the example's extents, and the line of the model that asked.

    known: torch added no guard, since the answer follows from its range, which starts at 2 at the least.
    by_model: the model's own code asked, not one of torch's operators.
    """

    expression: sympy.Basic
    line: str
    known: bool = False
    by_model: bool = False


@dataclass
class RecordedConditions:
    """The conditions of each ShapeEnv, in the order in which torch asked.

    layout: those about strides alone. They do not matter, for an engine's tensors are contiguous. But torch relies on
    them from then on, so later answers are kept even where torch adds no guard.
    """

    asked: list[tuple[ShapeEnv, Condition]] = field(default_factory=list)
    layout: set[sympy.Basic] = field(default_factory=set)

    def of(self, env: ShapeEnv) -> list[Condition]:
        """The conditions of one ShapeEnv, without duplicates."""
        return list({(one.expression, one.known): one for its, one in self.asked if its is env}.values())


@contextlib.contextmanager
def recording_conditions(before: Iterable[sympy.Basic] = ()) -> Iterator[RecordedConditions]:
    """Within it every condition that torch makes of extents is kept, with the model's line; for one thread at a time.

    before: layout conditions that torch relies on already.
    """
    recorder = _Recorder(RecordedConditions(layout=set(before)))
    evaluate, defer = ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert

    def evaluate_expr(self: ShapeEnv, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> Any:
        counts = _counts(self)
        answer = evaluate(self, orig_expr, *args, **kwargs)
        added = _added_since(self, counts)
        fallback = kwargs.get("fallback_value", args[3] if len(args) > 3 else None)
        # A fallback is right whatever the extents.
        if not added and (fallback is None or bool(answer) != fallback):
            recorder.keep_answer(self, orig_expr, answer)
        recorder.keep(self, added)
        return answer

    def guard_or_defer_runtime_assert(self: ShapeEnv, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        counts = _counts(self)
        answer = defer(self, orig_expr, *args, **kwargs)
        recorder.keep(self, _added_since(self, counts))
        return answer

    with contextlib.ExitStack() as stack:
        replace(stack, ShapeEnv, "evaluate_expr", evaluate_expr)
        replace(stack, ShapeEnv, "guard_or_defer_runtime_assert", guard_or_defer_runtime_assert)
        yield recorder.conditions


class _Recorder:
    """Sorts what torch asks into conditions of the model and conditions of layout."""

    def __init__(self, conditions: RecordedConditions) -> None:
        self.conditions = conditions
        self._answered: set[tuple[int, sympy.Basic]] = set()

    def keep(self, env: ShapeEnv, added: Sequence[sympy.Basic]) -> None:
        """Keeps the guards and assertions that torch has just added."""
        by_model = bool(added) and _asked_by_model()
        for expression in added:
            if not by_model and (_is_about_strides(expression) or _asked_for_layout()):
                self.conditions.layout.add(expression)
            else:
                self.conditions.asked.append((env, Condition(expression, _model_line(), by_model=by_model)))

    def keep_answer(self, env: ShapeEnv, expression: sympy.Basic, answer: Any) -> None:
        """Keeps an answer for which torch added nothing: it took it as known."""
        if not expression.free_symbols or (id(env), expression) in self._answered:
            return
        by_model = _asked_by_model()
        if not by_model and (not self.conditions.layout or _is_about_strides(expression) or _asked_for_layout()):
            return
        self._answered.add((id(env), expression))
        condition = Condition(_equation(expression, answer), _model_line(), known=True, by_model=by_model)
        self.conditions.asked.append((env, condition))


def conditions_of_env(env: ShapeEnv) -> list[Condition]:
    """The guards and assertions that a ShapeEnv holds, with the source that torch gives for them."""
    guards = [Condition(guard.expr, str(guard.sloc)) for guard in env.guards]
    deferred = [one for several in env.deferred_runtime_asserts.values() for one in several]
    return guards + [Condition(one.expr, one.msg) for one in deferred]


def _counts(env: ShapeEnv) -> tuple[int, int]:
    return len(env.guards), env.num_deferred_runtime_asserts


def _added_since(env: ShapeEnv, before: tuple[int, int]) -> list[sympy.Basic]:
    """The conditions that were added since `before` was counted."""
    guards, deferred = before
    new = [guard.expr for guard in env.guards[guards:]]
    count = env.num_deferred_runtime_asserts - deferred
    if count:
        # The last ones of each symbol; naming a condition twice does no harm.
        new += [one.expr for several in env.deferred_runtime_asserts.values() for one in several[-count:]]
    return new


def _equation(expression: sympy.Basic, answer: Any) -> sympy.Basic:
    if answer in (True, sympy.true):
        return expression
    return sympy.Not(expression) if answer in (False, sympy.false) else sympy.Eq(expression, answer)


def _asked_by_model() -> bool:
    """Whether the question comes from the model's code, or from what torch._dynamo executes for it.

    An operator's question that is asked in C++ comes from no method of SymInt or SymBool.
    """
    called = ""
    for frame in _frames():
        name = frame.f_code.co_filename
        if not name.startswith((_BRIDGE, *_SYMBOLIC)) and "<" not in name:
            return called == _TORCH_INIT and (name.startswith(_DYNAMO) or not name.startswith(_TORCH))
        called = name
    return False


def _asked_for_layout() -> bool:
    """Whether torch asks in order to learn a tensor's memory layout."""
    return any(frame.f_code.co_name in _LAYOUT_FUNCTIONS for frame in itertools.islice(_frames(), _FRAMES_SEARCHED))


_FRAMES_SEARCHED = 25
_LAYOUT_FUNCTIONS = frozenset(
    (
        "_get_output_info_for_cache_entry",
        "_get_output_tensor_from_cache_entry",
        "check_contiguous_sizes_strides",
        "compute_elementwise_output_logical_to_physical_perm",
        "is_contiguous",
        "is_contiguous_for_memory_format",
        "is_contiguous_or_false",
        "is_contiguous_for_memory_format_or_false",
        "is_non_overlapping_and_dense_or_false",
        "are_strides_like_channels_last_or_false",
        "suggest_memory_format",
    )
)


def _is_about_strides(expression: sympy.Basic) -> bool:
    """Whether every extent stands within max(1, ...), which only strides of contiguous tensors have."""
    strides = [part for part in expression.atoms(Max) if sympy.S.One in part.args]
    hidden = {part: sympy.Dummy() for part in strides}
    return bool(strides) and not expression.xreplace(hidden).free_symbols - set(hidden.values())


def _model_line() -> str:
    """The line of the model that runs, or that made the current node, as `file:line in function: code`."""
    user = torch._guards.TracingContext.extract_stack() if torch._guards.TracingContext.try_get() else []
    places = [(one.filename, one.lineno, one.name) for one in reversed(user)]
    for frame in _frames():
        if frame.f_code.co_filename.startswith(_DRIVERS):
            break
        places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
    for file, line, function in places:
        if not file.startswith((_BRIDGE, _TORCH)) and "<" not in file:
            code = linecache.getline(file, line or 0).strip()
            return f"{file}:{line} in {function}" + (f": {code}" if code else "")
    return line_of_trace(fx_traceback.get_current_meta().get("stack_trace") or "") or "at an unknown line"


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
