"""Processes that share a GPU and the CPU: many may work at a time, and one that measures is alone."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Turns:
    """What processes with the same lock file wait for; without one there is nothing to wait for."""

    path: Path | None = None

    def working(self) -> contextlib.AbstractContextManager[None]:
        """Waits until nobody measures."""
        return self._held(fcntl.LOCK_SH)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Waits until nobody works or measures."""
        return self._held(fcntl.LOCK_EX)

    @contextlib.contextmanager
    def _held(self, kind: int) -> Iterator[None]:
        if self.path is None:
            yield
            return
        with self.path.open("ab") as file:
            fcntl.flock(file, kind)  # the process's end releases it, too
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing would not, where a child process has the file
