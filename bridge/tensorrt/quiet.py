"""Keeps what torch and torch_tensorrt print and log for their own developers away from the user's terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence

_LOGGERS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")
# What torch logs of a capture that fails, with whole graphs, beside the exception that says it.
_OF_CAPTURE = ("torch._guards", "torch.export", "torch.fx.experimental.symbolic_shapes", "torch._dynamo")


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """For the import of torch_tensorrt: drops its notes, and undoes its redirection of every warning to logging."""
    showwarning = warnings.showwarning
    with quiet_logs(), _hold_stderr():
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
def quiet_capture() -> Iterator[None]:
    """Silences torch.export: of a model that it refuses it logs the guards, and prints the graph up to there."""
    from torch.export import _trace

    before = vars(_trace).get("print")
    _trace.print = lambda *args, **kwargs: None  # type: ignore[attr-defined]  # instead of the built-in function
    try:
        with _silent(_OF_CAPTURE):
            yield
    finally:
        if before is None:
            del _trace.print  # type: ignore[attr-defined]
        else:
            _trace.print = before  # type: ignore[attr-defined]


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
    """Holds back file descriptor 2, to which torch_tensorrt's C++ library writes as it loads, and drops its lines."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "wb", buffering=0) as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            held.seek(0)
            stderr.writelines(line for line in held if b"[Torch-TensorRT]" not in line)
