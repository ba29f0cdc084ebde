"""Hides what torch and torch_tensorrt print and log for their own developers."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence

from bridge.base import log
from bridge.base.patches import add

_STDERR = 2
_TORCH_TENSORRT_LOGGERS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")
# torch 2.14 logs deprecations that concern torch_tensorrt 2.14.
_IMPORT_LOGGERS = ("torch._opaque_base", "torch._library.opaque_object")
_ONNX_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
# torch logs failed captures, with whole graphs, in addition to the exception.
_CAPTURE_LOGGERS = (
    "torch._guards",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "torch.utils._sympy.interp",
    "torch._dynamo",
)


@contextlib.contextmanager
def silence_import() -> Iterator[None]:
    """For the import of torch_tensorrt: drops its messages, and undoes its redirection of warnings to logging."""
    showwarning = warnings.showwarning
    with silence_logs(), _loggers_silenced(_IMPORT_LOGGERS), _capture_stderr():
        try:
            yield
        finally:
            if warnings.showwarning is not showwarning:
                logging.captureWarnings(False)


@contextlib.contextmanager
def silence_logs() -> Iterator[None]:
    """Silences torch_tensorrt's loggers, unless the user has set a level on them. Errors are raised anyway."""
    with _loggers_silenced(_TORCH_TENSORRT_LOGGERS):
        yield


@contextlib.contextmanager
def silence_copies() -> Iterator[None]:
    """Silences the deprecation of torch's own LeafSpec, raised whenever an exported program is copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        yield


@contextlib.contextmanager
def silence_onnx() -> Iterator[None]:
    """Silences torch.onnx and its optimizer, which log what they leave out. Errors are raised."""
    with _loggers_silenced(_ONNX_LOGGERS), silence_copies(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="onnxscript|onnx_ir|torch.onnx")
        yield


@contextlib.contextmanager
def silence_capture() -> Iterator[None]:
    """Silences torch.export, which logs guards and prints the partial graph when it fails."""
    from torch.export import _trace

    with contextlib.ExitStack() as stack:
        add(stack, _trace, "print", lambda *args, **kwargs: None)  # instead of the built-in function
        stack.enter_context(_loggers_silenced(_CAPTURE_LOGGERS))
        yield


@contextlib.contextmanager
def _loggers_silenced(names: Sequence[str]) -> Iterator[None]:
    loggers = [logger for logger in map(logging.getLogger, names) if logger.level == logging.NOTSET]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


@contextlib.contextmanager
def _capture_stderr() -> Iterator[None]:
    """Captures file descriptor 2, to which torch_tensorrt's C++ library writes on load, and drops that library's lines.

    Without room for a temporary file, the lines are shown.
    """
    _flush()
    with contextlib.ExitStack() as stack:
        try:
            captured = stack.enter_context(tempfile.TemporaryFile())
            stderr = stack.enter_context(os.fdopen(os.dup(_STDERR), "wb", buffering=0))
            os.dup2(captured.fileno(), _STDERR)
        except OSError as error:
            log.logger.debug("stderr is not captured: %s", error)
            stack.close()
            captured = None
        try:
            yield
        finally:
            if captured is not None:
                _flush()
                os.dup2(stderr.fileno(), _STDERR)
                captured.seek(0)
                with contextlib.suppress(OSError):  # the reader of stderr has closed it
                    stderr.writelines(line for line in captured if b"[Torch-TensorRT]" not in line)


def _flush() -> None:
    """Flushes sys.stderr, which may be None or closed."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
