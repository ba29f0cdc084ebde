"""Measures one model in a process of its own, for run.py: a crash ends this process alone.

    python -m bridge.zoo.child '{"path": …}' ROW.json SOCKET

The row is rewritten after each backend.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bridge.base.files import replacing
from bridge.base.log import logger
from bridge.zoo.entries import of_script
from bridge.zoo.failures import first_line
from bridge.zoo.measure import measure
from bridge.zoo.measuring_lock import MeasuringLock


def main(task: dict[str, Any], output: Path, descriptor: int) -> None:
    """Measures the model of a task that run.py made. descriptor: of the socket to the run."""
    entry = next(entry for entry in of_script(Path(task["path"])) if entry.name == task["name"])
    row: dict[str, Any] = {}

    def keep(so_far: dict[str, Any]) -> None:
        row.update(so_far)
        with replacing(output) as file:
            file.write(json.dumps(so_far).encode())

    try:
        lock = MeasuringLock(descriptor)
        keep(measure(entry, task["argv"], task["target"], keep, lock, task["ways"]) | {"complete": True})
    except Exception as error:  # of any kind: it becomes the model's result
        logger.info("%s failed", entry.name, exc_info=True)
        keep({**row, "model": entry.name, "failed": first_line(error)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
