"""Measures the models of the zoo, each in a process of its own, in their order."""

import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.bench.measure import environment
from bridge.zoo.entries import Entry
from bridge.zoo.processes import Processes
from bridge.zoo.table import BACKENDS, NOT_DONE

SCHEMA = 1
Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    full: real sizes, not the small ones. target: as in Config. jobs: models at a time; while one is timed, the others
    are stopped. limit, within: seconds for one model, and for all. logs: folder for the processes' output. backends: to
    measure, of table.BACKENDS.
    """

    full: bool = False
    target: str | None = None
    jobs: int = 1
    limit: float = 900.0
    within: float | None = None
    logs: Path | None = None
    backends: Sequence[str] = tuple(BACKENDS)


def run(entries: Sequence[Entry], settings: Settings, keep: Callable[[Result, Mapping[str, Any]], None]) -> Result:
    """The results of all models, as JSON values. After each model, `keep` gets the results so far and the new row.

    SIGTERM ends it: models under way have what was measured of them by then.
    """
    result: Result = {"schema": SCHEMA, **environment_here(), "full": settings.full, "rows": []}
    end = time.monotonic() + (settings.within or float("inf"))
    rows: dict[int, dict[str, Any]] = {}
    lock, processes = threading.Lock(), Processes()
    with (
        processes.stopped_by_signals(),
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(settings.jobs) as pool,
    ):

        def measure_one(index: int, entry: Entry) -> None:
            seconds = min(settings.limit, end - time.monotonic())
            row = _measured_row(entry, settings, seconds, Path(folder), processes)
            with lock:
                rows[index] = row
                result["rows"] = [rows[index] for index in sorted(rows)]
                keep(result, row)

        for future in [pool.submit(measure_one, index, entry) for index, entry in enumerate(entries)]:
            future.result()
    return result


def environment_here() -> Result:
    """GPU, driver, versions and date; without a GPU, versions and date."""
    if torch.cuda.is_available():
        return environment()
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    versions = {"bridge": bridge.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"gpu": None, "date": today, "versions": versions}


def _measured_row(
    entry: Entry, settings: Settings, seconds: float, folder: Path, processes: Processes
) -> dict[str, Any]:
    """The row of one model, within a time limit. folder: for temporary files of the run."""
    row_file, log = folder / f"{entry.name}.json", (settings.logs or folder) / f"{entry.name}.log"
    argv = list(entry.flags(settings.full))
    empty_row = {"model": entry.name, "about": entry.about, "argv": argv}
    if processes.stopped:
        return {**empty_row, "failed": "not begun: the run was stopped"}
    if seconds <= 0:
        return {**empty_row, "failed": f"not begun: {settings.within:.3g} s were over"}
    task = {"path": str(entry.path), "name": entry.name, "argv": argv, "target": settings.target}
    task |= {"ways": list(settings.backends)}
    start = time.monotonic()
    reason = _child([json.dumps(task), str(row_file)], seconds, log, _child_environment(settings.jobs), processes)
    row = json.loads(row_file.read_text()) if row_file.exists() else empty_row
    asked = settings.backends if settings.target is None and torch.cuda.is_available() else ()
    return {**_finished_row(row, reason, asked), "wall_seconds": time.monotonic() - start}


def _finished_row(row: dict[str, Any], reason: str | None, asked: Sequence[str] = ()) -> dict[str, Any]:
    """The row of a child process; if it ended early, the backend that was running failed for that reason.

    asked: backends that the child would have come to, too; they failed as well.
    """
    if row.pop("complete", False):
        return row
    measurements = row.get("ways", {})
    if reason and measurements:
        measurements |= {name: {"failed": reason} for name in asked if name not in measurements}
    running = [name for name, measurement in measurements.items() if measurement.pop("running", False)]
    for name in running:  # variants that were measured before the end count
        measurements[name] |= {"unfinished" if measurements[name] else "failed": reason or "did not end"}
    return {**row, "failed": reason} if reason and not running and "failed" not in row else row


def _child_environment(jobs: int) -> dict[str, str]:
    """Environment of a child: logs its steps, and gets its share of the cores where several run at a time."""
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    threads = {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share} if jobs > 1 else {}
    return {"BRIDGE_LOG": "info", **threads, **os.environ}


def _child(
    arguments: Sequence[str], seconds: float, log: Path, environ: Mapping[str, str], processes: Processes
) -> str | None:
    """Why a child ended early, or None. After the time limit it is killed with its own children."""
    command = [sys.executable, "-m", "bridge.zoo.child", *arguments]
    with log.open("wb") as file, processes.one(command, file, environ) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"{NOT_DONE} after {seconds:.3g} s"
    if code < 0 and processes.stopped:
        return f"{NOT_DONE}: the run was stopped"
    lines = log.read_text(errors="replace").split("\n")
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}: {next(filter(None, reversed(lines)), '')}" if code else None
