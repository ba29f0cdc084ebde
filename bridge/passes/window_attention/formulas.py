"""Formulas: one element of a tensor as a function of its indices and of the graph's extents.

The value of a boolean tensor is a condition; that of another is one of several cases, each under a condition. A
value is an exact integer expression, or a number of the tensor's dtype. Formulas hold for all extents, so what follows
from them is proved for every length.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

MOST_CASES = 16
EXACT = (torch.int32, torch.int64)
"""The dtypes of positions: no index or extent is too large for them."""


class Unread(Exception):
    """Why a tensor has no formula."""


@dataclass(frozen=True)
class Formula:
    """One element of a tensor.

    shape: extents, numbers or symbols. cases: pairs (condition, value); exactly one condition holds at each index.
    """

    shape: tuple[Any, ...]
    dtype: torch.dtype
    cases: tuple[tuple[Any, Any], ...]

    @property
    def condition(self) -> Any:
        """Where a boolean tensor is True."""
        return sympy.Or(*(sympy.And(condition, _as_condition(value)) for condition, value in self.cases))

    @property
    def integer(self) -> Any:
        """The one expression of an integer tensor. Unread: there are several, or it is no integer."""
        values = [value for _, value in self.cases]
        if len(values) != 1 or self.dtype not in EXACT:
            raise Unread("an index is not one expression")
        return sympy.sympify(values[0])

    def moved(
        self, shape: Sequence[Any], sources: Mapping[int, Any], others: Mapping[Any, Any] | None = None
    ) -> "Formula":
        """The tensor of another shape whose element is this one's at the indices `sources`, by dimension.

        others: what other symbols become.
        """
        change = {axis(dim): sympy.sympify(index) for dim, index in sources.items()} | dict(others or {})
        cases = ((_substituted(condition, change), _substituted(value, change)) for condition, value in self.cases)
        return formula(shape, self.dtype, cases)

    def broadcast(self, shape: Sequence[Any]) -> "Formula":
        """The tensor expanded to a shape. Unread: it does not provably broadcast to it."""
        lead = len(shape) - len(self.shape)
        sources: dict[int, Any] = {}
        for dim, extent in enumerate(self.shape):
            if is_one(extent):
                sources[dim] = 0
            elif statically_known_true(extent == shape[dim + lead]):
                sources[dim] = axis(dim + lead)
            else:
                raise Unread(f"an extent of {extent} does not provably broadcast to {shape[dim + lead]}")
        return self.moved(shape, sources)


def axis(dim: int) -> Any:
    """The index along a dimension."""
    return sympy.Symbol(f"i{dim}", integer=True, nonnegative=True)


def vmap_index(level: Any) -> Any:
    """The index along the dimension that a level of torch.vmap hides."""
    return sympy.Symbol(f"level{level}", integer=True, nonnegative=True)


def is_one(extent: Any) -> bool:
    """Whether an extent is the number 1."""
    return isinstance(extent, int) and extent == 1


def expression(extent: Any) -> Any:
    """An extent, or another integer of the graph, as an expression. Unread: its value was not traced."""
    if isinstance(extent, torch.SymInt):
        return extent.node.expr
    if isinstance(extent, (bool, int, float)):
        return sympy.Integer(extent) if isinstance(extent, int) and not isinstance(extent, bool) else extent
    raise Unread("a number of the graph was not traced")


def formula(shape: Sequence[Any], dtype: torch.dtype, cases: Iterable[tuple[Any, Any]]) -> Formula:
    """A formula with equal values merged, and without cases that never occur. Unread: there are too many."""
    merged: dict[Any, Any] = {}
    for condition, value in cases:
        key = (isinstance(value, float), str(value))  # as text, -0.0 is not 0.0, and NaN is NaN
        known = merged.get(key, (sympy.false, value))[0]
        merged[key] = (sympy.Or(known, condition), value)
    kept = tuple(pair for pair in merged.values() if pair[0] != sympy.false)
    if len(kept) > MOST_CASES:
        raise Unread(f"it has more than {MOST_CASES} cases")
    return Formula(tuple(shape), dtype, kept)


def constant(shape: Sequence[Any], dtype: torch.dtype, value: Any) -> Formula:
    """The same value everywhere."""
    return formula(shape, dtype, [(sympy.true, value)])


def where(shape: Sequence[Any], condition: Any, on_true: Formula, on_false: Formula) -> Formula:
    """Of formulas of one shape and dtype."""
    cases = [(sympy.And(condition, each), value) for each, value in on_true.cases]
    other = sympy.Not(condition)
    return formula(shape, on_true.dtype, [*cases, *((sympy.And(other, each), value) for each, value in on_false.cases)])


def of_condition(shape: Sequence[Any], condition: Any) -> Formula:
    """The boolean tensor that is True where a condition holds."""
    return formula(shape, torch.bool, [(condition, True), (sympy.Not(condition), False)])


def combined(
    shape: Sequence[Any], dtype: torch.dtype, operands: Sequence[Formula], compute: Callable[..., Any]
) -> Formula:
    """The element-wise result of formulas of one shape: `compute` of the values of each combination of their cases."""
    cases = []
    for chosen in itertools.product(*(operand.cases for operand in operands)):
        condition = sympy.And(*(condition for condition, _ in chosen))
        if condition != sympy.false:
            cases.append((condition, _at_fixed_indices(compute(*(value for _, value in chosen)), condition)))
    if dtype == torch.bool:
        return of_condition(shape, sympy.Or(*(sympy.And(each, _as_condition(value)) for each, value in cases)))
    return formula(shape, dtype, cases)


def plain(element: Tensor) -> Any:
    """The one element of a tensor, as a value of a formula."""
    number = element.item()
    return sympy.Integer(number) if isinstance(number, int) and not isinstance(number, bool) else number


def _as_condition(value: Any) -> Any:
    return sympy.sympify(value) if isinstance(value, (bool, sympy.logic.boolalg.Boolean)) else sympy.Ne(value, 0)


def _at_fixed_indices(value: Any, condition: Any) -> Any:
    """A value with the indices that its condition fixes."""
    parts = condition.args if isinstance(condition, sympy.And) else (condition,)
    return _substituted(
        value, {part.lhs: part.rhs for part in parts if isinstance(part, sympy.Eq) and part.lhs.is_Symbol}
    )


def _substituted(expression: Any, change: Mapping[Any, Any]) -> Any:
    return expression.xreplace(change) if isinstance(expression, sympy.Basic) else expression
