"""Defers Ctrl-C while modules are imported.

torch, TensorRT and torch_tensorrt register types and operators on import, and fail on a second attempt. After an
interrupted import, nothing compiles in that process. So Ctrl-C is handled when the import is complete.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from bridge.base.log import logger


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it, Ctrl-C is recorded; the previous handler runs at the end."""
    before = signal.getsignal(signal.SIGINT)
    # Python runs signal handlers in the main thread only. Handlers not set from Python stay.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[Any] = []

    def record(number: int, frame: Any) -> None:
        received.append((number, frame))
        logger.info("interrupted; the import of modules is completed first")

    signal.signal(signal.SIGINT, record)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            before(*received[-1])
