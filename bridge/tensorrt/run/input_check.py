"""What an engine takes: tensors are checked here, before TensorRT sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file.contents import TensorSpec
from bridge.errors import EngineInputError


@dataclass(frozen=True)
class _Row:
    """An input, with what each call needs of it made ready."""

    spec: TensorSpec
    dtype: torch.dtype
    bounds: list[tuple[int, int, int]]


class InputCheck:
    """The inputs of an engine on one device; for one thread at a time, since it remembers the last that were right."""

    def __init__(self, specs: tuple[TensorSpec, ...], device: torch.device) -> None:
        self._device = device
        self._passed: list[Any] | None = None
        self._shapes: tuple[torch.Size, ...] = ()
        self._rows = [_Row(spec, getattr(torch, spec.dtype), _bounds(spec)) for spec in specs]

    def check(self, tensors: Sequence[Any]) -> tuple[torch.Size, ...]:
        """The shapes of the inputs; the same tuple as before if they are all like those of the last call.

        EngineInputError: one is not what the engine takes.
        """
        try:
            found = [(tensor.shape, tensor.dtype, tensor.device, tensor.layout) for tensor in tensors]
        except AttributeError:
            found = None
        if found is None or found != self._passed:
            self._shapes = self._check_all(tensors)
            self._passed = found
        return self._shapes

    def _check_all(self, tensors: Sequence[Any]) -> tuple[torch.Size, ...]:
        if len(tensors) != len(self._rows):
            names = ", ".join(row.spec.name for row in self._rows)
            raise EngineInputError(f"the engine takes {len(self._rows)} inputs ({names}), not {len(tensors)}")
        return tuple(map(self._check, tensors, self._rows))

    def _check(self, tensor: Any, row: _Row) -> torch.Size:
        spec = row.spec
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise EngineInputError(f"input {spec.name} is {_what(tensor)}; the engine takes a dense tensor")
        if tensor.dtype != row.dtype:
            wanted = f"pass it as {spec.name}.to(torch.{spec.dtype}), or compile the model for {_name(tensor.dtype)}"
            raise EngineInputError(
                f"input {spec.name} has dtype {_name(tensor.dtype)}; the engine takes {spec.dtype}: {wanted}"
            )
        if tensor.device != self._device:
            raise EngineInputError(
                f"input {spec.name} is on {tensor.device}; the engine runs on {self._device}: "
                f"pass it as {spec.name}.to({str(self._device)!r})"
            )
        shape = tensor.shape
        if len(shape) != len(row.bounds):
            raise EngineInputError(
                f"input {spec.name} has shape {tuple(shape)}, of rank {len(shape)}; "
                f"the engine takes rank {len(row.bounds)}, {_range(spec)}"
            )
        for axis, low, high in row.bounds:
            if not low <= shape[axis] <= high:
                raise EngineInputError(_outside(spec, shape, axis))
        return shape


def _bounds(spec: TensorSpec) -> list[tuple[int, int, int]]:
    """(axis, least, greatest extent) of every dimension."""
    return [(axis, low, high) for axis, (low, high) in enumerate(zip(spec.min, spec.max, strict=True))]


def _name(dtype: torch.dtype | torch.layout) -> str:
    return str(dtype).removeprefix("torch.")


def _what(value: Any) -> str:
    return f"a {_name(value.layout)} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _range(spec: TensorSpec) -> str:
    return f"from {spec.min} to {spec.max}" if spec.dynamic else f"of shape {spec.min}"


def _outside(spec: TensorSpec, shape: torch.Size, axis: int) -> str:
    low, high = spec.min[axis], spec.max[axis]
    allowed = f"{low} to {high}" if low != high else f"{low} alone"
    return (
        f"input {spec.name} has shape {tuple(shape)}: dimension {axis} is {shape[axis]}, and the engine takes {allowed}"
        f"; compile the model with a dynamic_shapes that allows {shape[axis]}"
    )
