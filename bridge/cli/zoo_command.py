"""`bridge zoo`: compiles the models in models/, and on a GPU measures them."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.base import log
from bridge.base.files import read_object
from bridge.cli.command import UsageError
from bridge.zoo.table import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--filter", nargs="+", default=[""], metavar="TEXT", help="those with one of these in their name")
    add("--full", action="store_true", help="in their real sizes, not in those of the tests")
    add("--target", metavar="SM", help="build for this GPU, and run nothing; default: this machine's, or sm86")
    add("--json", metavar="FILE", help="write what came of each, after each")
    add(
        "--against",
        nargs="+",
        metavar="FILE",
        help="measure nothing: show or record this run; of several the last one's times of each model",
    )
    add(
        "--record",
        action="store_true",
        help="keep the results in measurements.json and README.md beside the models, of each model the newest on a GPU",
    )
    add(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="of the scripts; default: models/, or as it is installed",
    )
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="models that are compiled at a time; one that measures is alone",
    )
    add("--limit", type=float, default=900.0, metavar="SECONDS", help="for one model")
    add("--within", type=float, metavar="SECONDS", help="for all: what is not done then is left out, and said")
    add("--logs", type=Path, metavar="FOLDER", help="keep what each model's process says, tracebacks included")
    add(
        "--ways",
        nargs="+",
        choices=BACKENDS,
        default=list(BACKENDS),
        metavar="WAY",
        help=f"only these of {', '.join(BACKENDS)}",
    )
    add("--list", action="store_true", help="list the models")


def run(options: argparse.Namespace) -> int:
    """Returns 1 where bridge made no engine of a model."""
    from bridge.zoo import entries, record, table

    scripts = options.models or entries.folder()
    if options.list:
        chosen = entries.find(scripts, options.filter)
        log.say(f"[bridge] scripts in {scripts}")
        for entry in chosen:
            print(f"{entry.name}: {' '.join(entry.flags(options.full))}")
        return 0
    recorded = _recorded(scripts) if options.record else []  # before hours of measuring
    result = _merged(options.against) if options.against else _measured(options, scripts)
    if options.record:
        record.write(scripts, record.with_run(recorded, result))
    print(table.text(result))
    return 0 if table.all_compiled(result) else 1


def _merged(paths: Sequence[str]) -> dict[str, Any]:
    """One run of several. UsageError: a file holds none, or they are not of the same GPU, versions and sizes."""
    from bridge.zoo import record

    try:
        return record.together({path: read_object(path, "run of `bridge zoo`") for path in paths})
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _recorded(folder: Path) -> list[Mapping[str, Any]]:
    """The runs recorded beside the models. UsageError: their file holds none."""
    from bridge.zoo import record

    try:
        return record.read(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _measured(options: argparse.Namespace, scripts: Path) -> dict[str, Any]:
    import torch

    from bridge.zoo import entries, run

    target = options.target or (None if torch.cuda.is_available() else "sm86")
    settings = run.Settings(
        options.full, target, options.jobs, options.limit, options.within, options.logs, options.ways
    )
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)

    def keep(so_far: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        status = row.get("failed") or {
            name: measurement.get("failed", "done") for name, measurement in row["ways"].items()
        }
        log.say(f"{row['model']}: {status}, {row.get('wall_seconds', 0):.0f} s")
        if options.json:
            Path(options.json).write_text(json.dumps(so_far, indent=1) + "\n")

    return run.run(entries.find(scripts, options.filter), settings, keep)
