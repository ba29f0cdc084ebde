"""Checks what a program assumes about its dynamic dimensions against their ranges.

torch.export traces with the example's extents. Every condition that it met is checked here for the whole range:
those that torch kept as assertions or guards, and those that it dropped. An engine has neither assertions nor guards.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import Max, Min
from torch.utils._sympy.symbol import SymT, symbol_is_type

from bridge.base.log import logger
from bridge.errors import ExportError
from bridge.graph import dynamo
from bridge.graph.conditions import Condition, RecordedConditions, conditions_of_env, recording_conditions
from bridge.graph.model_source import model_line
from bridge.graph.symbolic import counterexample, has_floats, size_oblivious

_ASSERT = torch.ops.aten._assert_scalar.default
_CONDITIONS = "bridge.conditions"  # the key, in a graph module's meta, of the conditions of its capture


def check_assumptions(program: ExportedProgram) -> None:
    """ExportError: a condition fails for some extents within the ranges; the message names both."""
    for condition in broken_conditions(program):
        check_condition(program, condition)


def keep_conditions(program: ExportedProgram, recorded: RecordedConditions) -> None:
    """Stores in a program the conditions of its capture."""
    env = shape_env(program.graph_module)
    asked = recorded.of(env) if env is not None else []
    program.graph_module.meta[_CONDITIONS] = (asked, frozenset(recorded.layout))


def conditions(program: ExportedProgram) -> Iterator[Condition]:
    """Every condition on extents, once; without those on strides and those that always hold."""
    env = shape_env(program.graph_module)
    noted, layout = _kept_conditions(program)
    kept = [one for one in conditions_of_env(env) if one.expression not in layout] if env is not None else []
    yield from _distinct((*_asserted_conditions(program), *_squeeze_conditions(program), *noted, *kept), env)


def broken_conditions(program: ExportedProgram) -> list[Condition]:
    """The conditions that fail for some extents within the ranges, except those that `warn_of_ones` reports."""
    return [one for one in conditions(program) if _counterexample(program, one, at_least=2 * one.known) is not None]


def warn_of_ones(program: ExportedProgram) -> None:
    """Warns where the model tests for an extent of 0 or 1 that its range allows: torch.export assumes 2 or more.

    Most models test for it as a shortcut, and then the engine is right for 1 too.
    """
    known = [one for one in conditions(program) if one.known and one.by_model]
    asked = {one.line: one for one in known if _counterexample(program, one) is not None}
    if asked:
        names = _symbol_names(program)
        lines = "".join(f"\n  {_condition_text(one.expression, names)}: {line}" for line, one in asked.items())
        logger.warning(
            "the engine is made for dynamic extents of 2 or more, and was not compared with the model for less, where"
            " these lines may take another branch; if results differ there, give the dimension min=2:%s",
            lines,
        )


def check_condition(program: ExportedProgram, condition: Condition) -> None:
    """ExportError: the condition fails for some extents within the ranges."""
    values = _counterexample(program, condition, at_least=2 * condition.known)
    if values is not None:
        names = _symbol_names(program)
        extents = ", ".join(f"{names.get(symbol, symbol)} = {value}" for symbol, value in values.items())
        raise ExportError(
            f"the model was captured for {_condition_text(condition.expression, names)} alone, but dynamic_shapes"
            f" allows {extents} ({condition.line}); {_advice(condition.expression)}"
        )


@contextlib.contextmanager
def checking_lowering(program: ExportedProgram) -> Iterator[None]:
    """Around a lowering. ExportError: the lowering assumed something that fails for some extents within the ranges.

    torch drops guards that are made after the capture.
    """
    env = shape_env(program.graph_module)
    with (
        recording_conditions(_kept_conditions(program)[1]) as recorded,
        size_oblivious(env is not None),
        dynamo.without_runtime_asserts(),
    ):
        yield
    if env is not None:
        for condition in _distinct(recorded.of(env), env):
            check_condition(program, condition)


def _kept_conditions(program: ExportedProgram) -> tuple[list[Condition], frozenset[sympy.Basic]]:
    kept: tuple[list[Condition], frozenset[sympy.Basic]] = program.graph_module.meta.get(_CONDITIONS, ([], frozenset()))
    return kept


def _distinct(every: Iterable[Condition], env: ShapeEnv | None) -> Iterator[Condition]:
    seen = set()
    for condition in every:
        expression = condition.expression.xreplace(env.replacements) if env is not None else condition.expression
        if (expression, condition.known) not in seen and not _always_holds(expression):
            seen.add((expression, condition.known))
            yield dataclasses.replace(condition, expression=expression)


def shape_env(module: GraphModule) -> ShapeEnv | None:
    """The ShapeEnv of a graph's symbols; None where there are no symbols."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        extents: tuple[Any, ...] = tuple(value.shape) if isinstance(value, torch.Tensor) else (value,)
        for extent in extents:
            if isinstance(extent, torch.SymInt) and extent.node.expr.free_symbols:
                return extent.node.shape_env
    return None


