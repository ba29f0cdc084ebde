"""Scratch memory of a region: buffers that are never needed at the same time share it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy

from bridge.errors import UnsupportedOpError
from bridge.generate.native.expressions import Ranges, bounds
from bridge.generate.pointers import moved, pointers_of
from bridge.generate.program import Buffer, Extent, Instance, Pointer, Region


def with_shared_buffers(instance: Instance) -> Instance:
    """The instance with less scratch memory, where one buffer suffices for several over the whole profile."""
    ranges = {each.symbol: (each.low, each.high) for each in instance.symbols}
    return replace(instance, regions=tuple(_shared(each, ranges) for each in instance.regions))


@dataclass
class _Memory:
    """What several buffers share. last: the step that needs it last."""

    bytes: Extent
    last: int


def _shared(region: Region, ranges: Ranges) -> Region:
    lifetimes = _lifetimes(region)
    memories: list[_Memory] = []
    places: dict[tuple[str, int], Pointer] = {}
    for index in sorted(lifetimes, key=lambda each: lifetimes[each]):
        first, last = lifetimes[index]
        place, size = _free(memories, first, region.buffers[index].bytes, ranges)
        if place == len(memories):
            memories.append(_Memory(size, last))
        memories[place] = _Memory(size, last)
        places["buffer", index] = Pointer("buffer", place)
    steps = tuple(moved(step, places) for step in region.steps)
    return replace(region, buffers=tuple(Buffer(each.bytes) for each in memories), steps=steps)


def _lifetimes(region: Region) -> dict[int, tuple[int, int]]:
    """The first and the last step that need a buffer, by its index."""
    found: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(region.steps):
        for pointer in pointers_of(step):
            if pointer.kind == "buffer":
                found[pointer.index] = (found.get(pointer.index, (number, number))[0], number)
    return found


def _free(memories: Sequence[_Memory], first: int, size: Extent, ranges: Ranges) -> tuple[int, Extent]:
    """Memory that is free from a step on, with the bytes that it needs then; that of the same size before others."""
    free = [index for index, each in enumerate(memories) if each.last < first]
    for index in sorted(free, key=lambda each: memories[each].bytes != size):
        enough = _larger(memories[index].bytes, size, ranges)
        if enough is not None:
            return index, enough
    return len(memories), size


def _larger(a: Extent, b: Extent, ranges: Ranges) -> Extent | None:
    """The one that is at least the other for all extents; None: it is not known."""
    difference = sympy.sympify(a) - sympy.sympify(b)
    try:
        low, high = bounds(sympy.factor(difference), ranges)  # a product has closer bounds than a sum
    except UnsupportedOpError:  # beyond 64 bits
        return None
    return a if low >= 0 else b if high <= 0 else None
