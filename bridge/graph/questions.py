"""What torch asks of extents while it captures or lowers a model.

A program holds for those extents alone for which the answers are the example's. torch keeps an answer as a guard, or as
an assertion for run time, and drops some: it takes an extent whose range begins at 0 or 1 for 2 or more, keeps no
assertion on floats, and forgets what is asked after the capture.
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

_HERE = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_DRIVERS = tuple(
    str(Path(__file__).parents[1] / name) for name in ("graph/capture.py", "tensorrt/network/convertible_graph.py")
)  # their callers' frames say nothing
_DYNAMO = str(Path(torch.__file__).parent / "_dynamo")
_METHODS = str(Path(torch.__file__))
# Between a question of the model's code and the answer: SymInt and SymBool, and what they are made of.
_SYMBOLIC = tuple(
    str(Path(torch.__file__).parent / name)
    for name in ("__init__.py", "fx/experimental/sym_node.py", "fx/experimental/symbolic_shapes.py",
                 "fx/experimental/recording.py", "_ops.py", "utils/_stats.py")
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """What holds for the example's extents, and where it was asked.

    known: torch took the answer for known, by the range that it gives the extents: 2 and more where that begins below.
    by_model: the model's own code asked, not an operator of torch's.
    """

    expression: sympy.Basic
    line: str
    known: bool = False
    by_model: bool = False


@dataclass
class Questions:
    """The conditions of each ShapeEnv, in the order in which they were asked.

    layout: those that were asked for the sake of strides alone. An engine's tensors have none, so they do not matter;
    but torch takes them for granted from then on, so that later questions are kept even where it knows the answer.
    """

    asked: list[tuple[ShapeEnv, Condition]] = field(default_factory=list)
    layout: set[sympy.Basic] = field(default_factory=set)

    def of(self, env: ShapeEnv) -> list[Condition]:
        """Those of one, each once."""
        return list({(one.expression, one.known): one for its, one in self.asked if its is env}.values())


@contextlib.contextmanager
def recorded(before: Iterable[sympy.Basic] = ()) -> Iterator[Questions]:
    """Within it every condition that torch makes of extents is kept, with the model's line; for one thread at a time.

    before: conditions of layout that are taken for granted already.
    """
    questions = Questions(layout=set(before))
    evaluate, defer = ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert
    answered: set[tuple[int, Any]] = set()

    def note(env: ShapeEnv, new: Sequence[sympy.Basic]) -> None:
        by_model = bool(new) and _asked_by_model()
        for expression in new:
            if not by_model and (_of_strides(expression) or _asked_for_layout()):
                questions.layout.add(expression)
            else:
                questions.asked.append((env, Condition(expression, _line(), by_model=by_model)))

    def evaluate_expr(self: ShapeEnv, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> Any:
        counts = _counts(self)
        answer = evaluate(self, orig_expr, *args, **kwargs)
        new = _since(self, counts)
        # Where torch has a fallback, that is right whatever the extents.
        fallback = kwargs.get("fallback_value", args[3] if len(args) > 3 else None)
        fell_back = fallback is not None and bool(answer) == fallback
        if not new and not fell_back and orig_expr.free_symbols and (id(self), orig_expr) not in answered:
            by_model = _asked_by_model()
            if by_model or (questions.layout and not _of_strides(orig_expr) and not _asked_for_layout()):
                answered.add((id(self), orig_expr))
                condition = Condition(_equation(orig_expr, answer), _line(), known=True, by_model=by_model)
                questions.asked.append((self, condition))
        note(self, new)
        return answer

    def guard_or_defer_runtime_assert(self: ShapeEnv, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        counts = _counts(self)
        answer = defer(self, orig_expr, *args, **kwargs)
        note(self, _since(self, counts))
        return answer

    with contextlib.ExitStack() as stack:
        replace(stack, ShapeEnv, "evaluate_expr", evaluate_expr)
        replace(stack, ShapeEnv, "guard_or_defer_runtime_assert", guard_or_defer_runtime_assert)
        yield questions


def kept_by(env: ShapeEnv) -> list[Condition]:
    """The guards and assertions that an environment holds, of which no more is known than it says."""
    guards = [Condition(guard.expr, str(guard.sloc)) for guard in env.guards]
    deferred = [one for several in env.deferred_runtime_asserts.values() for one in several]
    return guards + [Condition(one.expr, one.msg) for one in deferred]


def _counts(env: ShapeEnv) -> tuple[int, int]:
    return len(env.guards), env.num_deferred_runtime_asserts


def _since(env: ShapeEnv, before: tuple[int, int]) -> list[sympy.Basic]:
    """The conditions that were added since."""
    guards, deferred = before
    new = [guard.expr for guard in env.guards[guards:]]
    count = env.num_deferred_runtime_asserts - deferred
    if count:
        # The last ones of each symbol; one that is named again is the same condition.
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
        if not name.startswith((_HERE, *_SYMBOLIC)) and "<" not in name:
            return called == _METHODS and (name.startswith(_DYNAMO) or not name.startswith(_TORCH))
        called = name
    return False


def _asked_for_layout() -> bool:
    """Whether torch asks in order to find out how a tensor lies in memory."""
    return any(frame.f_code.co_name in _OF_LAYOUT for frame in itertools.islice(_frames(), _FEW_FRAMES))


_FEW_FRAMES = 24
_OF_LAYOUT = frozenset(
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


def _of_strides(expression: sympy.Basic) -> bool:
    """Whether every extent stands within max(1, ...), as in the strides of a contiguous tensor alone."""
    strides = [part for part in expression.atoms(Max) if sympy.S.One in part.args]
    hidden = {part: sympy.Dummy() for part in strides}
    return bool(strides) and not expression.xreplace(hidden).free_symbols - set(hidden.values())


def _line() -> str:
    """The line of the model that is being executed, or whose node is, as `file:line in function: code`."""
    user = torch._guards.TracingContext.extract_stack() if torch._guards.TracingContext.try_get() else []
    places = [(one.filename, one.lineno, one.name) for one in reversed(user)]
    for frame in _frames():
        if frame.f_code.co_filename.startswith(_DRIVERS):
            break
        places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
    for file, line, function in places:
        if not file.startswith((_HERE, _TORCH)) and "<" not in file:
            code = linecache.getline(file, line or 0).strip()
            return f"{file}:{line} in {function}" + (f": {code}" if code else "")
    return line_of_trace(fx_traceback.get_current_meta().get("stack_trace") or "") or "at an unknown line"


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
