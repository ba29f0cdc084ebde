"""Covers a profile with regions: traces at examples until every extent that is tried lies in one.

A trace holds where its guards do. The next example is one that no region takes: on each axis, and in the corners, the
places where a guard's truth changes are found by bisection, and they and their neighbours are tried.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch

from bridge.errors import UnsupportedOpError
from bridge.generate.program import Instance, Region, Symbol, TensorType
from bridge.generate.tracing.trace import Axis, Call, Traced, trace

MOST_REGIONS = 64
_MOST_PLACES = 4096  # combinations of extents that are tried at a time
_RANDOM_PLACES = 512

Point = Mapping[sympy.Symbol, int]
"""Symbols' values."""
Place = tuple[int, ...]
"""Values of the axes."""


def cover(call: Call) -> Instance:
    """The instance of a call, for every extent of its symbols' ranges.

    UnsupportedOpError: the body cannot become a plugin at the example, outputs differ in kind between regions, or
    there are too many regions.
    """
    traced = [trace(call, {each.symbol: each.example for each in call.symbols})]
    tolerated: set[Place] = set()
    truth = _Truth()
    while (place := _uncovered(call, [each.region for each in traced], tolerated, truth)) is not None:
        if len(traced) == MOST_REGIONS:
            raise UnsupportedOpError(
                f"{call.operator} needs more than {MOST_REGIONS} versions of its kernels for the profile"
                f" {_profile_text(call.symbols)}: narrow it, or let a kernel have what depends on an extent as an"
                " argument that is none of tl.constexpr, and no Python number"
            )
        point = point_at(call, place)
        try:
            traced.append(trace(call, point))
        except UnsupportedOpError as error:
            if all(value >= axis.sure for value, axis in zip(place, axes_of(call), strict=True)):
                extents = _extents_text(call, point)
                raise UnsupportedOpError(
                    f"{error}\nIt can where {extents}, which the profile has, are others."
                ) from error
            tolerated.add(place)
    _check_outputs(call, traced, truth)
    return Instance(
        operator=call.operator,
        inputs=call.inputs,
        schema=call.schema(len(traced[0].outputs)),
        attributes={},
        outputs=traced[0].outputs,
        symbols=call.symbols,
        regions=tuple(_merged([each.region for each in traced])),
    )


def _check_outputs(call: Call, traced: Sequence[Traced], truth: "_Truth") -> None:
    """UnsupportedOpError: a plugin has one rule for its outputs, and the regions have several."""
    first = traced[0]
    for each in traced[1:]:
        if each.outputs == first.outputs:
            continue
        points = (point_at(call, place) for place in _places(call, [one.region for one in traced], truth))
        within = [point for point in points if truth.holds(each.region, point)]
        if any(_at(point, each.outputs) != _at(point, first.outputs) for point in within):
            one, other = (", ".join(f"{o.dtype} {list(o.shape)}" for o in t.outputs) for t in (first, each))
            raise UnsupportedOpError(
                f"{call.operator}: its outputs are {one} for some extents and {other} for others, where"
                f" {' and '.join(map(str, each.region.conditions))}"
            )


def _at(point: Point, outputs: Sequence[TensorType]) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Outputs where symbols have these values."""
    values = {symbol: sympy.Integer(value) for symbol, value in point.items()}
    return [(o.dtype, tuple(int(sympy.sympify(extent).xreplace(values)) for extent in o.shape)) for o in outputs]


def _merged(regions: Sequence[Region]) -> Iterator[Region]:
    """Regions that do the same are one, whose conditions are those of either."""
    kept: list[Region] = []
    for region in regions:
        same = next((i for i, other in enumerate(kept) if _work(other) == _work(region)), None)
        if same is None:
            kept.append(region)
        else:
            either = sympy.Or(sympy.And(*kept[same].conditions), sympy.And(*region.conditions))
            kept[same] = Region((either,), region.buffers, region.steps)
    yield from kept


def _work(region: Region) -> tuple[object, ...]:
    return region.buffers, region.steps


def _uncovered(call: Call, regions: Sequence[Region], tolerated: Collection[Place], truth: "_Truth") -> Place | None:
    """A place that no region takes, and that is not tolerated; None where none was found."""
    if not all(region.conditions for region in regions):
        return None
    for place in _places(call, regions, truth):
        if place not in tolerated:
            point = point_at(call, place)
            if not any(truth.holds(region, point) for region in regions):
                return place
    return None


def axes_of(call: Call) -> tuple[Axis, ...]:
    """What varies: the axes of a model, or of a call without one its symbols."""
    return call.axes or tuple(Axis(s.symbol, s.low, s.high, s.example, s.low) for s in call.symbols)


def point_at(call: Call, place: Place) -> Point:
    """The symbols' values at a place, which has a value of each axis."""
    if not call.axes:
        return {each.symbol: value for each, value in zip(call.symbols, place, strict=True)}
    values = {axis.symbol: sympy.Integer(value) for axis, value in zip(call.axes, place, strict=True)}
    return {each.symbol: int(call.extents[each.symbol].xreplace(values)) for each in call.symbols}


