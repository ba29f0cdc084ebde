"""Progress of a build on stderr, and its cancellation."""

import contextlib
import sys
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

from bridge.base.log import has_stderr
from bridge.base.terminal import console_of
from bridge.base.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_REWRITE_SECONDS = 0.2  # a terminal line is rewritten at most this often


class Report:
    """Shows a build's progress: a bar on a terminal, or one line per major phase elsewhere.

    Phases nest; the bar shows the step of the outermost one and the name of the innermost one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.cancelled = threading.Event()
        self._stream = stream
        console = console_of(stream)
        self._console = None if console is None or console.is_dumb_terminal else console
        self._bar: _Bar | None = None
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}  # name → steps done, steps in all; the outermost first
        self._started = time.monotonic()
        self._written = 0.0

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[phase] = (0, steps)
            if self._console is None and len(self._phases) == 2:
                self._write(f"[bridge] {printable(phase)} ({self._seconds()})\n")

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
        if self._console is None or not self._phases or now - self._written < _REWRITE_SECONDS:
            return
        self._written = now
        done, steps = next(iter(self._phases.values()))
        try:
            self._bar = self._bar or _Bar(self._console)
            self._bar.show(min(done + 1, steps), steps, next(reversed(self._phases)), self._seconds())
        except (OSError, ValueError):  # stderr is closed; no exception may reach TensorRT, which calls this
            self._console = self._bar = None

    def _clear(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.clear()
            self._bar = None

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.0f} s"


class _Bar:
    """A line at the end of a terminal; it never wraps, and leaves nothing behind."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._progress = Progress(
            TextColumn("[bridge] building, {task.fields[seconds]}", markup=False),
            BarColumn(bar_width=10),
            TextColumn("step {task.completed} of {task.total}:", markup=False),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", seconds="")

    def show(self, step: int, steps: int, phase: str, seconds: str) -> None:
        self._progress.update(self._task, completed=step, total=steps, description=printable(phase), seconds=seconds)
        self._progress.start()
        self._progress.refresh()

    def clear(self) -> None:
        self._progress.stop()


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
