"""Ctrl-C while modules are imported.

torch, TensorRT and torch_tensorrt register things as they are imported, and do not bear a second try: an import that
Ctrl-C ends half way leaves a process in which nothing compiles any more. So it waits until the import is done.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from bridge.base.log import logger


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C within the block is answered at its end, as it would have been at once."""
    before = signal.getsignal(signal.SIGINT)
    # Python runs signal handlers in the main thread alone; one that is not Python's is left as it is.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[Any] = []

    def note(number: int, frame: Any) -> None:
        received.append((number, frame))
        logger.info("interrupted; modules are being imported, which comes to an end first")

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            before(*received[-1])
