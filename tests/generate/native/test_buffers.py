"""Scratch memory of a region: what shares it, and what must not."""

import itertools

import pytest
import sympy
import torch

from bridge.generate.native.buffers import with_shared_buffers
from bridge.generate.program import Buffer, Copy, Instance, Pointer, Region, Symbol, TensorType, Zero

N, M = sympy.symbols("n m", integer=True, positive=True)
IN, OUT = Pointer("input", 0), Pointer("output", 0)


def buffer(index, offset=0):
    return Pointer("buffer", index, offset)


def chain(*pointers):
    """Each copied to the next one."""
    return [Copy(a, b, 4) for a, b in itertools.pairwise(pointers)]


def shared(sizes, steps, low=1, high=64):
    symbols = tuple(Symbol(each, 0, axis, low, high, high) for axis, each in enumerate((N, M)))
    region = Region((), tuple(map(Buffer, sizes)), tuple(steps))
    tensor = TensorType(torch.float32, (N, M))
    instance = Instance("a::b", "b(Tensor x) -> Tensor", (tensor,), {}, (tensor,), symbols, (region,))
    (region,) = with_shared_buffers(instance).regions
    return [each.bytes for each in region.buffers], region.steps


def test_a_chain_of_temporaries_of_one_size_needs_two():
    sizes, steps = shared([4 * N] * 5, chain(IN, *map(buffer, range(5)), OUT))
    assert sizes == [4 * N] * 2
    assert [step.target for step in steps] == [*map(buffer, (0, 1, 0, 1, 0)), OUT]
    assert [step.source for step in steps] == [IN, *map(buffer, (0, 1, 0, 1, 0))]


@pytest.mark.parametrize(
    ("first", "third", "expected"),
    [
        (4 * N, 8 * N, [8 * N, 4]),
        (8 * N * M, 8 * N, [8 * N * M, 4]),  # M is at least 1
        (256, 4 * N, [256, 4]),  # N is at most 64
        (4 * N, 4 * M, [4 * N, 4, 4 * M]),  # either may be the larger one
        (4, 4 * N, [4 * N, 4]),
    ],
)
def test_memory_of_another_size_is_taken_where_it_is_known_to_suffice(first, third, expected):
    sizes, _ = shared([first, 4, third], chain(IN, *map(buffer, range(3)), OUT))
    assert sizes == expected


def test_what_is_read_later_keeps_its_memory():
    steps = [*chain(IN, *map(buffer, range(4)), OUT), Copy(buffer(0, 16), OUT, 4)]
    sizes, steps = shared([64] * 4, steps)
    assert len(sizes) == 3 and steps[-1].source == buffer(0, 16)
    live = {step.target for step in steps[1:4]}
    assert buffer(0) not in live


def test_zeroed_memory_and_offsets_move_along_and_what_nothing_needs_goes():
    steps = [Zero(buffer(1), 64), Copy(buffer(1, 8), OUT, 4), Zero(buffer(2, 4), 4), Copy(buffer(2), OUT, 4)]
    sizes, steps = shared([1 << 30, 64, 64], steps)
    assert sizes == [64]
    assert [getattr(step, "pointer", None) or step.source for step in steps] == [
        buffer(0), buffer(0, 8), buffer(0, 4), buffer(0)
    ]  # fmt: skip


def test_sizes_beyond_64_bits_are_not_compared():
    sizes, _ = shared([N**8, 4, M**8], chain(IN, *map(buffer, range(3)), OUT), high=1 << 40)
    assert sizes == [N**8, 4, M**8]
