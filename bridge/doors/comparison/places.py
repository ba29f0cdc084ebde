"""Where in its profile a plugin is compared: at the least, tuned and greatest extents, and odd ones between."""

import itertools
import math
from collections.abc import Iterator

from bridge.generate.program import Instance, TensorType
from bridge.generate.tracing.regions import Point, axes_of, point_at
from bridge.generate.tracing.symbols import evaluate
from bridge.generate.tracing.trace import Axis, Call

_BETWEEN = (1 / 3, 2 / 3)  # of the way from the least extent to the greatest, as factors


def points(call: Call, instance: Instance, most: int, small: int) -> list[Point]:
    """Points in a call's profile with no empty tensor, those of the fewest elements first.

    most: elements of all inputs and outputs. A point with more moves towards the least one; the greatest has another
    beside it with at most `small` elements.
    """
    axes = axes_of(call)
    found: dict[tuple[int, ...], Point] = {}
    for place, limit in itertools.product(_places(axes), (small, most)):
        point = _within(call, instance, axes, place, limit)
        if point is not None:
            found[tuple(point.values())] = point
    return sorted(found.values(), key=lambda point: elements(instance, point))


def elements(instance: Instance, point: Point) -> int:
    """How many elements all inputs and outputs have together."""
    return sum(math.prod(shape_at(each, point)) for each in _tensors(instance))


def shape_at(tensor: TensorType, point: Point) -> tuple[int, ...]:
    """A tensor's extents."""
    return tuple(evaluate(extent, point) for extent in tensor.shape)


def _tensors(instance: Instance) -> list[TensorType]:
    return [each for each in (*instance.inputs, *instance.outputs) if each is not None]


def _places(axes: tuple[Axis, ...]) -> Iterator[tuple[int, ...]]:
    yield tuple(max(axis.low, 1) for axis in axes)
    for first in range(len(_BETWEEN)):
        yield tuple(_odd(axis, _BETWEEN[(first + place) % len(_BETWEEN)]) for place, axis in enumerate(axes))
    yield tuple(axis.example for axis in axes)
    yield tuple(axis.high for axis in axes)


def _odd(axis: Axis, share: float) -> int:
    low = max(axis.low, 1)
    between = round(low * (axis.high / low) ** share) | 1
    return between if between <= axis.high else axis.high


def _within(call: Call, instance: Instance, axes: tuple[Axis, ...], place: tuple[int, ...], limit: int) -> Point | None:
    """A place as a point: its greatest extents are halved until there are few enough elements. None: there is none."""
    extents = list(place)
    least = [max(axis.low, 1) for axis in axes]
    while elements(instance, point := point_at(call, tuple(extents))) > limit:
        larger = [index for index, extent in enumerate(extents) if extent > least[index]]
        if not larger:
            return None
        longest = max(larger, key=lambda index: extents[index])
        extents[longest] = max(extents[longest] // 2, least[longest])
    return point if _can_run(instance, point) else None


def _can_run(instance: Instance, point: Point) -> bool:
    """Whether the plugin has kernels for a point, and every tensor has elements."""
    return instance.region_at(point) is not None and all(math.prod(shape_at(e, point)) for e in _tensors(instance))
