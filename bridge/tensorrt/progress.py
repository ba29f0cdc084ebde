"""Progress of a build on stderr, and its cancellation."""

import sys
import threading
import time
from types import ModuleType
from typing import Any, TextIO

_REWRITE_SECONDS = 0.2  # a terminal line is rewritten at most this often


class Report:
    """What a build is doing: a terminal line rewritten in place, or, elsewhere, one line for each major phase.

    Phases nest; the line shows the outermost one that counts its steps and the innermost one by name.
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
            if self._stream is not None and not self._rewrites and len(self._phases) == 2:
                self._stream.write(f"[bridge] {phase} ({self._seconds()})\n")

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
            if self._rewrites and not self._phases and self._stream is not None:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def _rewrite(self) -> None:
        now = time.monotonic()
        if not self._rewrites or not self._phases or self._stream is None or now - self._written < _REWRITE_SECONDS:
            return
        self._written = now
        done, steps = next(iter(self._phases.values()))
        innermost = next(reversed(self._phases))
        self._stream.write(f"\r\x1b[K[bridge] building, step {done + 1} of {steps}: {innermost} ({self._seconds()})")
        self._stream.flush()

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.0f} s"


def monitor(trt: ModuleType, shown: bool) -> tuple[Any, Report]:
    """A trt.IProgressMonitor and the report that it feeds; TensorRT may call it from several threads."""
    report = Report(sys.stderr if shown else None)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            report.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return report.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            report.finish(phase_name)

    return Monitor(), report
