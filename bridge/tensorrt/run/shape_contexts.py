"""Calls with changing shapes: shapes that recur get an execution context of their own."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bridge.tensorrt.run.context import Context, Scratch
from bridge.tensorrt.run.input_check import InputCheck

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine

CONTEXTS = 16  # each for one combination of shapes
IDLE = 1000  # a context that was not used for so many calls may be replaced
CHANGES = 128  # the shared context is replaced after so many changes of shapes
_REMEMBERED = 64  # combinations of shapes without a context of their own

Shapes = tuple[torch.Size, ...]


@dataclass
class _ShapeContext:
    """A context for one combination of shapes."""

    context: Context
    used: int  # number of the last call


class ShapeContexts:
    """An engine for one thread at a time, with an execution context for each combination of shapes that recurs.

    The first run after a change of shapes is slow, and TensorRT-RTX allocates host memory until the context is
    destroyed. With 1.6.1 on an H200 that is 0.2 ms and 5 KB for a small engine, 1 ms and 200 KB for a ResNet-50. A
    context whose shapes never change avoids both.
    """

    def __init__(self, engine: "Engine", static_outputs: bool = False) -> None:
        self._engine = engine
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._static_outputs = static_outputs
        self._scratch = Scratch(engine.device)
        self._calls = 0
        self._contexts: OrderedDict[Shapes, _ShapeContext] = OrderedDict()  # in the order of their last use
        self._remembered: OrderedDict[Shapes, None] = OrderedDict()
        self._captured: list[Context] = []  # kept alive: a caller's CUDA graphs hold runs of these
        self._shared = self._new_context()  # for all other shapes
        self._changes = 0
        self._current: _ShapeContext | None = None
        self._shapes: Shapes | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        if torch.cuda.current_device() == self._device.index:
            return self._call(inputs)
        with torch.cuda.device(self._device):
            return self._call(inputs)

    def _call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shapes = self._check.check(inputs)
        self._calls += 1
        if shapes is not self._shapes:
            self._switch_to(shapes)
        context = self._current.context if self._current else self._shared
        return context.run(shapes, inputs)

    def _switch_to(self, shapes: Shapes) -> None:
        if self._current:
            self._current.used = self._calls
        before, self._current = self._current, self._context_for(shapes)
        context = self._current.context if self._current else self._shared
        if before is not self._current:
            context.forget_outputs()  # the last call returned another context's
        context.keep_shapes(shapes)
        self._shapes = shapes

    def _context_for(self, shapes: Shapes) -> _ShapeContext | None:
        """The context of these shapes, perhaps a new one; None means the shared one."""
        if shapes == self._shared.shapes:
            return None
        if shapes in self._contexts:
            self._contexts.move_to_end(shapes)
            return self._contexts[shapes]
        capturing = torch.cuda.is_current_stream_capturing()  # then no context can be created
        if self._seen_before(shapes) and not capturing and self._make_room():
            del self._remembered[shapes]
            return self._contexts.setdefault(shapes, _ShapeContext(self._new_context(), self._calls))
        self._changes += 1
        if self._changes > CHANGES and not capturing and self._engine.flavour.traits.compiles_kernels:
            self._retire(self._shared)
            self._shared, self._changes = self._new_context(), 1
        return None

    def _seen_before(self, shapes: Shapes) -> bool:
        known = shapes in self._remembered
        self._remembered[shapes] = None
        self._remembered.move_to_end(shapes)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return known

    def _make_room(self) -> bool:
        """Whether another context may be created; removes an idle one if need be."""
        if len(self._contexts) < CONTEXTS:
            return True
        shapes, oldest = next(iter(self._contexts.items()))
        if self._calls - oldest.used < IDLE:
            return False
        del self._contexts[shapes]
        self._retire(oldest.context)
        return True

    def _retire(self, context: Context) -> None:
        if context.captured:
            self._captured.append(context)

    def _new_context(self) -> Context:
        return self._engine.new_context(static_outputs=self._static_outputs, scratch=self._scratch)
