"""Expressions of extents as C++, with Python's arithmetic: of int64_t and double at run time, and of bridge::Dim for
shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy

from bridge.errors import UnsupportedOpError
from bridge.generate.native.parameters import float_literal
from bridge.generate.program import Extent

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True)
class _Dialect:
    """How an expression is spelled. rules: by the class name of a node; each gives C++ for the node's arguments,
    which are spelled already and may be written beside any operator."""

    what: str
    rules: Mapping[str, Callable[..., str]]


def int64_text(expression: Extent | sympy.Basic, names: Mapping[sympy.Symbol, str]) -> str:
    """An expression as C++ of int64_t, or of bool where it is a condition; names: what symbols are called there.

    It may be written beside any operator. UnsupportedOpError: it is none of integers.
    """
    return _spell(sympy.sympify(expression), names, _INT64)


def double_text(expression: Extent | float, names: Mapping[sympy.Symbol, str]) -> str:
    """An expression as C++ of double. UnsupportedOpError: generated code cannot compute it."""
    if isinstance(expression, sympy.Basic):
        return _spell(expression, names, _DOUBLE)
    return float_literal(expression)  # which may be infinite, or NaN


def dim_text(expression: Extent, names: Mapping[sympy.Symbol, str]) -> str:
    """An expression as C++ of bridge::Dim, which TensorRT computes. UnsupportedOpError: it cannot."""
    return _spell(sympy.sympify(expression), names, _DIM)


Ranges = Mapping[sympy.Symbol, tuple[int, int]]
"""The least and the greatest value of every symbol."""


def bounds(expression: Extent, ranges: Ranges) -> tuple[int, int]:
    """Least and greatest value that an expression may have, with symbols in these ranges; both may be out of reach.

    Raises:
        UnsupportedOpError: there is none, or a part of the expression may exceed 64 bits.
    """
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    whole = sympy.sympify(expression)
    known = {symbol: ValueRanges(low, high) for symbol, (low, high) in ranges.items()}
    for part in sympy.postorder_traversal(whole):
        if isinstance(part, sympy.logic.boolalg.Boolean) or not part.is_integer:
            continue
        found = bound_sympy(part, known)
        if not (found.lower >= _LEAST and found.upper <= _MOST):
            raise UnsupportedOpError(
                f"{part} may be anything from {found.lower} to {found.upper} in the profile, which 64 bits do not hold"
            )
    found = bound_sympy(whole, known)
    return int(found.lower), int(found.upper)


def bare(text: str) -> str:
    """C++ that stands alone, without the parentheses around it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if text.startswith("(") and place == len(text) - 1 else text
    return text


def _spell(expression: sympy.Basic, names: Mapping[sympy.Symbol, str], dialect: _Dialect) -> str:
    if isinstance(expression, sympy.Symbol) and dialect is not _DOUBLE:
        if expression not in names:
            raise UnsupportedOpError(f"{expression} is no extent of an input")
        return names[expression]
    if dialect is _DOUBLE and isinstance(expression, (sympy.Integer, sympy.Float)):
        text = float_literal(float(expression))
        return f"({text})" if text.startswith("-") else text
    if isinstance(expression, sympy.Integer):
        return _integer(int(expression))
    if dialect is _DOUBLE and expression.is_integer:
        return f"static_cast<double>({bare(_spell(expression, names, _INT64))})"
    if isinstance(expression, (sympy.logic.boolalg.BooleanTrue, sympy.logic.boolalg.BooleanFalse)):
        return "true" if expression else "false"
    kind = type(expression).__name__
    if kind in ("floor", "ceiling"):
        return _spell(_quotient(kind, expression), names, dialect)
    rule = dialect.rules.get(kind)
    if rule is None:
        raise UnsupportedOpError(f"{expression} has {kind}, which {dialect.what}")
    whole = dialect is not _DOUBLE and kind in ("Add", "Mul", "Pow")
    if whole and not (expression.is_integer and all(each.is_integer for each in expression.args)):
        raise UnsupportedOpError(f"{expression} is not computed with integers alone, which {dialect.what}")
    arguments = sorted(expression.args, key=sympy.default_sort_key) if kind in _COMMUTING else expression.args
    if kind == "Piecewise":
        arguments = [part for pair in expression.args for part in pair.args]
    if isinstance(expression, sympy.core.relational.Relational) and not all(each.is_integer for each in arguments):
        dialect = _DOUBLE
    return rule(*(_spell(part, names, dialect) for part in arguments))


def _integer(value: int) -> str:
    if not _LEAST <= value <= _MOST:
        raise UnsupportedOpError(f"{value} does not fit 64 bits")
    if value == _LEAST:
        return "INT64_MIN"  # C++ reads the sign apart from the number
    return str(value) if value >= 0 else f"({value})"


def _quotient(kind: str, expression: sympy.Basic) -> sympy.Basic:
    """floor or ceiling of a fraction, as a division of integers."""
    from torch.utils._sympy.functions import FloorDiv

    numerator, denominator = sympy.fraction(sympy.together(expression.args[0]))
    if kind == "floor":
        return FloorDiv(numerator, denominator)
    return -FloorDiv(-numerator, denominator)


def _joined(operator: str) -> Callable[..., str]:
    return lambda *parts: f"({f' {operator} '.join(parts)})"


