"""Compares a generated plugin with the function that it was made from, in PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bridge.doors.comparison import arguments
from bridge.doors.comparison.arguments import Draw
from bridge.doors.comparison.places import elements, points, shape_at
from bridge.engine.error_metric import Deviation, deviation
from bridge.errors import BuildError
from bridge.generate.program import Instance
from bridge.generate.tracing.regions import Point
from bridge.generate.tracing.trace import Call

SMALL = 1 << 16
"""Elements of a call that is tried on the CPU; the least call of a profile may have MOST_ON_CPU."""
MOST_ON_CPU = 1 << 24
_TOO_LARGE = "its least call is too large to be tried on the CPU, or has an empty tensor"
_DIRT = 85  # what memory of integers holds before a run

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], None]
"""Runs a plugin on inputs and outputs."""


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    shapes: of the inputs, for each call that was compared. error: the largest, as a fraction of the largest value.
    reason: why none can be, else "". Both are empty where the GPU has no memory for any call now.
    """

    shapes: tuple[str, ...]
    error: float = 0.0
    reason: str = ""


class Comparison:
    """A plugin and its function.

    run: runs the plugin, on tensors of `device`. most: elements of all tensors of a call.
    """

    def __init__(self, call: Call, instance: Instance, run: Run, device: torch.device, most: int) -> None:
        self._call = call
        self._instance = instance
        self._run = run
        self._device = device
        self._most = most
        self._reason: Exception | None = None

    def result(self) -> Compared:
        """Compares at several points of the profile. BuildError: a result is wrong; the message says where."""
        every = points(self._call, self._instance, self._most, SMALL)
        tried = self._tried(every)
        draw = next((draw for draw in arguments.DRAWS if self._takes(draw, tried)), None)
        if draw is None or not tried:
            return Compared((), reason=self._why_not() if tried else _TOO_LARGE)
        self._reason = None  # of another draw
        found = {self._text(point): self._error(point, draw) for point in every}
        errors = {shapes: error for shapes, error in found.items() if error is not None}
        return Compared(tuple(errors), max(errors.values(), default=0.0), "" if errors else self._why_not())

    def _tried(self, every: Sequence[Point]) -> list[Point]:
        """The points that are tried on the CPU: the small ones, or the least."""
        limits = [MOST_ON_CPU, *[SMALL] * len(every)]
        return [point for point, most in zip(every, limits, strict=False) if elements(self._instance, point) <= most]

    def _takes(self, draw: Draw, tried: Sequence[Point]) -> bool:
        """Whether the function can be called with such numbers; see `arguments`."""
        for point in tried:
            given = self._inputs(point, draw, torch.device("cpu"))
            if reason := arguments.refusal(self._function, given):
                self._reason = self._reason or reason
                return False
        return True

    def _error(self, point: Point, draw: Draw) -> float | None:
        """The largest error of a call; None: PyTorch cannot compute it here. BuildError: it is too large."""
        try:
            given = self._inputs(point, draw, self._device)
            references = self._references(given)
            if references is None:
                return None
            outputs = self._outputs(point)
            self._run(given, outputs)
            return self._checked(point, given, outputs, *references)
        except torch.OutOfMemoryError:
            return None

    def _checked(
        self,
        point: Point,
        given: Sequence[Tensor],
        outputs: Sequence[Tensor],
        peers: Sequence[Tensor],
        exacts: Sequence[Tensor],
    ) -> float:
        """The largest error of the outputs of a call. BuildError: one is too large."""
        floating = [each.dtype for each in (*given, *outputs) if each.is_floating_point()]
        coarsest = max(floating, key=lambda dtype: torch.finfo(dtype).eps, default=None)
        errors = []
        for index, (ours, peer, exact) in enumerate(zip(outputs, peers, exacts, strict=True)):
            found = deviation(ours, peer, exact, coarsest)
            errors.append(found.error)
            if found.is_wrong:
                raise BuildError(
                    f"{self._call.operator}: its generated plugin gives a wrong result for {self._text(point)}: "
                    f"{_deviation_text(index, ours, found)}"
                )
        return max(errors)

    def _references(self, given: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]] | None:
        """PyTorch's results in the dtypes of a call, and in wider ones; one for the other where it has only one."""
        peer = self._computed(given)
        exact = next((found for each in arguments.wider(given) if (found := self._computed(each))), None)
        first = peer or exact
        return None if first is None else (first, exact or first)

    def _computed(self, given: Sequence[Tensor]) -> list[Tensor] | None:
        try:
            return self._function(given)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # of any kind: the function is the user's
            self._reason = self._reason or error
            return None

    def _function(self, given: Sequence[Tensor]) -> list[Tensor]:
        return list(tree_leaves(self._call.computed(self._call.body, given)))

    def _inputs(self, point: Point, draw: Draw, device: torch.device) -> list[Tensor]:
        kinds = [kind for kind in self._instance.inputs if kind is not None]
        return arguments.tensors([(kind, shape_at(kind, point)) for kind in kinds], draw, device)

    def _outputs(self, point: Point) -> list[Tensor]:
        """Memory for them, filled with what no result is."""
        kinds = self._instance.outputs
        dirt = [float("nan") if kind.dtype.is_floating_point else _DIRT for kind in kinds]
        return [
            torch.full(shape_at(kind, point), value, dtype=kind.dtype, device=self._device)
            for kind, value in zip(kinds, dirt, strict=True)
        ]

    def _text(self, point: Point) -> str:
        named = zip(self._call.names, self._instance.inputs, strict=True)
        return ", ".join(f"{name} {_dtype(kind.dtype)} {list(shape_at(kind, point))}" for name, kind in named if kind)

    def _why_not(self) -> str:
        if self._reason is None:
            return ""
        return f"{type(self._reason).__name__}: {str(self._reason).strip().partition(chr(10))[0]}"


def _deviation_text(index: int, ours: Tensor, found: Deviation) -> str:
    return (
        f"output {index}, {_dtype(ours.dtype)}, differs from PyTorch's by {found.error:.2g} of the largest value, where"
        f" rounding explains {found.allowed:.2g}; {found.wrong:,} of {ours.numel():,} elements are wrong"
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
