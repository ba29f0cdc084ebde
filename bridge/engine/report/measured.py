"""Measured times of layers, and the layers of the network that they are of."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.base.files import read_json
from bridge.engine_file import checks

# Keys of a row's time, and microseconds of one: those of bridge, then those of trtexec --exportProfile.
_UNITS = {"time_ms": 1e3, "us": 1.0, "time_us": 1.0, "medianMs": 1e3, "averageMs": 1e3}
_LONGEST = 1e12  # in any unit
_KEPT_IN = ("layers", "profile")
# What TensorRT writes around the names of layers that it has joined.
_JOINTS = re.compile(r" \+ |\.\.\.|^(?:PWN\(|\{ForeignNode\[)+|(?:\)|\]\})+$")


@dataclass(frozen=True)
class Row:
    """A layer as TensorRT runs it. layers: names of the network's layers in it, none where they are unknown."""

    name: str
    us: float
    layers: tuple[str, ...]


def read(path: str | os.PathLike[str], names: Sequence[str]) -> list[Row]:
    """The rows of a JSON file, matched with the names of an engine's layers.

    The file holds a list of {"name": ..., "time_ms": ...}, or an object with such "layers": what `bridge run --profile
    --json` and `trtexec --exportProfile` write. ValueError: it does not. OSError: it cannot be read.
    """
    values = read_json(path, "list of measured layers")
    known = set(names)
    try:
        rows = [_row(row, index, known) for index, row in enumerate(_rows(values)) if not _counts_runs(row)]
        if not rows:
            raise ValueError("it holds no measured layer: `bridge run --profile --json` measures, on a GPU")
    except ValueError as error:  # of checks, too
        raise ValueError(f"{path}: {error}") from error
    return rows


def _rows(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        values = next((values[key] for key in _KEPT_IN if key in values), None)
    if not isinstance(values, list):
        raise ValueError('expected a list of {"name": ..., "time_ms": ...}, or an object with such "layers"')
    return values


def _counts_runs(row: Any) -> bool:
    """The first row of trtexec says how often it ran."""
    return isinstance(row, Mapping) and set(row) == {"count"}


def _row(row: Any, index: int, names: set[str]) -> Row:
    what = f"row {index}"
    checks.of_type(row, dict, what)
    checks.text(row.get("name"), f"the name of {what}")
    key = next((key for key in _UNITS if key in row), None)
    if key is None:
        raise ValueError(f"{what} has none of {', '.join(_UNITS)}: it has {', '.join(map(checks.shown, row))}")
    if type(row[key]) not in (int, float) or not 0 <= row[key] < _LONGEST:
        checks.fail(f"{key} of {what}", row[key], "a time, at least 0")
    return Row(row["name"], row[key] * _UNITS[key], _matched(row["name"], names))


def _matched(name: str, names: set[str]) -> tuple[str, ...]:
    parts = [name] if name in names else _JOINTS.split(name)
    return tuple(dict.fromkeys(part for part in parts if part in names))
