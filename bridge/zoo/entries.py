"""The models of the zoo: what scripts say of themselves.

A script that is part of it has, beside its `bridge_model(argv)`, a list ZOO of dictionaries of constants:

    small, full     flags of a configuration for tests, and of the model's real sizes
    part            the part of the model, where the script has several
    about           what the full configuration is
    rank            when it is its turn; 1 is first
    unordered       True where the rows of its results, along axis 1, come in an order that rounding decides
"""

import ast
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bridge
from bridge.errors import BridgeError

TABLE = "ZOO"
_KEYS = {"small", "full", "part", "about", "rank", "unordered"}


class ZooError(BridgeError):
    """There are no models where they should be, or a script's table is not what it should be."""


@dataclass(frozen=True)
class Entry:
    """One model: its script, and the flags of its two configurations."""

    path: Path
    small: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    part: str = ""
    about: str = ""
    rank: int = 1000
    unordered: bool = False

    @property
    def name(self) -> str:
        """Of the script, and of the part."""
        return f"{self.path.stem}, {self.part}" if self.part else self.path.stem

    def flags(self, full: bool) -> tuple[str, ...]:
        """Of a configuration."""
        return self.full if full else self.small


def folder() -> Path:
    """models/ beside the package, or within it where it is installed. ZooError: there is neither."""
    places = [Path(bridge.__file__).parents[1] / "models", Path(__file__).parent / "models"]
    found = next((place for place in places if (place / "common.py").is_file()), None)
    if found is None:
        raise ZooError(
            f"there are no model scripts in {' or '.join(map(str, places))}; --models names their folder, which is"
            " models/ of bridge's sources"
        )
    return found


def find(scripts: Path, texts: Sequence[str] = ("",)) -> list[Entry]:
    """The entries whose name holds one of `texts`, in their order. ZooError: there is none."""
    found = [entry for path in sorted(scripts.glob("*.py")) for entry in of_script(path)]
    chosen = sorted(
        (entry for entry in found if any(text in entry.name for text in texts)), key=lambda entry: entry.rank
    )
    if not chosen:
        there = ", ".join(entry.name for entry in found) or f"no script in {scripts} has a list {TABLE}"
        wanted = " or ".join(map(repr, texts))
        raise ZooError(f"no model's name holds {wanted}; there are {there}" if found else there)
    return chosen


def of_script(path: Path) -> list[Entry]:
    """The entries of one script, which is not run; none where it has no table. ZooError: it is no such table."""
    for statement in ast.parse(path.read_text(), str(path)).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [TABLE]:
            try:
                return [_entry(path, row) for row in ast.literal_eval(statement.value)]
            except (ValueError, TypeError) as error:
                raise ZooError(f"{path}: {TABLE} is no list of dictionaries of constants: {error}") from error
    return []


def _entry(path: Path, row: Mapping[str, Any]) -> Entry:
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise ZooError(f"{path}: {TABLE} says {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    flags = {name: tuple(shlex.split(row.get(name, ""))) for name in ("small", "full")}
    return Entry(path, **{**row, **flags})
