"""What an exported program takes for granted about its dynamic dimensions, against what they may be.

torch.export writes a condition that it cannot prove into the graph, as an assertion for run time. An engine has no
assertions, so each is checked here, for the whole range of its dimensions.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._sympy.functions import Max, Min
from torch.utils._sympy.symbol import SymT, symbol_is_type

from bridge.errors import ExportError
from bridge.source import model_line

_ASSERT = torch.ops.aten._assert_scalar.default
_MOST_POINTS = 4096  # evaluated for one condition; a larger range is sampled evenly, with its ends


def check_assumptions(program: ExportedProgram) -> None:
    """Raises ExportError naming a condition that some extents within the ranges break, and those extents."""
    for node, condition in conditions(program):
        check_condition(program, node, condition)


def conditions(program: ExportedProgram) -> Iterator[tuple[Node, sympy.Basic]]:
    """Every condition on extents, once, with a node that needs it; but for those that hold for all extents."""
    seen = set()
    for node in program.graph.find_nodes(op="call_function", target=_ASSERT):
        condition = _condition(node)
        if condition is not None and condition not in seen and not _always(condition):
            seen.add(condition)
            yield node, condition


def check_condition(program: ExportedProgram, node: Node, condition: sympy.Basic) -> None:
    """Raises ExportError where the condition of a node is broken within the ranges."""
    values = _counterexample(condition, program.range_constraints)
    if values is not None:
        names = _names(program)
        extents = ", ".join(f"{names.get(symbol, symbol)} = {value}" for symbol, value in values.items())
        raise ExportError(
            f"the model holds for {_spell(condition, names)} alone, but dynamic_shapes allows {extents}"
            f" ({model_line(node)}); narrow the range, or use a Dim that fits, such as 8 * Dim(...)"
        )


def _condition(node: Node) -> sympy.Basic | None:
    """The condition of an assertion on extents; None for one on values, which says nothing of shapes."""
    value = node.args[0].meta.get("val") if isinstance(node.args[0], Node) else node.args[0]
    return value.node.expr if isinstance(value, torch.SymBool) else None


def _always(condition: sympy.Basic) -> bool:
    """Whether it holds for whatever extents, such as min(8 * s, 16 * s) == 8 * s: torch's minimum does not compare."""
    return condition.replace(Min, sympy.Min).replace(Max, sympy.Max) == True  # noqa: E712


def _counterexample(condition: sympy.Basic, ranges: Mapping[Any, Any]) -> dict[sympy.Symbol, int] | None:
    symbols = sorted(condition.free_symbols, key=str)
    if any(symbol not in ranges or symbol_is_type(symbol, SymT.UNBACKED_INT) for symbol in symbols):
        return None  # of a value, not of an extent of an input
    points = int(_MOST_POINTS ** (1 / max(len(symbols), 1)))
    for values in itertools.product(*(_points(ranges[symbol], points) for symbol in symbols)):
        known = dict(zip(symbols, values, strict=True))
        if condition.xreplace({symbol: sympy.Integer(value) for symbol, value in known.items()}) == False:  # noqa: E712
            return known
    return None


def _points(bounds: Any, count: int) -> Iterator[int]:
    low, high = int(bounds.lower), int(bounds.upper)
    step = max(1, (high - low) // max(count - 1, 1))
    yield from range(low, high, step)
    yield high


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


def _spell(condition: sympy.Basic, names: Mapping[sympy.Symbol, str]) -> str:
    return str(condition.xreplace({symbol: sympy.Symbol(name) for symbol, name in names.items()}))
