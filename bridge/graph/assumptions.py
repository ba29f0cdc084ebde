"""What a program takes for granted about its dynamic dimensions, against what they may be.

torch.export traces with the example's extents. Each condition that it met on the way is checked here for the whole
range of its dimensions, whether torch kept it as an assertion in the graph, as a guard, or not at all: an engine has
neither.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import Max, Min
from torch.utils._sympy.symbol import SymT, symbol_is_type

from bridge.base.log import logger
from bridge.errors import ExportError
from bridge.graph.model_source import model_line
from bridge.graph.questions import Condition, Questions, kept_by, recorded
from bridge.graph.symbolic import counterexample, has_floats

_ASSERT = torch.ops.aten._assert_scalar.default
_NOTED = "bridge.conditions"  # in a graph module's meta: what was recorded as it was captured


def check_assumptions(program: ExportedProgram) -> None:
    """Raises ExportError naming a condition that some extents within the ranges break, and those extents."""
    for condition in broken(program):
        check_condition(program, condition)


def note(program: ExportedProgram, questions: Questions) -> None:
    """Keeps with a program the conditions under which it was captured."""
    env = environment(program.graph_module)
    asked = questions.of(env) if env is not None else []
    program.graph_module.meta[_NOTED] = (asked, frozenset(questions.layout))


def conditions(program: ExportedProgram) -> Iterator[Condition]:
    """Every condition on extents, once; but for those that hold for all extents, and those on strides."""
    env = environment(program.graph_module)
    noted, layout = _noted(program)
    kept = [one for one in kept_by(env) if one.expression not in layout] if env is not None else []
    yield from _distinct((*_asserted(program), *_squeezed(program), *noted, *kept), env)


def broken(program: ExportedProgram) -> list[Condition]:
    """The conditions that do not hold for all extents within the ranges, but those that warn_of_ones tells."""
    return [one for one in conditions(program) if _counterexample(program, one, at_least=2 * one.known) is not None]


def warn_of_ones(program: ExportedProgram) -> None:
    """Tells where the model asks whether an extent is 0 or 1 that may be: torch.export takes it for 2 or more.

    Most models ask so in order to spare themselves work, and their engine is right for 1 too.
    """
    known = [one for one in conditions(program) if one.known and one.by_model]
    asked = {one.line: one for one in known if _counterexample(program, one) is not None}
    if asked:
        names = _names(program)
        lines = "".join(f"\n  {_spell(one.expression, names)}: {line}" for line, one in asked.items())
        logger.warning(
            "the engine is made for dynamic extents of 2 or more, and was not compared with the model for less, where"
            " these lines may take another way; if results differ there, give the dimension min=2:%s",
            lines,
        )


def check_condition(program: ExportedProgram, condition: Condition) -> None:
    """Raises ExportError where a condition is broken within the ranges."""
    values = _counterexample(program, condition, at_least=2 * condition.known)
    if values is not None:
        names = _names(program)
        extents = ", ".join(f"{names.get(symbol, symbol)} = {value}" for symbol, value in values.items())
        raise ExportError(
            f"the model was captured for {_spell(condition.expression, names)} alone, but dynamic_shapes allows"
            f" {extents} ({condition.line}); {_way_out(condition.expression)}"
        )


@contextlib.contextmanager
def asked_in_lowering(program: ExportedProgram) -> Iterator[None]:
    """Around a lowering: raises ExportError where it took something for granted that does not hold for all extents.

    torch keeps no guard that is made after the capture.
    """
    env = environment(program.graph_module)
    with (
        recorded(_noted(program)[1]) as questions,
        symbolic_config.patch(backed_size_oblivious=env is not None),  # type: ignore[attr-defined]  # asks less
        torch._dynamo.config.patch(do_not_emit_runtime_asserts=True),
    ):
        yield
    if env is not None:
        for condition in _distinct(questions.of(env), env):
            check_condition(program, condition)


def _noted(program: ExportedProgram) -> tuple[list[Condition], frozenset[sympy.Basic]]:
    found: tuple[list[Condition], frozenset[sympy.Basic]] = program.graph_module.meta.get(_NOTED, ([], frozenset()))
    return found


def _distinct(every: Iterable[Condition], env: ShapeEnv | None) -> Iterator[Condition]:
    seen = set()
    for condition in every:
        expression = condition.expression.xreplace(env.replacements) if env is not None else condition.expression
        if (expression, condition.known) not in seen and not _always(expression):
            seen.add((expression, condition.known))
            yield dataclasses.replace(condition, expression=expression)


def environment(module: GraphModule) -> ShapeEnv | None:
    """What knows the symbols of a graph; None where it has none."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        extents: tuple[Any, ...] = tuple(value.shape) if isinstance(value, torch.Tensor) else (value,)
        for extent in extents:
            if isinstance(extent, torch.SymInt) and extent.node.expr.free_symbols:
                return extent.node.shape_env
    return None