def _sum(*parts: str) -> str:
    """Terms with a minus sign are subtracted; they stand behind the others."""
    negative = [part for part in parts if part.startswith("(-")]
    positive = [part for part in parts if not part.startswith("(-")]
    text = " + ".join(positive) if positive else "0"
    return f"({text}{''.join(f' - {part[2:-1]}' for part in negative)})"


def _product(*parts: str) -> str:
    negative = "(-1)" in parts
    rest = [part for part in parts if part != "(-1)"]
    text = " * ".join(rest)
    if negative:
        return f"(-{text if len(rest) == 1 else f'({text})'})"
    return f"({text})"


def _nested(function: str) -> Callable[..., str]:
    """A function of two as one of several."""

    def spell(*parts: str) -> str:
        text = parts[-1]
        for part in reversed(parts[:-1]):
            text = f"{function}({bare(part)}, {bare(text)})"
        return text

    return spell


def _call(function: str) -> Callable[..., str]:
    return lambda *parts: f"{function}({', '.join(map(bare, parts))})"


def _choice(*parts: str) -> str:
    """Piecewise, whose arguments are values and conditions in turn; the last condition holds where no other does."""
    text = parts[-2]
    for value, condition in reversed(list(zip(parts[:-2:2], parts[1:-2:2], strict=True))):
        text = f"({condition} ? {value} : {text})"
    return text


def _same(part: str) -> str:
    return part


_COMMUTING = {"Add", "Mul", "Max", "Min", "And", "Or"}

_INT64 = _Dialect(
    "generated code cannot compute",
    {
        "Add": _sum,
        "Mul": _product,
        "Pow": _call("triton::power"),
        "PowByNatural": _call("triton::power"),
        "FloorDiv": _call("triton::floor_div"),
        "CleanDiv": _call("triton::floor_div"),
        "CeilDiv": _call("triton::ceil_div"),
        "Mod": _call("triton::floor_mod"),
        "PythonMod": _call("triton::floor_mod"),
        "ModularIndexing": lambda base, divisor, modulus: (
            f"triton::floor_mod(triton::floor_div({base}, {divisor}), {modulus})"
        ),
        "Max": _nested("triton::max"),
        "Min": _nested("triton::min"),
        "Abs": _call("triton::absolute"),
        "Identity": _same,
        "ToFloat": _call("static_cast<double>"),
        "IntTrueDiv": _call("triton::true_div"),
        "FloorToInt": lambda value: f"static_cast<int64_t>(std::floor({value}))",
        "CeilToInt": lambda value: f"static_cast<int64_t>(std::ceil({value}))",
        "TruncToInt": _call("static_cast<int64_t>"),
        "LShift": lambda base, shift: f"({base} * triton::power(2, {shift}))",
        "RShift": lambda base, shift: f"triton::floor_div({base}, triton::power(2, {shift}))",
        "Where": lambda condition, yes, no: f"({condition} ? {yes} : {no})",
        "Piecewise": _choice,
        "Equality": _joined("=="),
        "Unequality": _joined("!="),
        "StrictLessThan": _joined("<"),
        "LessThan": _joined("<="),
        "StrictGreaterThan": _joined(">"),
        "GreaterThan": _joined(">="),
        "And": _joined("&&"),
        "Or": _joined("||"),
        "Not": lambda condition: f"(!{condition})",
    },
)

# Of floats. What is an integer within is computed as one.
_DOUBLE = _Dialect(
    "generated code cannot compute",
    {
        "Add": _sum,
        "Mul": _joined("*"),
        "Pow": _call("triton::float_power"),
        "FloatPow": _call("triton::float_power"),
        "FloatTrueDiv": _call("triton::divide"),
        "IntTrueDiv": _call("triton::divide"),
        "OpaqueUnaryFn_sqrt": _call("std::sqrt"),
        "Max": _nested("std::fmax"),
        "Min": _nested("std::fmin"),
        "Abs": _call("std::fabs"),
        "Identity": _same,
        "ToFloat": _same,
    },
)

# Beside numbers, every argument is a Dim: a function of two finds bridge's by one of them.
_DIM = _Dialect(
    "TensorRT cannot compute for a shape",
    {
        "Add": _joined("+"),
        "Mul": _joined("*"),
        "FloorDiv": _call("floor_div"),
        "CleanDiv": _call("floor_div"),
        "CeilDiv": _call("ceil_div"),
        "Mod": lambda a, b: f"({a} - floor_div({a}, {b}) * {b})",
        "PythonMod": lambda a, b: f"({a} - floor_div({a}, {b}) * {b})",
        "ModularIndexing": lambda base, divisor, modulus: (
            f"(floor_div({base}, {divisor}) - floor_div({base}, Dim({divisor}) * {modulus}) * {modulus})"
        ),
        "Max": _nested("max"),
        "Min": _nested("min"),
        "Identity": _same,
        "Pow": lambda base, exponent: _repeated(base, exponent),
        "PowByNatural": lambda base, exponent: _repeated(base, exponent),
    },
)


def _repeated(base: str, exponent: str) -> str:
    if not exponent.isdigit() or not 0 < int(exponent) <= 8:
        raise UnsupportedOpError(f"{base} to the power of {exponent}, which TensorRT cannot compute for a shape")
    return f"({' * '.join([base] * int(exponent))})"
