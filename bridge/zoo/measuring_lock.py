"""A lock for processes that share a machine: many may compile at a time; one that measures runs alone."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MeasuringLock:
    """A readers-writer lock on a file; without a file it is a no-op."""

    path: Path | None = None

    def working(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no process measures."""
        return self._held(fcntl.LOCK_SH)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no process compiles or measures."""
        return self._held(fcntl.LOCK_EX)

    @contextlib.contextmanager
    def _held(self, mode: int) -> Iterator[None]:
        if self.path is None:
            yield
            return
        with self.path.open("ab") as file:
            fcntl.flock(file, mode)  # the end of the process releases it too
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing does not release it while a child process has the file open
