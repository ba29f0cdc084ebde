"""Exports the plan alone: the engine as TensorRT serialised it."""

from pathlib import Path
from typing import Any

from bridge.engine_file.contents import EngineFile

PLAN = "model.plan"
"""The name of the plan in every folder."""


def write(file: EngineFile, folder: Path, options: Any) -> list[Path]:
    """Writes the plan."""
    path = folder / PLAN
    path.write_bytes(file.engine)
    return [path]
