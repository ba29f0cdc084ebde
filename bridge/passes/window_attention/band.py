"""From the formula of a mask to the window that it shows, or the reason why it shows none.

A mask shows a window where key j is visible to the query at position p if, and only if, -left <= j - p <= right. The
queries are at the end of the keys: p = i + T - S. With j = p + d the mask's condition is a Boolean combination of
comparisons; if they compare d alone with constants, a few values of d decide about all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from bridge.passes.window_attention.formulas import axis, expression, is_one

UNLIMITED = -1
_DISTANCE = sympy.Symbol("d", integer=True)


class NoWindow(Exception):
    """Why a mask shows no window."""


@dataclass(frozen=True)
class Window:
    """How many keys before and after its own position a query sees; -1: all of them."""

    left: int
    right: int

    def hides_earlier(self, keys: int | None) -> bool:
        """Whether it hides more of `keys` keys than causal attention does. None: any number of keys."""
        reaches = [side == UNLIMITED or (keys is not None and side >= keys - 1) for side in (self.left, self.right)]
        return not (reaches[0] and (reaches[1] or self.right == 0))


def window_of(condition: Any, shape: Sequence[Any]) -> Window:
    """The window of the keys that are visible under a condition on the indices of logits [..., S, T]."""
    rank = len(shape)
    query = sympy.Integer(0) if is_one(shape[-2]) else axis(rank - 2)
    position = query + expression(shape[-1]) - expression(shape[-2])
    by_distance = _expanded(condition.xreplace({axis(rank - 2): query, axis(rank - 1): position + _DISTANCE}))
    return _of_distances(by_distance)


def compares_positions(condition: Any, shape: Sequence[Any]) -> bool:
    """Whether a condition compares queries with keys otherwise than to hide later keys."""
    rank = len(shape)
    comparisons = (each for each in _comparisons(condition) if each.has(axis(rank - 2)) and each.has(axis(rank - 1)))
    return not all(_is_causal(each, shape) or _is_causal(sympy.Not(each), shape) for each in comparisons)


def _is_causal(condition: Any, shape: Sequence[Any]) -> bool:
    try:
        return window_of(condition, shape) == Window(UNLIMITED, 0)
    except NoWindow:
        return False


def _expanded(condition: Any) -> Any:
    """The condition with the difference of the two sides of each comparison multiplied out."""
    return condition.xreplace({each: each.func((each.lhs - each.rhs).expand(), 0) for each in _comparisons(condition)})


def _comparisons(condition: Any) -> set[Any]:
    return condition.atoms(sympy.core.relational.Relational)


def _of_distances(condition: Any) -> Window:
    """The window of a condition on the distance. It can change next to a comparison's turn alone."""
    _check_symbols(condition)
    turns = {turn for each in _comparisons(condition) for turn in _turns(each)}
    places = sorted({turn + step for turn in turns for step in (-1, 0, 1)}) or [0]
    seen = [bool(condition.xreplace({_DISTANCE: sympy.Integer(place)})) for place in places]
    if not any(seen):
        raise NoWindow("its mask shows no key")
    first, last = seen.index(True), len(seen) - 1 - seen[::-1].index(True)
    if not all(seen[first : last + 1]):
        raise NoWindow("its mask hides keys between those that it shows")
    from_start, to_end = first == 0, last == len(seen) - 1
    if not (from_start or places[first] <= 0) or not (to_end or places[last] >= 0):
        raise NoWindow("its mask hides a query's own position")
    return Window(UNLIMITED if from_start else -places[first], UNLIMITED if to_end else places[last])


def _check_symbols(condition: Any) -> None:
    """NoWindow: the condition depends on something besides the distance."""
    unknown = {each.func.__name__ for each in condition.atoms(sympy.core.function.AppliedUndef)}
    if unknown:
        raise NoWindow(f"its mask depends on the values of {', '.join(sorted(unknown))}")
    others = sorted(map(str, condition.free_symbols - {_DISTANCE}))
    if others:
        raise NoWindow("its mask does not depend on the distance of key and query alone")


def _turns(comparison: Any) -> tuple[int, int]:
    """The integers next to where a comparison of the distance with a constant changes."""
    slope = comparison.lhs.coeff(_DISTANCE, 1)
    rest = (comparison.lhs - slope * _DISTANCE).expand()
    if not (slope.is_Integer and rest.is_Integer) or slope == 0:
        raise NoWindow(f"its mask compares positions otherwise than by their distance: {comparison}")
    turn = -rest / slope
    return int(sympy.floor(turn)), int(sympy.ceiling(turn))