def _places(call: Call, regions: Sequence[Region], truth: "_Truth") -> Iterator[Place]:
    """The places that are tried: all of a small profile; of others where guards change, and some at random."""
    axes = axes_of(call)
    conditions = {c.xreplace(dict(call.extents)) for region in regions for c in region.conditions}
    values = [sorted(_values(each, axes, conditions, truth)) for each in axes]
    while math.prod(map(len, values)) > _MOST_PLACES:
        longest = max(range(len(values)), key=lambda index: len(values[index]))
        values[longest] = values[longest][::2] + values[longest][-1:]
    yield from itertools.product(*values)
    if math.prod(each.high - each.low + 1 for each in axes) <= _MOST_PLACES:
        yield from itertools.product(*(range(each.low, each.high + 1) for each in axes))
        return
    draw = random.Random(0)
    for _ in range(_RANDOM_PLACES):
        yield tuple(draw.randint(each.low, each.high) for each in axes)


def _values(axis: Axis, axes: Sequence[Axis], conditions: Collection[sympy.Basic], truth: "_Truth") -> set[int]:
    """The values of an axis that are tried: its limits, the example, and where a guard changes along it."""
    found = {axis.low, axis.high, axis.example}
    own = [condition for condition in conditions if axis.symbol in condition.free_symbols]
    found |= {int(number) for condition in own for number in condition.atoms(sympy.Integer)}
    others = [
        {each.symbol: getattr(each, which) for each in axes if each is not axis} for which in ("example", "low", "high")
    ]
    for condition, rest in itertools.product(own, others):
        along = functools.partial(truth.at, condition, axis.symbol, rest)
        for low, high in itertools.pairwise(sorted({axis.low, axis.example, axis.high})):
            found |= set(_changes(along, low, high))
    near = {value + step for value in found for step in (-1, 0, 1)}
    return {value for value in near if axis.low <= value <= axis.high}


class _Truth:
    """What conditions are at points. Each is computed once for what it depends on: sympy is slow."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], bool] = {}
        self._symbols: dict[sympy.Basic, tuple[sympy.Symbol, ...]] = {}

    def holds(self, region: Region, point: Point) -> bool:
        """Whether a region takes these extents."""
        return all(self._of(condition, point) for condition in region.conditions)

    def at(self, condition: sympy.Basic, symbol: sympy.Symbol, rest: Point, value: int) -> bool:
        """Whether a condition holds where a symbol has this value, and others those of `rest`."""
        return self._of(condition, {**rest, symbol: value})

    def _of(self, condition: sympy.Basic, point: Point) -> bool:
        if condition not in self._symbols:
            self._symbols[condition] = tuple(condition.free_symbols)
        symbols = self._symbols[condition]
        key = (condition, *(point[symbol] for symbol in symbols))
        if key not in self._known:
            values = {symbol: sympy.Integer(point[symbol]) for symbol in symbols}
            self._known[key] = bool(condition.xreplace(values))
        return self._known[key]


def _changes(truth: Callable[[int], bool], low: int, high: int) -> Iterator[int]:
    """The two sides of a change of truth between two numbers, if it differs at them."""
    if truth(low) == truth(high):
        return
    while high - low > 1:
        middle = (low + high) // 2
        if truth(middle) == truth(low):
            low = middle
        else:
            high = middle
    yield from (low, high)


def _extents_text(call: Call, point: Point) -> str:
    return ", ".join(f"{call.names[s.input]}.shape[{s.axis}] = {point[s.symbol]}" for s in call.symbols)


def _profile_text(symbols: Sequence[Symbol]) -> str:
    return ", ".join(f"input {each.input} axis {each.axis}: {each.low} to {each.high}" for each in symbols)
