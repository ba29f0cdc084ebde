"""Baselines: recorded runs of the bench, one per GPU in bridge, or any file."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bridge.base.files import read_object
from bridge.bench.ceilings import with_reached
from bridge.bench.report import Key, key_of
from bridge.bench.workload import Workload
from bridge.bench.workloads import select

FOLDER = Path(__file__).parent / "baselines"
RECORDED = "recorded"


def path_of(gpu: str) -> Path:
    """The path of a GPU's baseline, which need not exist."""
    # The name may come from a file: without path separators it names no other folder.
    return FOLDER / f"{re.sub(r'[^a-z0-9.-]', '_', gpu.lower())}.json"


def load(name: str, gpu: str, chosen: Sequence[Workload] | None = None) -> dict[str, Any]:
    """A recorded run: the file `name`, or the GPU's baseline for "recorded". chosen: keep the rows of these workloads.

    ValueError: there is none.
    """
    path = path_of(gpu) if name == RECORDED else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json"))) or "none"
        raise ValueError(f"there is no baseline {path.name}; recorded in bridge are {known}")
    run = read_object(path, "run of `bridge bench`")
    if chosen is not None:
        keys = {(workload.op, workload.name, workload.dtype) for workload in chosen}
        run["rows"] = [row for row in run["rows"] if key_of(row) in keys]
    return run


def record(run: dict[str, Any]) -> Path:
    """Writes a run as the baseline of its GPU, and returns the path.

    ValueError: it is not complete, or a result is wrong. OSError: bridge's folder cannot be written to.
    """
    check_complete(map(key_of, run["rows"]), run["gpu"])
    wrong = [", ".join(key_of(row)) for row in run["rows"] if not row["right"]]
    if wrong:
        raise ValueError(f"not recorded: the results of {'; '.join(wrong)} are wrong")
    path = path_of(run["gpu"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return path


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run of several parts on the same GPU; of two rows of a workload the later one counts.

    It has the date of its newest row; an older row has its own.

    ValueError: they are of different GPUs, drivers or versions, or one is no run of ops.
    """
    first = runs[0]
    for run in runs:
        if "rows" not in run:
            raise ValueError(
                "one of these is no run of ops; runs of engines, models and generated plugins have no parts"
            )
        for name in ("schema", "gpu", "driver", "versions"):
            if run.get(name) != first.get(name):
                found = f"{first.get(name)} and {run.get(name)}"
                raise ValueError(f"these are not parts of one run of ops: {name} is {found}")
    rows = {key_of(row): {"date": run["date"], **row} for run in runs for row in run["rows"]}
    date = max((row["date"] for row in rows.values()), default=first["date"])
    for row in rows.values():
        if row["date"] == date:
            del row["date"]
    return with_reached({**first, "date": date, "rows": list(rows.values())})


def check_complete(keys: Iterable[Key], gpu: str) -> None:
    """ValueError: a default workload is missing from the keys.

    An op that the keys lack altogether may be missing where the GPU's baseline lacks it, too: it is newer than that.
    """
    present = set(keys)
    before = path_of(gpu)
    rows = read_object(before, "run of `bridge bench`")["rows"] if before.is_file() else []
    ops = {row["op"] for row in rows} | {op for op, _, _ in present}
    wanted = [w for w in select() if w.op in ops or not rows]
    missing = [key for key in ((w.op, w.name, w.dtype) for w in wanted) if key not in present]
    if missing:
        raise ValueError(
            f"a baseline has every default workload, and this run lacks {len(missing)} of them, the first"
            f" {', '.join(missing[0])}: record without OP and --workload"
        )
