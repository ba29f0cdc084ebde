"""Runs of the bench that later ones are compared with: one a GPU in bridge, or any file."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bridge.base.files import read_object
from bridge.bench.report import Key, key_of
from bridge.bench.workload import Workload
from bridge.bench.workloads import select

FOLDER = Path(__file__).parent / "baselines"
RECORDED = "recorded"


def path_of(gpu: str) -> Path:
    """Where the baseline of a GPU is, or would be."""
    return FOLDER / f"{re.sub(r'[^a-z0-9.-]', '_', gpu.lower())}.json"  # no way to another folder: files name GPUs


def load(name: str, gpu: str, chosen: Sequence[Workload] | None = None) -> dict[str, Any]:
    """A recorded run: the file `name`, or the GPU's own for "recorded"; of it the rows of `chosen` alone, if given.

    ValueError: there is none.
    """
    path = path_of(gpu) if name == RECORDED else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json"))) or "none"
        raise ValueError(f"there is no baseline {path.name}; recorded in bridge are {known}")
    found = read_object(path, "run of `bridge bench`")
    if chosen is not None:
        wanted = {(workload.op, workload.name, workload.dtype) for workload in chosen}
        found["rows"] = [row for row in found["rows"] if key_of(row) in wanted]
    return found


def record(run: dict[str, Any]) -> Path:
    """Keeps a run as the baseline of its GPU, and says where.

    ValueError: it is not complete, or a result is wrong. OSError: bridge's folder cannot be written to.
    """
    check_complete(map(key_of, run["rows"]))
    wrong = [", ".join(key_of(row)) for row in run["rows"] if not row["right"]]
    if wrong:
        raise ValueError(f"not recorded: the results of {'; '.join(wrong)} are wrong")
    path = path_of(run["gpu"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return path


def check_complete(keys: Iterable[Key]) -> None:
    """Whether every default workload is among these. ValueError names the first that is not."""
    have = set(keys)
    lacking = [key for key in ((w.op, w.name, w.dtype) for w in select()) if key not in have]
    if lacking:
        raise ValueError(
            f"a baseline has every default workload, and this run lacks {len(lacking)} of them, the first"
            f" {', '.join(lacking[0])}: record without OP and --workload"
        )
