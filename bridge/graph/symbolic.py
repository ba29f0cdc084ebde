"""Values of symbolic expressions in extents, at many points of their ranges at once.

torch writes extents as sympy expressions with functions of its own, which follow Python: integers are exact, `//` and
`%` round down, floats have 64 bits, and round() prefers even numbers. NumPy does the same.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import sympy
import torch
from torch.fx.experimental import _config as symbolic_config
from torch.utils._sympy.symbol import SymT, symbol_is_type

MOST_POINTS = 2**16  # evaluated for one expression; a larger range is sampled, with its ends and its first numbers
_FIRST = 16


class UnknownFunctionError(ValueError):
    """An expression contains a function that is not evaluated here."""


def size_oblivious(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Within it, where `enabled`, torch puts fewer guards on dynamic extents: none on whether one is 0 or 1."""
    patch: contextlib.AbstractContextManager[None] = symbolic_config.patch(backed_size_oblivious=enabled)  # type: ignore[attr-defined]
    return patch


def depends_on_values(extent: Any) -> bool:
    """Whether an extent depends on values, not only on the extents of inputs (torch: an unbacked symbol)."""
    if not isinstance(extent, torch.SymInt):
        return False
    return any(symbol_is_type(symbol, SymT.UNBACKED_INT) for symbol in extent.node.expr.free_symbols)


def evaluate(expression: sympy.Basic, known: Mapping[sympy.Symbol, Any]) -> Any:
    """An expression's value for each element of the arrays that stand for its symbols.

    UnknownFunctionError: it contains a function other than torch's for extents.
    """
    if expression.is_Symbol:
        return known[expression]
    if expression.is_Integer:
        return numpy.int64(int(expression))
    if expression.is_Float or expression.is_Rational:
        return numpy.float64(float(expression))
    if expression in (sympy.true, sympy.false):
        return numpy.bool_(expression is sympy.true)
    function = _FUNCTIONS.get(type(expression).__name__)
    if function is None:
        raise UnknownFunctionError(f"{type(expression).__name__} in {expression}")
    with numpy.errstate(all="ignore"):
        return function(*(evaluate(part, known) for part in expression.args))


def grid_points(symbols: Sequence[sympy.Symbol], ranges: Mapping[Any, Any]) -> dict[sympy.Symbol, numpy.ndarray]:
    """Every combination of the symbols' values; a sample where there are more than MOST_POINTS."""
    each = int(MOST_POINTS ** (1 / max(len(symbols), 1)))
    total = 1
    for symbol in symbols:
        total *= int(ranges[symbol].upper) - int(ranges[symbol].lower) + 1
    lines = [_axis_values(ranges[symbol], None if total <= MOST_POINTS else each) for symbol in symbols]
    grid = numpy.meshgrid(*lines, indexing="ij") if lines else []
    return {symbol: axis.reshape(-1) for symbol, axis in zip(symbols, grid, strict=True)}


def counterexample(condition: sympy.Basic, ranges: Mapping[Any, Any]) -> dict[sympy.Symbol, int] | None:
    """The first values within the ranges for which a condition is false, or None. Every symbol has a range."""
    symbols = sorted(condition.free_symbols, key=str)
    grid = grid_points(symbols, ranges)
    try:
        holds = (
            numpy.broadcast_to(evaluate(condition, grid), grid[symbols[0]].shape)
            if symbols
            else evaluate(condition, {})
        )
    except UnknownFunctionError:
        return _counterexample_by_substitution(condition, symbols, ranges)
    broken = numpy.flatnonzero(numpy.logical_not(holds))
    return {symbol: int(grid[symbol][broken[0]]) for symbol in symbols} if broken.size else None


def interval_around(
    condition: sympy.Basic, symbol: sympy.Symbol, value: int, ranges: Mapping[Any, Any]
) -> tuple[int, int]:
    """The longest interval around a value in which a condition holds.

    The interval is the value alone where the condition has other symbols, an unknown function or too large a range.
    """
    grid = grid_points([symbol], ranges)
    line = grid[symbol]
    if condition.free_symbols != {symbol} or len(line) != int(line[-1]) - int(line[0]) + 1:
        return value, value
    try:
        broken = line[numpy.logical_not(numpy.broadcast_to(evaluate(condition, grid), line.shape))]
    except UnknownFunctionError:
        return value, value
    below, above = broken[broken < value], broken[broken > value]
    return int(below[-1]) + 1 if below.size else int(line[0]), int(above[0]) - 1 if above.size else int(line[-1])


