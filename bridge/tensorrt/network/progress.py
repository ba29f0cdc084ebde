"""Progress of a build on stderr, and its cancellation."""

import os
import sys
import threading
import time
from types import ModuleType
from typing import Any, TextIO

from bridge.base.log import has_stderr

_REWRITE_SECONDS = 0.2  # a terminal line is rewritten at most this often
_WIDTH = 80  # of a terminal whose width is unknown


class Report:
    """Shows a build's progress: a terminal line rewritten in place, or one line per major phase elsewhere.

    Phases nest; the line shows the step of the outermost one and the name of the innermost one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.cancelled = threading.Event()
        self._stream = stream
        self._rewrites = stream is not None and stream.isatty()
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}  # name → steps done, steps in all; the outermost first
        self._started = time.monotonic()
        self._written = 0.0

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[phase] = (0, steps)
            if not self._rewrites and len(self._phases) == 2:
                self._write(f"[bridge] {phase} ({self._seconds()})\n")

    def step(self, phase: str) -> bool:
        """A step of a phase is done. False asks TensorRT to cancel the build."""
        with self._lock:
            done, steps = self._phases.get(phase, (0, 0))
            self._phases[phase] = (done + 1, steps)
            self._rewrite()
        return not self.cancelled.is_set()

    def finish(self, phase: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(phase, None)
            if not self._phases:
                self._clear()

    def tick(self) -> None:
        """Updates the seconds. Call it regularly: a step may take minutes."""
        with self._lock:
            self._rewrite()

    def close(self) -> None:
        """The build has ended, perhaps in the middle of a phase."""
        with self._lock:
            self._phases.clear()
            self._clear()

    def _rewrite(self) -> None:
        now = time.monotonic()
        if not self._rewrites or not self._phases or now - self._written < _REWRITE_SECONDS:
            return
        self._written = now
        done, steps = next(iter(self._phases.values()))
        innermost = next(reversed(self._phases))
        line = f"[bridge] building, {self._seconds()}, step {min(done + 1, steps)} of {steps}: {innermost}"
        self._write("\r\x1b[K" + _shortened(line, _width(self._stream) - 1))

    def _clear(self) -> None:
        if self._rewrites and self._written:
            self._write("\r\x1b[K")
            self._written = 0.0

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # stderr is closed; no exception may reach TensorRT, which calls this
            self._stream = None

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.0f} s"


def _width(stream: TextIO | None) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return _WIDTH


def _shortened(line: str, width: int) -> str:
    """The line cut to one row of the terminal: a line that wraps cannot be cleared."""
    return line if len(line) <= width else line[: width - 1] + "…"


def monitor(trt: ModuleType, shown: bool) -> tuple[Any, Report]:
    """A trt.IProgressMonitor and the report that it feeds; TensorRT may call it from several threads."""
    report = Report(sys.stderr if shown and has_stderr() else None)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            report.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return report.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            report.finish(phase_name)

    return Monitor(), report