def _asserted(program: ExportedProgram) -> Iterator[Condition]:
    """Of assertions on extents, with the line of a node that needs them; one on values says nothing of shapes."""
    for node in program.graph.find_nodes(op="call_function", target=_ASSERT):
        value = node.args[0].meta.get("val") if isinstance(node.args[0], Node) else node.args[0]
        if isinstance(value, torch.SymBool):
            yield Condition(value.node.expr, model_line(node))


def _squeezed(program: ExportedProgram) -> Iterator[Condition]:
    """A dynamic dimension of 1 is dropped where the model squeezes it, but not in a program."""
    for node in program.graph.nodes:
        if node.target in _SQUEEZES and isinstance(node.args[0], Node):
            shape = node.args[0].meta["val"].shape
            chosen = node.args[1] if len(node.args) > 1 else range(len(shape))
            for axis in [chosen] if isinstance(chosen, int) else chosen:
                if shape and isinstance(shape[axis], torch.SymInt):
                    yield Condition(sympy.Ne(shape[axis].node.expr, 1), model_line(node), known=True)


_SQUEEZES = (torch.ops.aten.squeeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)


def _always(condition: sympy.Basic) -> bool:
    """Whether it holds for whatever extents, such as min(8 * s, 16 * s) == 8 * s: torch's minimum does not compare."""
    return condition.replace(Min, sympy.Min).replace(Max, sympy.Max) == True  # noqa: E712


def _counterexample(
    program: ExportedProgram, condition: Condition, at_least: int = 0
) -> dict[sympy.Symbol, int] | None:
    """Extents within the ranges for which it is false. at_least: no extent below that is tried."""
    ranges = program.range_constraints
    symbols = condition.expression.free_symbols
    if any(symbol not in ranges or symbol_is_type(symbol, SymT.UNBACKED_INT) for symbol in symbols):
        return None  # of a value, not of an extent of an input
    tried = {symbol: _Range(max(int(ranges[symbol].lower), at_least), int(ranges[symbol].upper)) for symbol in symbols}
    return counterexample(condition.expression, tried) if all(map(_has_values, tried.values())) else None


class _Range(NamedTuple):
    lower: int
    upper: int


def _has_values(bounds: _Range) -> bool:
    return bounds.lower <= bounds.upper


def _names(program: ExportedProgram) -> dict[sympy.Symbol, str]:
    """How a message calls each symbol: by an input that has it as an extent."""
    names: dict[sympy.Symbol, str] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        extents: tuple[Any, ...] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for axis, extent in enumerate(extents):
            if isinstance(extent, torch.SymInt) and extent.node.expr.is_Symbol:
                names.setdefault(extent.node.expr, f"{node.name}.shape[{axis}]")
    return names


def _spell(condition: sympy.Basic, names: dict[sympy.Symbol, str]) -> str:
    return str(condition.xreplace({symbol: sympy.Symbol(name) for symbol, name in names.items()}))


def _way_out(condition: sympy.Basic) -> str:
    if has_floats(condition):
        return (
            "compute that extent with integers, such as x.shape[2] // 2, or with torch.sym_int, math.floor or"
            " math.ceil instead of int(); or narrow the range"
        )
    return "narrow the range, or use a Dim that fits, such as 8 * Dim(...)"
