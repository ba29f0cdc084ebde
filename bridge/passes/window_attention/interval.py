"""From the condition of a mask to an interval of keys that differs from query to query, or from sequence to sequence.

Such are lengths of padded sequences, chunks, and the positions of a static cache: And of a window and of bounds on the
key, which hold no other index of keys. bridge.window_attention takes them as `key_ranges`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from bridge.passes.window_attention.band import UNLIMITED, NoWindow, Window, window_of
from bridge.passes.window_attention.formulas import axis, expression

_HEAD, _KEY = axis(1), axis(3)


@dataclass(frozen=True)
class Interval:
    """Keys within the window that are at or after each of `begins`, and before each of `ends`.

    shows_own: every query sees the key at its own position, so that none is without keys.
    """

    window: Window
    begins: tuple[Any, ...]
    ends: tuple[Any, ...]
    shows_own: bool


def interval_of(condition: Any, shape: Sequence[Any], of_chunks: bool = True) -> Interval | None:
    """The interval that a condition on the indices of logits [B, H, S, T] shows; None for other sets of keys.

    of_chunks: bounds may be begins and ends of chunks of keys, by their numbers.
    """
    window, begins, ends = sympy.true, list[Any](), list[Any]()
    for part in sympy.And.make_args(sympy.to_nnf(condition, simplify=False)):  # of ~(a | b), ~a and ~b
        if _is_window(part, shape):
            window = sympy.And(window, part)
            continue
        bounds = _bounds(part) or (_bounds_of_chunks(part) if of_chunks else None)
        if bounds is None or any(each.has(_KEY, _HEAD) for each in bounds if each is not None):
            return None
        begins += [bounds[0]] if bounds[0] is not None else []
        ends += [bounds[1]] if bounds[1] is not None else []
    own = axis(2) + expression(shape[-1]) - expression(shape[-2])
    shows_own = condition.xreplace({_KEY: own}) == sympy.true
    both = Window(UNLIMITED, UNLIMITED) if window == sympy.true else window_of(window, shape)
    return Interval(both, tuple(begins), tuple(ends), shows_own)


def _is_window(part: Any, shape: Sequence[Any]) -> bool:
    try:
        window_of(part, shape)
    except NoWindow:
        return False
    return True


def _bounds(part: Any) -> tuple[Any, Any] | None:
    """The first key that a comparison shows, and the key after the last one; None in the place of no bound."""
    if isinstance(part, sympy.Eq):
        return _chunk(part.lhs, part.rhs) or _chunk(part.rhs, part.lhs)
    if not isinstance(part, (sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)):
        return None
    difference = (part.lhs - part.rhs).expand()
    slope = difference.coeff(_KEY, 1)
    if not slope.is_Rational or abs(slope.p) != 1:  # 1 / n of a chunk's number, which sympy compares without its floor
        return None
    limit = (_KEY - difference / slope).expand()  # the key is compared with it
    if not limit.is_integer:
        return None
    at_least = isinstance(part, (sympy.Gt, sympy.Ge)) == (slope > 0)
    strict = isinstance(part, (sympy.Gt, sympy.Lt))
    return (limit + int(strict), None) if at_least else (None, limit + int(not strict))


def _chunk(side: Any, other: Any) -> tuple[Any, Any] | None:
    """Of floor((key - start) / size) == other."""
    if not isinstance(side, sympy.floor):
        return None
    slope = side.args[0].expand().coeff(_KEY, 1)
    if not slope.is_Rational or slope <= 0 or slope.p != 1:
        return None
    size = sympy.Integer(slope.q)
    start = (_KEY - size * side.args[0]).expand()
    first = (size * other + start).expand()
    return first, first + size


def _bounds_of_chunks(part: Any) -> tuple[Any, Any] | None:
    """The bounds of a comparison of a chunk's number, floor((key - start) / size), with a whole number."""
    if not isinstance(part, (sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)):
        return None
    difference = (part.lhs - part.rhs).expand()
    numbers = [each for each in difference.atoms(sympy.floor) if each.has(_KEY)]
    slope = difference.coeff(numbers[0], 1) if len(numbers) == 1 else None
    if slope not in (1, -1):
        return None
    limit = (-slope * (difference - slope * numbers[0])).expand()  # the number is compared with it
    chunk = _chunk(numbers[0], limit)
    if chunk is None or not limit.is_integer:
        return None
    at_least = isinstance(part, (sympy.Gt, sympy.Ge)) == (slope == 1)
    strict = isinstance(part, (sympy.Gt, sympy.Lt))
    return (chunk[int(strict)], None) if at_least else (None, chunk[int(not strict)])
