"""Checks an engine's inputs before TensorRT sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file.contents import TensorSpec
from bridge.errors import EngineInputError


@dataclass(frozen=True)
class _InputRow:
    """An input's spec, with its dtype in torch."""

    spec: TensorSpec
    dtype: torch.dtype


class InputCheck:
    """Checks the inputs of an engine on one device. For one thread at a time: it caches the last valid ones."""

    def __init__(self, specs: tuple[TensorSpec, ...], device: torch.device) -> None:
        self._device = device
        self._last_valid: list[Any] | None = None
        self._shapes: tuple[torch.Size, ...] = ()
        self._rows = [_InputRow(spec, getattr(torch, spec.dtype)) for spec in specs]

    def check(self, tensors: Sequence[Any]) -> tuple[torch.Size, ...]:
        """The shapes of the inputs; the same tuple object if nothing changed since the last call.

        EngineInputError: the engine does not take one of them.
        """
        try:
            properties = [(tensor.shape, tensor.dtype, tensor.device, tensor.layout) for tensor in tensors]
        except AttributeError:
            properties = None
        if properties is None or properties != self._last_valid:
            self._shapes = self._check_all(tensors)
            self._last_valid = properties
        return self._shapes

    def _check_all(self, tensors: Sequence[Any]) -> tuple[torch.Size, ...]:
        if len(tensors) != len(self._rows):
            names = ", ".join(row.spec.name for row in self._rows)
            raise EngineInputError(f"the engine takes {len(self._rows)} inputs ({names}), not {len(tensors)}")
        return tuple(map(self._check, tensors, self._rows))

    def _check(self, tensor: Any, row: _InputRow) -> torch.Size:
        spec = row.spec
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise EngineInputError(f"input {spec.name} is {_type_text(tensor)}; the engine takes a dense tensor")
        if tensor.dtype != row.dtype:
            remedy = (
                f"pass it as {spec.name}.to(torch.{spec.dtype}), or compile the model for {_dtype_text(tensor.dtype)}"
            )
            raise EngineInputError(
                f"input {spec.name} has dtype {_dtype_text(tensor.dtype)}; the engine takes {spec.dtype}: {remedy}"
            )
        if tensor.device != self._device:
            raise EngineInputError(
                f"input {spec.name} is on {tensor.device}; the engine runs on {self._device}: "
                f"pass it as {spec.name}.to({str(self._device)!r})"
            )
        check_shape(spec, tensor.shape)
        return tensor.shape


def check_shape(spec: TensorSpec, shape: Sequence[int]) -> None:
    """EngineInputError: the engine takes no input of that shape."""
    if len(shape) != len(spec.min):
        raise EngineInputError(
            f"input {spec.name} has shape {tuple(shape)}, of rank {len(shape)}; "
            f"the engine takes rank {len(spec.min)}, {_range_text(spec)}"
        )
    for axis, (low, extent, high) in enumerate(zip(spec.min, shape, spec.max, strict=True)):
        if not low <= extent <= high:
            raise EngineInputError(_out_of_range_text(spec, shape, axis))


def _dtype_text(dtype: torch.dtype | torch.layout) -> str:
    return str(dtype).removeprefix("torch.")


def _type_text(value: Any) -> str:
    return f"a {_dtype_text(value.layout)} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _range_text(spec: TensorSpec) -> str:
    return f"from {spec.min} to {spec.max}" if spec.dynamic else f"of shape {spec.min}"


def _out_of_range_text(spec: TensorSpec, shape: Sequence[int], axis: int) -> str:
    low, high = spec.min[axis], spec.max[axis]
    allowed = f"{low} to {high}" if low != high else f"{low} alone"
    return (
        f"input {spec.name} has shape {tuple(shape)}: dimension {axis} is {shape[axis]}, and the engine takes {allowed}"
        f"; compile the model with a dynamic_shapes that allows {shape[axis]}"
    )
