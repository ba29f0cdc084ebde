"""Runs of the zoo put together, and those that are recorded beside the models: of each model the newest on a GPU."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.base.files import read_object, replacing
from bridge.zoo import table

FILE = "measurements.json"  # what the tables of README.md are made of
SCHEMA = 1
Run = Mapping[str, Any]
Row = Mapping[str, Any]
_ENVIRONMENT = ("gpu", "driver", "versions", "full")


class RunsError(ValueError):
    """Runs are not of the same GPU, versions and sizes, or a file holds none."""


def together(runs: Mapping[str, Run]) -> dict[str, Any]:
    """One run of several, by the names of their files: of each model the last one's results.

    RunsError: they are not of the same GPU, driver, versions and sizes.
    """
    (first_path, first), *others = runs.items()
    rows = {row["model"]: row for row in first["rows"]}
    for path, other in others:
        for name in _ENVIRONMENT:
            if other.get(name) != first.get(name):
                raise RunsError(f"{path} has {name} {other.get(name)}, {first_path} {first.get(name)}: two tables")
        rows |= {row["model"]: _with_earlier(row, rows.get(row["model"], {})) for row in other["rows"]}
    return {**first, "date": max(run["date"] for run in runs.values()), "rows": list(rows.values())}


def read(folder: Path) -> list[Run]:
    """The runs recorded beside the models of a folder, newest first. RunsError: the file is of something else."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        found = read_object(path, "record of `bridge zoo`")
    except (OSError, ValueError) as error:
        raise RunsError(str(error)) from error
    runs = found.get("runs")
    if found.get("schema") != SCHEMA or not isinstance(runs, list):
        raise RunsError(f"{path} is no record of `bridge zoo`, schema {SCHEMA}; move it away to begin another")
    return runs


def with_run(runs: Sequence[Run], run: Run) -> list[Run]:
    """Recorded runs with another one, newest first: a model has its newest results on a GPU, in a size.

    A run of the same day and environment goes on with the recorded one. A model that was not measured does not take the
    place of one that was.
    """
    others = []
    for each in runs:
        if _day(each) == _day(run):
            run = together({FILE: each, "the run": run})
        else:
            others.append(each)
    kept: list[Run] = []
    measured = set[Any]()
    for each in sorted([run, *others], key=lambda each: each["date"], reverse=True):
        rows = [row for row in each["rows"] if (*_size(each), row["model"]) not in measured]
        measured.update((*_size(each), row["model"]) for row in rows if row.get("ways"))
        kept += [{**each, "rows": rows}] if rows else []
    return kept


def write(folder: Path, runs: Iterable[Run]) -> None:
    """Records runs beside the models, as JSON and as the tables of README.md."""
    runs = list(runs)
    for name, content in (
        (FILE, json.dumps({"schema": SCHEMA, "runs": runs}, indent=1) + "\n"),
        ("README.md", table.markdown(runs)),
    ):
        with replacing(folder / name) as file:
            file.write(content.encode())


def _size(run: Run) -> tuple[Any, ...]:
    return run["gpu"], run["full"]


def _day(run: Run) -> list[Any]:
    return [run["date"], *(run.get(name) for name in _ENVIRONMENT)]


def _with_earlier(row: Row, earlier: Row) -> dict[str, Any]:
    """A model's row and, of an earlier one of the same flags, what this one has no result of."""
    if row.get("argv") != earlier.get("argv"):
        return dict(row)
    finished = {name: each for name, each in row.get("ways", {}).items() if not table.timed_out(each)}
    measurements = {**row.get("ways", {}), **earlier.get("ways", {}), **finished}
    together = {**{name: value for name, value in earlier.items() if name != "failed"}, **row}
    return {**together, "ways": measurements} if measurements else together
