"""What torch asks of extents while it captures or lowers a model.

A program holds for those extents alone for which the answers are the example's. torch keeps an answer as a guard, or as an
assertion for run time, and drops some: it takes an extent whose range begins at 0 or 1 for 2 or more, keeps no assertion
on floats, and forgets what is asked after the capture.
"""

import contextlib
import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import sympy
import torch
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bridge.source import line_of_trace
from bridge.tensorrt.patches import replace

_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_DRIVERS = tuple(
    str(Path(__file__).parent / name) for name in ("capture.py", "tensorrt/lower.py")
)  # their callers' frames say nothing
_DYNAMO = str(Path(torch.__file__).parent / "_dynamo")
# Between a question of the model's code and the answer: SymInt and SymBool, and what they are made of.
_SYMBOLIC = tuple(
    str(Path(torch.__file__).parent / name)
    for name in ("__init__.py", "fx/experimental/sym_node.py", "fx/experimental/symbolic_shapes.py",
                 "fx/experimental/recording.py", "_ops.py", "utils/_stats.py")
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """What holds for the example's extents, and where it was asked.

    known: torch took the answer for known, by the range that it gives the extents.
    """

    expression: sympy.Basic
    line: str
    known: bool = False


@dataclass
class Questions:
    """The conditions of each ShapeEnv, in the order in which they were asked."""

    asked: list[tuple[ShapeEnv, Condition]] = field(default_factory=list)

    def of(self, env: ShapeEnv) -> list[Condition]:
        """Those of one, each once."""
        return list({condition.expression: condition for its, condition in self.asked if its is env}.values())


@contextlib.contextmanager
def recorded(by_model: bool = True) -> Iterator[Questions]:
    """Within it every condition that torch makes of extents is kept, with the model's line; for one thread at a time.

    by_model: those that the model's own code asks for are kept too where torch takes the answer for known.
    """
    questions = Questions()
    evaluate, defer = ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert

    def evaluate_expr(self: ShapeEnv, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> Any:
        before = _counts(self)
        answer = evaluate(self, orig_expr, *args, **kwargs)
        if by_model and orig_expr.free_symbols and _counts(self) == before and _asked_by_model():
            questions.asked.append((self, Condition(_equation(orig_expr, answer), _line(), known=True)))
        questions.asked += [(self, Condition(new, _line())) for new in _since(self, before)]
        return answer

    def guard_or_defer_runtime_assert(self: ShapeEnv, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        before = _counts(self)
        answer = defer(self, orig_expr, *args, **kwargs)
        questions.asked += [(self, Condition(new, _line())) for new in _since(self, before)]
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
    """Whether the question comes from the model's code, or from what torch._dynamo executes for it."""
    for frame in _frames():
        name = frame.f_code.co_filename
        if not name.startswith((_HERE, *_SYMBOLIC)) and "<" not in name:
            return name.startswith(_DYNAMO) or not name.startswith(_TORCH)
    return False


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
