"""What comparisons found, in a file beside the library: each is made once for a plugin and a GPU."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.base.files import read_object, replacing

FILE = "compared.json"


def found(folder: Path, plugin: str, gpu: str) -> Any:
    """What was found of a plugin on a GPU of that name; None: it was not compared."""
    return _read(folder).get(plugin, {}).get(gpu)


def keep(folder: Path, plugin: str, gpu: str, row: Mapping[str, Any]) -> None:
    """Writes down what was found; no-op where the folder cannot be written to."""
    rows = _read(folder)
    rows[plugin] = {**rows.get(plugin, {}), gpu: dict(row)}
    with contextlib.suppress(OSError), replacing(folder / FILE) as file:
        file.write(json.dumps(rows, indent=1).encode())


def _read(folder: Path) -> dict[str, Any]:
    try:
        rows = read_object(folder / FILE, "list of comparisons")
    except (OSError, ValueError):  # none yet, or it is damaged and written anew
        return {}
    return {plugin: by_gpu for plugin, by_gpu in rows.items() if isinstance(by_gpu, dict)}
