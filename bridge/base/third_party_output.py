"""Keeps what torch and torch_tensorrt print and log for their own developers away from the user's terminal."""

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
_LOGGERS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")
# What torch 2.14 logs of names in torch_tensorrt 2.14 that it will not have for ever.
_OF_IMPORT = ("torch._opaque_base", "torch._library.opaque_object")
# What torch logs of a capture that fails, with whole graphs, beside the exception that says it.
_OF_CAPTURE = (
    "torch._guards",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "torch.utils._sympy.interp",
    "torch._dynamo",
)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """For the import of torch_tensorrt: drops its notes, and undoes its redirection of every warning to logging."""
    showwarning = warnings.showwarning
    with quiet_logs(), _silent(_OF_IMPORT), _hold_stderr():
        try:
            yield
        finally:
            if warnings.showwarning is not showwarning:
                logging.captureWarnings(False)


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Silences torch_tensorrt's loggers, unless the user has set a level on them: what matters is raised."""
    with _silent(_LOGGERS):
        yield


@contextlib.contextmanager
def quiet_copies() -> Iterator[None]:
    """Silences torch's warning of a class of its own, which it copies with each exported program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        yield


@contextlib.contextmanager
def quiet_capture() -> Iterator[None]:
    """Silences torch.export: of a model that it refuses it logs the guards, and prints the graph up to there."""
    from torch.export import _trace

    with contextlib.ExitStack() as stack:
        add(stack, _trace, "print", lambda *args, **kwargs: None)  # instead of the built-in function
        stack.enter_context(_silent(_OF_CAPTURE))
        yield


@contextlib.contextmanager
def _silent(names: Sequence[str]) -> Iterator[None]:
    loggers = [logger for logger in map(logging.getLogger, names) if logger.level == logging.NOTSET]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


@contextlib.contextmanager
def _hold_stderr() -> Iterator[None]:
    """Holds back file descriptor 2, to which torch_tensorrt's C++ library writes as it loads, and drops its lines.

    Where that is not possible, as without room for a temporary file, the lines are seen.
    """
    _flush()
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            stderr = stack.enter_context(os.fdopen(os.dup(_STDERR), "wb", buffering=0))
            os.dup2(held.fileno(), _STDERR)
        except OSError as error:
            log.logger.debug("stderr is not held back: %s", error)
            stack.close()
            held = None
        try:
            yield
        finally:
            if held is not None:
                _flush()
                os.dup2(stderr.fileno(), _STDERR)
                held.seek(0)
                with contextlib.suppress(OSError):  # what stderr leads to is closed: no one is there to read it
                    stderr.writelines(line for line in held if b"[Torch-TensorRT]" not in line)


def _flush() -> None:
    """Writes out what Python holds for stderr, if there is one: it may be None, or closed."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
