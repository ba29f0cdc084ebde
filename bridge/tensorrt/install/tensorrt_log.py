"""TensorRT's error messages: never printed, but part of bridge's own errors."""

from functools import cache
from typing import Any

from bridge.tensorrt.install.flavour import Flavour

# Without a GPU TensorRT logs these beside any other error; they explain nothing.
_NOISE = ("catchCudaError",)


@cache
def logger(flavour: Flavour) -> Any:
    """The logger of every builder and parser; `errors` are the messages so far.

    One for the process: TensorRT keeps the first logger that it is given and may call it at any time.
    """
    trt = flavour.trt()

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def take_errors(flavour: Flavour) -> list[str]:
    """TensorRT's error messages since the last call, each once, in order."""
    logged = logger(flavour).errors
    unique, logged[:] = list(dict.fromkeys(logged)), []
    return [message for message in unique if not any(noise in message for noise in _NOISE)]


def errors_text(flavour: Flavour) -> str:
    """The same as the end of a message; empty if there are none."""
    errors = take_errors(flavour)
    return "\nTensorRT says:\n" + "\n".join(f"  {message}" for message in errors) if errors else ""
