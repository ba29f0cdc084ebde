"""All models of the zoo, each in a process of its own, the first ones first."""

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
from bridge.zoo.table import NOT_DONE, WAYS

SCHEMA = 1
Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """full: the real sizes. target: as in Config. jobs: models at a time, whose measuring waits for the others' work.
    limit, within: seconds for one model, and for all of them. logs: a folder for what the processes say. ways: of
    table.WAYS, those to measure."""

    full: bool = False
    target: str | None = None
    jobs: int = 1
    limit: float = 900.0
    within: float | None = None
    logs: Path | None = None
    ways: Sequence[str] = tuple(WAYS)


def run(entries: Sequence[Entry], settings: Settings, keep: Callable[[Result, Mapping[str, Any]], None]) -> Result:
    """What came of each model, as JSON values; `keep` gets all there is, and the last row, after each model."""
    result: Result = {"schema": SCHEMA, **environment_here(), "full": settings.full, "rows": []}
    end = time.monotonic() + (settings.within or float("inf"))
    rows: dict[int, dict[str, Any]] = {}
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(settings.jobs) as pool:

        def one(place: int, entry: Entry) -> None:
            left = min(settings.limit, end - time.monotonic())
            row = _row(entry, settings, left, Path(folder))
            with lock:
                rows[place] = row
                result["rows"] = [rows[index] for index in sorted(rows)]
                keep(result, row)

        for done in [pool.submit(one, place, entry) for place, entry in enumerate(entries)]:
            done.result()
    return result


def environment_here() -> Result:
    """GPU, driver, versions and date; without a GPU what there is of it."""
    if torch.cuda.is_available():
        return environment()
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    versions = {"bridge": bridge.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"gpu": None, "date": today, "versions": versions}


def _row(entry: Entry, settings: Settings, seconds: float, folder: Path) -> dict[str, Any]:
    """Of a model that has these seconds; the folder is that of the run."""
    output, log, lock = folder / f"{entry.name}.json", (settings.logs or folder) / f"{entry.name}.log", folder / "lock"
    argv = list(entry.flags(settings.full))
    unknown = {"model": entry.name, "about": entry.about, "argv": argv}
    if seconds <= 0:
        return {**unknown, "failed": f"not begun: {settings.within:.3g} s were over"}
    task = {"path": str(entry.path), "name": entry.name, "argv": argv, "target": settings.target, "lock": str(lock)}
    task |= {"ways": list(settings.ways)}
    start = time.monotonic()
    reason = _child([json.dumps(task), str(output)], seconds, log, _environ(settings.jobs))
    row = json.loads(output.read_text()) if output.exists() else unknown
    return {**_finished_row(row, reason), "wall_seconds": time.monotonic() - start}


def _finished_row(row: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """The row of a process that ended before its time, for that reason: what was under way failed by it."""
    if row.pop("complete", False):
        return row
    ways = row.get("ways", {})
    running = [name for name, way in ways.items() if "running" in way]
    for name in running:
        ways[name] = {"failed": reason or "did not end"}
    return {**row, "failed": reason} if reason and not running and "failed" not in row else row


def _environ(jobs: int) -> dict[str, str]:
    """What makes a child tell its steps, and keeps those side by side from a thread or compiler for every core each."""
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    threads = {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share} if jobs > 1 else {}
    return {"BRIDGE_LOG": "info", **threads, **os.environ}


def _child(arguments: Sequence[str], seconds: float, log: Path, environ: Mapping[str, str]) -> str | None:
    """Why a child ended before its time, or None. It is killed with its own children when its time is over."""
    command = [sys.executable, "-m", "bridge.zoo.child", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environ)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"{NOT_DONE} after {seconds:.3g} s"
        finally:
            _end(process)
    lines = log.read_text(errors="replace").split("\n")
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}: {next(filter(None, reversed(lines)), '')}" if code else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what a child has left, such as the compilers that Inductor starts."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
