"""What a function of plain torch is told while it is traced: its tensors are on the CPU, and seem to be on a GPU."""

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.fx import traceback as fx_traceback
from torch.overrides import TorchFunctionMode

from bridge.errors import UnsupportedOpError
from bridge.generate.inductor import scans
from bridge.graph.model_source import is_model_code

# Asked of a tensor. Torch's own code, such as a decomposition, gets the true answer, but for associative_scan.
_ANSWERS: dict[Any, Any] = {
    torch.Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    torch.Tensor.device.__get__: torch.device("cuda", 0),
    torch.Tensor.get_device: 0,
}
_DEVICES = ("cpu", "cuda")


class CallsOfFunction(TorchFunctionMode):
    """Notes the line of the function for each node that it makes, and has all tensors on one device.

    UnsupportedOpError: the function turns autocast on, which would be that of the wrong device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._autocast = _autocast()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = _caller()
        file = caller.f_code.co_filename
        if func in _ANSWERS and (file == scans.FILE or is_model_code(file)):
            return _ANSWERS[func]
        _note_line(caller)
        if _autocast() != self._autocast and any(_autocast()):
            raise UnsupportedOpError(
                "the function turns torch.autocast on, whose rules a trace does not follow: cast with .to()"
                f" ({caller.f_code.co_filename}:{caller.f_lineno} in {caller.f_code.co_name})"
            )
        if func is Tensor.cuda:
            return args[0]
        return func(*_on_cpu(func, args), **_with_cpu(kwargs or {}))


def _autocast() -> tuple[bool, ...]:
    return tuple(map(torch.is_autocast_enabled, _DEVICES))


def _caller() -> FrameType:
    """The frame that called torch, beneath modes such as `with torch.device(...)`."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__torch_function__" and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _note_line(caller: FrameType) -> None:
    frame: FrameType | None = caller
    while frame is not None and not is_model_code(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is not None:
        line = f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
        fx_traceback.set_stack_trace([line])


def _on_cpu(func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with the CPU for every device; `to` takes one by its name, too."""
    kinds = (torch.device, str) if func is Tensor.to else torch.device
    return tuple("cpu" if isinstance(each, kinds) else each for each in args)


def _with_cpu(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": "cpu"} if kwargs.get("device") is not None else dict(kwargs)
