"""Logging: the logger "bridge" of Python's logging, silent below warnings by default.

An application sets a level and a handler as for any library: `logging.getLogger("bridge").setLevel(logging.INFO)`. The
environment variable BRIDGE_LOG and `bridge compile --verbose` write to stderr. Level info has a line per step with its
seconds; level debug also one per node of a graph and per plugin layer.
"""

import contextlib
import functools
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

VARIABLE = "BRIDGE_LOG"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

logger = logging.getLogger("bridge")

_LAST_STANDARD = 2  # the file descriptor of stderr


@contextlib.contextmanager
def step(what: str) -> Iterator[Callable[[str], None]]:
    """Logs how long its body took: "lowering: 0.52 s", or "lowering: failed after 0.52 s".

    It yields a function that adds details to that line: "lowering: 0.52 s, 120 nodes".
    """
    details: list[str] = []
    logger.debug("%s …", what)
    started = time.monotonic()
    try:
        yield details.append
    except BaseException as error:
        logger.info("%s: failed after %.2f s, %s", what, time.monotonic() - started, type(error).__name__)
        raise
    logger.info("%s: %s", what, ", ".join([f"{time.monotonic() - started:.2f} s", *details]))


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning the first time in a process."""
    logger.warning("%s", text)


def show(level: int) -> None:
    """Writes what is logged at `level` and above to stderr. A later call changes the level.

    Records no longer propagate: torch_tensorrt adds a handler to the root logger, which would print them again.
    """
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())
        logger.propagate = False
    logger.setLevel(level)


def show_as_asked() -> None:
    """As `show`, with the level of the environment variable, if it is set. UserWarning: it is no level."""
    text = os.environ.get(VARIABLE, "")
    level = LEVELS.get(text.strip().lower())
    if level is not None:
        show(level)
    elif text.strip():
        warnings.warn(f"{VARIABLE} is {text!r}, expected one of {', '.join(LEVELS)}; it is ignored", stacklevel=2)


class _Handler(logging.StreamHandler):
    """Writes to the current sys.stderr, which programs and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_Formatter())

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if has_stderr():
            super().emit(record)


def has_stderr() -> bool:
    """Whether sys.stderr can be written to: it may be None, or closed."""
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def reserve_standard_streams() -> None:
    """Opens file descriptors 0 to 2 where closed, so that no file gets one, and with it the output of libraries."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


@contextlib.contextmanager
def some_stderr() -> Iterator[None]:
    """Within it, sys.stderr can be written to; logging, warnings and torch do so without a check."""
    if has_stderr():
        yield
        return
    before = sys.stderr
    reserve_standard_streams()  # else the file below could get stderr's descriptor
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (no path)
        sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stderr = before


def to_terminal() -> bool:
    """Whether stderr is a terminal."""
    return has_stderr() and hasattr(sys.stderr, "isatty") and sys.stderr.isatty()


def say(text: str) -> None:
    """Writes a line to stderr, if there is one."""
    if has_stderr():
        with contextlib.suppress(OSError):  # the reader has closed the pipe
            print(text, file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    """[bridge] message, with the level in front of a warning or an error."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"[bridge] {level}{super().format(record)}"