def _asserted_conditions(program: ExportedProgram) -> Iterator[Condition]:
    """The assertions on extents in the graph. Those on values are not about shapes, and are left out."""
    for node in program.graph.find_nodes(op="call_function", target=_ASSERT):
        value = node.args[0].meta.get("val") if isinstance(node.args[0], Node) else node.args[0]
        if isinstance(value, torch.SymBool):
            yield Condition(value.node.expr, model_line(node))


def _squeeze_conditions(program: ExportedProgram) -> Iterator[Condition]:
    """That squeezed dimensions are not 1: the model drops a dynamic dimension of 1, but its program keeps it."""
    for node in program.graph.nodes:
        if node.target in _SQUEEZES and isinstance(node.args[0], Node):
            shape = node.args[0].meta["val"].shape
            chosen = node.args[1] if len(node.args) > 1 else range(len(shape))
            for axis in [chosen] if isinstance(chosen, int) else chosen:
                if shape and isinstance(shape[axis], torch.SymInt):
                    yield Condition(sympy.Ne(shape[axis].node.expr, 1), model_line(node), known=True)


_SQUEEZES = (torch.ops.aten.squeeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)


def _always_holds(condition: sympy.Basic) -> bool:
    """Whether it holds for all extents, as min(8 * s, 16 * s) == 8 * s does: torch's own Min does not simplify that."""
    return condition.replace(Min, sympy.Min).replace(Max, sympy.Max) == True  # noqa: E712


def _counterexample(
    program: ExportedProgram, condition: Condition, at_least: int = 0
) -> dict[sympy.Symbol, int] | None:
    """Extents within the ranges for which a condition is false. at_least: the smallest extent to try."""
    ranges = program.range_constraints
    symbols = condition.expression.free_symbols
    if any(symbol not in ranges or symbol_is_type(symbol, SymT.UNBACKED_INT) for symbol in symbols):
        return None  # it depends on a value, not only on inputs' extents
    tried = {symbol: _Range(max(int(ranges[symbol].lower), at_least), int(ranges[symbol].upper)) for symbol in symbols}
    return counterexample(condition.expression, tried) if all(map(_has_values, tried.values())) else None


class _Range(NamedTuple):
    lower: int
    upper: int


def _has_values(bounds: _Range) -> bool:
    return bounds.lower <= bounds.upper


def _symbol_names(program: ExportedProgram) -> dict[sympy.Symbol, str]:
    """A name for each symbol in messages: the first input's extent that it is."""
    names: dict[sympy.Symbol, str] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        extents: tuple[Any, ...] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for axis, extent in enumerate(extents):
            if isinstance(extent, torch.SymInt) and extent.node.expr.is_Symbol:
                names.setdefault(extent.node.expr, f"{node.name}.shape[{axis}]")
    return names


def _condition_text(condition: sympy.Basic, names: dict[sympy.Symbol, str]) -> str:
    return str(condition.xreplace({symbol: sympy.Symbol(name) for symbol, name in names.items()}))


def _advice(condition: sympy.Basic) -> str:
    if isinstance(condition, sympy.Eq) and any(isinstance(side, sympy.Float) for side in condition.args):
        return (
            "torch.export fixes a number that an operator takes as a float: let the operator compute it from a tensor's"
            " shape; or narrow the range"
        )
    if has_floats(condition):
        return (
            "compute that extent with integers, such as x.shape[2] // 2, or with torch.sym_int, math.floor or"
            " math.ceil instead of int(); or narrow the range"
        )
    return "narrow the range, or use a Dim that fits, such as 8 * Dim(...)"
