"""Every operator of torch's OpInfo tables against PyTorch: which are right, which are refused, which are wrong.

    python tests/opinfo/opinfo_sweep.py                      # evaluates the networks on the CPU, and builds them
    python tests/opinfo/opinfo_sweep.py --jobs 16            # in that many processes: minutes in place of hours
    python tests/opinfo/opinfo_sweep.py --filter 'pool|conv' --json pools.json
    python tests/opinfo/opinfo_sweep.py --extents dynamic --marks lasts  # maps of any width, rows of any length
    python tests/opinfo/opinfo_sweep.py --engines            # on a GPU: builds engines, runs them

tests/support must be in PYTHONPATH, as in `make sweep`. Operators are judged in a process of their own, which is
started anew where one of them ends or hangs it.
"""

import argparse
import json
import os
import queue
import re
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from opinfo_judge import OUTCOMES, RAW, RIGHT, WRONG, Judge
from opinfo_samples import LASTS, MARKS, cases, operators

_SECONDS = 240  # of one operator


def main() -> int:
    options = _options()
    if options.worker:
        return _work(options)
    names = [op.full_name for op in operators() if re.search(options.filter, op.full_name)]
    rows: list[dict[str, str]] = []
    started = time.monotonic()
    for found in _judged(names, options):
        rows += found
        for name in dict.fromkeys(row["operator"] for row in found):
            print(_line(name, [row for row in found if row["operator"] == name]), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(rows, indent=1))
    print(_summary(rows, time.monotonic() - started))
    return int(any(row["outcome"] in (WRONG, RAW) for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="regular expression for operators' names")
    parser.add_argument("--samples", type=int, help="most samples of each dtype")
    parser.add_argument("--dtypes", nargs="+", help="such as float32 int64; default: four of them")
    parser.add_argument("--extents", choices=("static", "dynamic"), help="fixed or varying extents alone")
    parser.add_argument("--no-weights", action="store_true", help="every tensor is an input, none a weight")
    parser.add_argument(
        "--marks", nargs="+", choices=(*MARKS, LASTS), default=MARKS, help="which extents vary; tried in order"
    )
    parser.add_argument("--json", help="file for every case's outcome")
    parser.add_argument("--engines", action="store_true", help="build engines for this GPU and run them")
    parser.add_argument("--no-build", action="store_true", help="do not build what is evaluated on the CPU")
    parser.add_argument("--seconds", type=int, default=_SECONDS, help="time for one operator")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--at-once", type=int, default=8, help="operators in one model")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(options: argparse.Namespace) -> int:
    """Judges the operators whose names come in, some on each line."""
    report, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no result
    table = {op.full_name: op for op in operators()}
    judge = Judge(engines=options.engines, builds=not options.no_build, marks=tuple(options.marks))
    dtypes = [getattr(torch, name) for name in options.dtypes] if options.dtypes else None
    for line in sys.stdin:
        chosen = [case for name in line.split() for case in cases(table[name], options.samples, dtypes)]
        chosen = [case for case in chosen if not (options.no_weights and case.constants)]
        chosen = [case for case in chosen if options.extents in (None, "dynamic" if case.dynamic else "static")]
        print(json.dumps([verdict.row() for verdict in judge.judge(chosen)]), file=report, flush=True)
    return 0


def _judged(names: Sequence[str], options: argparse.Namespace) -> Iterator[list[dict[str, str]]]:
    """Outcomes of some operators at a time, as they come in."""
    groups = [names[start : start + options.at_once] for start in range(0, len(names), options.at_once)]
    waiting: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    done: queue.SimpleQueue[list[dict[str, str]]] = queue.SimpleQueue()
    for group in groups:
        waiting.put(list(group))
    for _ in range(options.jobs):
        threading.Thread(target=_serve, args=(waiting, done, options), daemon=True).start()
    for _ in groups:
        yield done.get()


def _serve(waiting: Any, done: Any, options: argparse.Namespace) -> None:
    """Has one process judge groups of operators; each operator of a group by itself where the process ends."""
    worker = None
    while True:
        try:
            group = waiting.get_nowait()
        except queue.Empty:
            break
        rows: list[dict[str, str]] = []
        pending = [group]
        while pending:
            names = pending.pop(0)
            worker = worker or _Worker()
            answer = worker.ask(" ".join(names), options.seconds * len(names))
            if not isinstance(answer, str):
                rows += answer
                continue
            worker.end()
            worker = None
            if len(names) > 1:
                pending = [[name] for name in names]
            else:
                rows.append({"operator": names[0], "case": names[0], "outcome": RAW, "detail": answer})
        done.put(rows)
    if worker:
        worker.end()


class _Worker:
    """A process that judges operators."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", *sys.argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("SWEEP_SHOW") else subprocess.DEVNULL,
        )
        assert self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._begun = False

    def ask(self, names: str, seconds: float) -> list[dict[str, str]] | str:
        """The verdicts on operators, or what became of the process."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(f"{names}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return f"the process ended with {self._process.wait()}"
        if not self._selector.select(seconds + (0 if self._begun else 60)):
            return f"no answer within {seconds} s"
        self._begun = True
        line = self._process.stdout.readline()
        return json.loads(line) if line else f"the process ended with {self._process.wait()}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def _line(name: str, rows: Sequence[dict[str, str]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    text = f"{name:45} {len(rows):4}" + "".join(f"  {kind} {counts[kind]}" for kind in OUTCOMES if counts[kind])
    shown = next((row for row in rows if row["outcome"] in (WRONG, RAW)), None)
    return text + (f"\n    {shown['case']}: {' '.join(shown['detail'].split())[:300]}" if shown else "")


def _summary(rows: Sequence[dict[str, str]], seconds: float) -> str:
    by_operator: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_operator[row["operator"]].add(row["outcome"])
    samples = Counter(row["outcome"] for row in rows)
    having: Counter[str] = Counter(kind for kinds in by_operator.values() for kind in kinds)
    lines = [f"{'':14} {'operators':>10} {'samples':>8}", f"{'all':14} {len(by_operator):10} {len(rows):8}"]
    lines += [f"{kind:14} {having[kind]:10} {samples[kind]:8}" for kind in OUTCOMES]
    only = sum(kinds == {RIGHT} for kinds in by_operator.values())
    return "\n".join([*lines, f"{'only right':14} {only:10}", f"{seconds:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
