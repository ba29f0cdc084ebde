"""Runs numbered cases in child processes: crashes, hangs and failed assertions are findings with the case's number."""

import faulthandler
import json
import mmap
import os
import signal
import struct
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Case = Callable[[int, int], Counter[str]]  # seed, number → how often each outcome was met


@dataclass
class Result:
    """outcomes: how often each was met, by name. findings: a line for each case that did not end well."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def run(case: Case, seed: int, count: int, chunk: int = 20000, most: int = 20, patience: int = 600) -> Result:
    """Runs cases 0 to count - 1. chunk: of one child; most: findings after which it stops; patience: seconds of one
    child, after which it counts as hanging."""
    result = Result()
    first = 0
    while first < count and len(result.findings) < most:
        last = min(first + chunk, count)
        reached, finding = _in_child(case, seed, first, last, result.outcomes, patience)
        if finding:
            result.findings.append(f"seed {seed}, case {reached}: {finding}")
        first = reached + 1 if finding else last
    return result


def _in_child(
    case: Case, seed: int, first: int, last: int, outcomes: Counter[str], patience: int
) -> tuple[int, str | None]:
    """The case that was reached, and what went wrong with it."""
    progress = mmap.mmap(-1, 8)  # shared with the child
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        child = os.fork()
        if child == 0:
            _child(case, seed, first, last, progress, report, patience)
        _, status = os.waitpid(child, 0)
        (reached,) = struct.unpack("q", progress[:8])
        if os.WIFSIGNALED(status):
            return reached, signal.Signals(os.WTERMSIG(status)).name
        if not report.exists():
            return reached, f"the child ended with {os.waitstatus_to_exitcode(status)}"
        found = json.loads(report.read_text())
    outcomes.update(found["outcomes"])
    return reached, found["error"]


def _child(case: Case, seed: int, first: int, last: int, progress: mmap.mmap, report: Path, patience: int) -> None:
    """Never returns: whatever the parent has open or waits for is none of the child's."""
    code = 1
    try:
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(patience)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # every refusal is a line there
        outcomes: Counter[str] = Counter()
        error = None
        for number in range(first, last):
            progress[:8] = struct.pack("q", number)
            try:
                outcomes += case(seed, number)
            except BaseException:
                error = traceback.format_exc(limit=-4)
                break
        report.write_text(json.dumps({"outcomes": outcomes, "error": error}))
        code = 0
    finally:
        os._exit(code)
