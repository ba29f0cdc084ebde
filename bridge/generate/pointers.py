"""The pointers of a program's steps."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from bridge.generate.program import Argument, Copy, Pointer, Step, Zero


def pointers_of(step: Step) -> Iterator[Pointer]:
    """All of a step's."""
    if isinstance(step, Zero):
        yield step.pointer
    elif isinstance(step, Copy):
        yield from (step.source, step.target)
    else:
        yield from (each.value for each in step.arguments if isinstance(each.value, Pointer))


def moved(step: Step, places: Mapping[tuple[str, int], Pointer]) -> Step:
    """A step with its pointers elsewhere. places: by kind and index of a pointer; others stay."""

    def move(pointer: Pointer) -> Pointer:
        base = places.get((pointer.kind, pointer.index))
        return pointer if base is None else dataclasses.replace(base, offset=base.offset + pointer.offset)

    if isinstance(step, Zero):
        return dataclasses.replace(step, pointer=move(step.pointer))
    if isinstance(step, Copy):
        return dataclasses.replace(step, source=move(step.source), target=move(step.target))
    return dataclasses.replace(step, arguments=tuple(_moved_argument(each, move) for each in step.arguments))


def _moved_argument(argument: Argument, move: Callable[[Pointer], Pointer]) -> Argument:
    if not isinstance(argument.value, Pointer):
        return argument
    return dataclasses.replace(argument, value=move(argument.value))