def has_floats(expression: sympy.Basic) -> bool:
    """Whether floats occur in the computation of an expression."""
    return any(type(part).__name__ in _FLOAT_FUNCTIONS for part in sympy.preorder_traversal(expression))


_FLOAT_FUNCTIONS = ("TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt", "ToFloat", "IntTrueDiv", "FloatTrueDiv")


def _counterexample_by_substitution(
    condition: sympy.Basic, symbols: Sequence[sympy.Symbol], ranges: Mapping[Any, Any]
) -> dict[sympy.Symbol, int] | None:
    few = int((MOST_POINTS // 16) ** (1 / max(len(symbols), 1)))
    for chosen in itertools.product(*(_axis_values(ranges[symbol], few).tolist() for symbol in symbols)):
        known = dict(zip(symbols, chosen, strict=True))
        if condition.xreplace({symbol: sympy.Integer(value) for symbol, value in known.items()}) == False:  # noqa: E712
            return known
    return None


def _axis_values(bounds: Any, count: int | None) -> numpy.ndarray:
    """All whole numbers within bounds, or about `count` of them: the first ones, both ends, and a step between."""
    low, high = int(bounds.lower), int(bounds.upper)
    if count is None or high - low < count:
        return numpy.arange(low, high + 1, dtype=numpy.int64)
    first = numpy.arange(low, min(low + _FIRST, high + 1), dtype=numpy.int64)
    return numpy.unique(
        numpy.concatenate((first, numpy.linspace(low, high, max(count - _FIRST, 2)).astype(numpy.int64)))
    )


def _as_int64(rounded: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: rounded(x).astype(numpy.int64)


def _fold(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *parts: functools.reduce(function, parts)


def _piecewise(*pairs: Any) -> Any:
    return numpy.select([condition for _, condition in pairs], [value for value, _ in pairs])


def _power(base: Any, exponent: Any) -> Any:
    floating = any(numpy.asarray(part).dtype.kind == "f" for part in (base, exponent)) or numpy.any(exponent < 0)
    return numpy.power(numpy.asarray(base, numpy.float64), exponent) if floating else numpy.power(base, exponent)


# By the names of sympy's and of torch.utils._sympy.functions' classes.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": _fold(numpy.add),
    "Mul": _fold(numpy.multiply),
    "Max": _fold(numpy.maximum),
    "Min": _fold(numpy.minimum),
    "Pow": _power,
    "PowByNatural": _power,
    "FloatPow": _power,
    "FloorDiv": numpy.floor_divide,
    "CleanDiv": numpy.floor_divide,
    "CeilDiv": lambda a, b: -(-a // b),
    "Mod": numpy.mod,
    "PythonMod": numpy.mod,
    "ModularIndexing": lambda base, divisor, modulus: base // divisor % modulus,
    "IntTrueDiv": numpy.true_divide,
    "FloatTrueDiv": numpy.true_divide,
    "ToFloat": lambda x: numpy.asarray(x, numpy.float64),
    "TruncToInt": _as_int64(numpy.trunc),
    "TruncToFloat": numpy.trunc,
    "FloorToInt": _as_int64(numpy.floor),
    "CeilToInt": _as_int64(numpy.ceil),
    "RoundToInt": _as_int64(numpy.round),
    "Abs": numpy.abs,
    "OpaqueUnaryFn_sqrt": numpy.sqrt,
    "OpaqueUnaryFn_log2": numpy.log2,
    "Identity": lambda x: x,
    "Equality": numpy.equal,
    "Unequality": numpy.not_equal,
    "StrictLessThan": numpy.less,
    "StrictGreaterThan": numpy.greater,
    "LessThan": numpy.less_equal,
    "GreaterThan": numpy.greater_equal,
    "And": _fold(numpy.logical_and),
    "Or": _fold(numpy.logical_or),
    "Not": numpy.logical_not,
    "Where": numpy.where,
    "ExprCondPair": lambda value, condition: (value, condition),
    "Piecewise": _piecewise,
}
