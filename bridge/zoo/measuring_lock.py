"""A model's process measures while those of the other models are stopped."""

import contextlib
import ctypes
import signal
import socket
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1


class MeasuringLock:
    """The side of a model's process, over a socket to processes.Processes; without one it is a no-op."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._connection = None if descriptor is None else socket.socket(fileno=descriptor)
        if descriptor is not None:  # a stopped process would outlive a run that is killed
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the others that measure; those that compile do not run meanwhile."""
        if self._connection is None:
            yield
            return
        self._connection.sendall(b"?")
        self._connection.recv(1)
        try:
            yield
        finally:
            self._connection.sendall(b".")
