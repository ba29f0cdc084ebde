"""Calls whose shapes change: shapes that come again get an execution context of their own."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bridge.tensorrt.run.context import Context, Scratch
from bridge.tensorrt.run.input_check import InputCheck

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine

CONTEXTS = 16  # of one combination of shapes each
IDLE = 1000  # calls without use, after which such a context gives its place to other shapes
CHANGES = 128  # of shapes, after which the context for all others is made anew
_REMEMBERED = 64  # combinations of shapes that have no context of their own

Shapes = tuple[torch.Size, ...]


@dataclass
class _Own:
    """A context of one combination of shapes."""

    context: Context
    used: int  # number of the last call


class ShapeContexts:
    """An engine for one thread at a time, called like it.

    The first run after a change of shapes is slow, and TensorRT-RTX keeps host memory for it until the context goes:
    on an H200 with 1.6.1, 0.2 ms and 5 KB for a small engine, 1 ms and 200 KB for a ResNet-50. A context whose shapes
    never change pays neither.
    """

    def __init__(self, engine: "Engine", static_outputs: bool = False) -> None:
        self._engine = engine
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._static_outputs = static_outputs
        self._scratch = Scratch(engine.device)
        self._calls = 0
        self._own: OrderedDict[Shapes, _Own] = OrderedDict()  # in the order of their last use
        self._remembered: OrderedDict[Shapes, None] = OrderedDict()
        self._captured: list[Context] = []  # graphs of the caller's hold runs of these
        self._roaming = self._new()  # for all other shapes
        self._changes = 0
        self._current: _Own | None = None
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
            self._turn_to(shapes)
        context = self._current.context if self._current else self._roaming
        return context.run(shapes, inputs)

    def _turn_to(self, shapes: Shapes) -> None:
        if self._current:
            self._current.used = self._calls
        before, self._current = self._current, self._find(shapes)
        context = self._current.context if self._current else self._roaming
        if before is not self._current:
            context.forget_outputs()  # the last call's are another context's
        context.keep_shapes(shapes)
        self._shapes = shapes

    def _find(self, shapes: Shapes) -> _Own | None:
        """The context of these shapes, perhaps a new one; None: the roaming one."""
        if shapes == self._roaming.shapes:
            return None
        if shapes in self._own:
            self._own.move_to_end(shapes)
            return self._own[shapes]
        capturing = torch.cuda.is_current_stream_capturing()  # which allows no new context
        if self._came_before(shapes) and not capturing and self._has_room():
            del self._remembered[shapes]
            return self._own.setdefault(shapes, _Own(self._new(), self._calls))
        self._changes += 1
        if self._changes > CHANGES and not capturing and self._engine.flavour.kind.compiles_kernels:
            self._let_go(self._roaming)
            self._roaming, self._changes = self._new(), 1
        return None

    def _came_before(self, shapes: Shapes) -> bool:
        known = shapes in self._remembered
        self._remembered[shapes] = None
        self._remembered.move_to_end(shapes)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return known

    def _has_room(self) -> bool:
        """Whether there is room for a further context, which one out of use may have to make."""
        if len(self._own) < CONTEXTS:
            return True
        shapes, oldest = next(iter(self._own.items()))
        if self._calls - oldest.used < IDLE:
            return False
        del self._own[shapes]
        self._let_go(oldest.context)
        return True

    def _let_go(self, context: Context) -> None:
        if context.captured:
            self._captured.append(context)

    def _new(self) -> Context:
        return self._engine.new_context(static_outputs=self._static_outputs, scratch=self._scratch)
