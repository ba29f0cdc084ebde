"""Calls of an engine whose shapes change: which execution context runs them, and what is kept."""

import ctypes
import itertools
import types

import pytest
import torch
from four_dtypes import build, check, inputs

from bridge.engine_file.contents import TensorSpec
from bridge.tensorrt.run.context import Scratch
from bridge.tensorrt.run.engine import Engine
from bridge.tensorrt.run.shape_contexts import CHANGES, CONTEXTS, IDLE, ShapeContexts


class FakeContext:
    """Notes the shapes that it runs."""

    def __init__(self, static_outputs, scratch):
        self.shapes, self.captured, self.scratch, self.runs, self.forgotten = None, False, scratch, [], 0

    def keep_shapes(self, shapes):
        if shapes == self.shapes:
            self.shapes = shapes

    def forget_outputs(self):
        self.forgotten += 1

    def run(self, shapes, inputs):
        changed, self.shapes = shapes is not self.shapes, shapes
        self.runs.append((shapes[0][0], changed))
        return (id(self),)


@pytest.fixture
def made(monkeypatch):
    """A function that makes (contexts, their fakes in the order of making) of an engine of some flavour."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def make(compiles_kernels=True):
        fakes = []

        def new_context(**settings):
            fakes.append(FakeContext(**settings))
            return fakes[-1]

        spec = TensorSpec("x", "float32", (1,), (4,), (4096,))
        engine = types.SimpleNamespace(
            device=torch.device("cpu"),
            file=types.SimpleNamespace(inputs=(spec,)),
            flavour=types.SimpleNamespace(traits=types.SimpleNamespace(compiles_kernels=compiles_kernels)),
            new_context=new_context,
        )
        return ShapeContexts(engine), fakes

    return make


def call(contexts, *extents):
    """The ids of the contexts that ran calls with these extents."""
    return [contexts._call((torch.empty(extent),))[0] for extent in extents]


def test_one_shape_takes_one_context(made):
    contexts, fakes = made()
    call(contexts, *[5] * 100)
    assert len(fakes) == 1 and fakes[0].runs == [(5, True)] + [(5, False)] * 99


def test_shapes_that_come_again_change_no_context(made):
    contexts, fakes = made()
    call(contexts, *[2, 3, 4] * 3)
    seen = [len(fake.runs) for fake in fakes]
    assert sum(seen) == 9 and len(fakes) <= 4
    call(contexts, *[2, 3, 4] * 20)
    settled = [run for fake, count in zip(fakes, seen, strict=True) for run in fake.runs[count:]]
    assert len(settled) == 60 and not any(changed for _, changed in settled)
    assert all(fake.scratch is fakes[0].scratch for fake in fakes), "they run one after the other"


def test_shapes_that_never_come_again_take_one_context_which_is_made_anew(made):
    contexts, fakes = made()
    call(contexts, *range(1, 3 * CHANGES + 1))
    assert [len(fake.runs) for fake in fakes] == [CHANGES] * 3
    contexts, fakes = made(compiles_kernels=False)
    call(contexts, *range(1, 3 * CHANGES + 1))
    assert len(fakes) == 1, "standard TensorRT keeps nothing for a change"


def test_more_shapes_than_contexts_make_no_context_for_each_call(made):
    contexts, fakes = made(compiles_kernels=False)
    call(contexts, *list(range(1, 3 * CONTEXTS)) * 10)
    assert len(fakes) == 1 + CONTEXTS


def test_contexts_out_of_use_give_their_place(made):
    contexts, fakes = made(compiles_kernels=False)
    old, new = range(1, CONTEXTS + 2), range(100, 100 + CONTEXTS)
    call(contexts, *list(old) * 2)
    fakes[1].captured = True
    call(contexts, *[1] * IDLE)
    full = len(fakes)
    call(contexts, *list(new) * 3)
    assert len(fakes) > full
    assert contexts._captured == [fakes[1]] or fakes[1] in [own.context for own in contexts._contexts.values()]
    assert len(contexts._contexts) == CONTEXTS


def test_a_capture_makes_no_context(made, monkeypatch):
    contexts, fakes = made()
    call(contexts, 2, 3)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    call(contexts, 2, *range(10, 10 + 2 * CHANGES))
    assert len(fakes) == 1


def test_what_a_capture_holds_outlives_its_place(made):
    contexts, fakes = made()
    call(contexts, 1)
    fakes[0].captured = True
    call(contexts, *range(2, 2 * CHANGES))
    assert len(fakes) == 2 and contexts._captured == [fakes[0]]


def test_outputs_of_another_context_are_not_those_of_the_call_before(made):
    contexts, fakes = made()
    first, second, third = call(contexts, 2, 3, 2)
    assert first == second != third
    before = fakes[1].forgotten
    call(contexts, 2, 2)
    assert fakes[1].forgotten == before
    call(contexts, 3, 2)
    assert fakes[1].forgotten == before + 1


def test_scratch_memory_grows_and_stays():
    scratch = Scratch.__new__(Scratch)
    scratch._device, scratch.memory, scratch.address = torch.device("cpu"), None, 0
    small = scratch.provide(0)
    assert small and scratch.memory.numel() == 1
    large = scratch.provide(1 << 20)
    assert large == scratch.provide(5) == scratch.address and scratch.memory.numel() == 1 << 20


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("static_outputs", [False, True])
def test_results_in_any_order_of_shapes(make_engine_file, static_outputs):
    engine = Engine(make_engine_file(**build()), static_outputs=static_outputs)
    streams = [torch.cuda.Stream(), torch.cuda.default_stream()]
    pairs = [inputs(1 + extent, seed=extent) for extent in range(CONTEXTS + 4)]
    torch.cuda.synchronize()
    for step, place in enumerate(itertools.islice(itertools.cycle([*range(len(pairs)), 3, 1, 3, 3, 0, 1]), 300)):
        with torch.cuda.stream(streams[step // 7 % 2]):
            check([output.clone() for output in engine(*pairs[place])], *pairs[place])


@pytest.mark.gpu(engines=True)
def test_host_memory_is_level_while_shapes_change(make_engine_file):
    """TensorRT-RTX keeps 5 KB for each change of shapes: 9,000 of them are 45 MB."""
    from soak import memory

    trim = ctypes.CDLL("libc.so.6").malloc_trim  # gives back what is free
    engine = Engine(make_engine_file(**build()))
    pairs = [inputs(1 + extent) for extent in range(60)]
    for pair in pairs * 20:
        engine(*pair)
    torch.cuda.synchronize()
    trim(0)
    before = memory()[0]
    for pair in pairs * 200:
        engine(*pair)
    torch.cuda.synchronize()
    trim(0)
    assert memory()[0] - before < 20 << 20
