"""The models of the zoo, as declared by their scripts.

A script takes part by a list ZOO of dictionaries of constants, beside its `bridge_model(argv)`:

    small, full     flags of a configuration for tests, and of the model's real sizes
    part            the part of the model, where the script has several
    about           what the full configuration is
    rank            models are measured in the order of their ranks; 1 is first
    unordered       True where rounding decides the order of the result's rows, along axis 1
"""

import ast
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bridge
from bridge.base.text import listing
from bridge.errors import BridgeError, UnknownNameError

TABLE = "ZOO"
_KEYS = {"small", "full", "part", "about", "rank", "unordered"}


class ZooError(BridgeError):
    """The folder has no models, or a script's table is invalid."""


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
        """The name of the script, and of the part if it has one."""
        return f"{self.path.stem}, {self.part}" if self.part else self.path.stem

    def flags(self, full: bool) -> tuple[str, ...]:
        """The flags of a configuration."""
        return self.full if full else self.small


def folder() -> Path:
    """The folder models/ beside the package, or within an installed one. ZooError: there is neither."""
    candidates = [Path(bridge.__file__).parents[1] / "models", Path(__file__).parent / "models"]
    scripts = next((candidate for candidate in candidates if (candidate / "common.py").is_file()), None)
    if scripts is None:
        raise ZooError(
            f"there are no model scripts in {' or '.join(map(str, candidates))}; --models names their folder, which is"
            " models/ of bridge's sources"
        )
    return scripts


def find(scripts: Path, texts: Sequence[str] = ("",)) -> list[Entry]:
    """The entries whose name contains one of `texts`, by rank.

    UnknownNameError: there is none. ZooError: the folder has no entry at all.
    """
    entries = [entry for path in sorted(scripts.glob("*.py")) for entry in of_script(path)]
    chosen = sorted(
        (entry for entry in entries if any(text in entry.name for text in texts)), key=lambda entry: entry.rank
    )
    if not entries:
        raise ZooError(f"no script in {scripts} has a list {TABLE}")
    if not chosen:
        known = listing([entry.name for entry in entries], texts[0])
        raise UnknownNameError(f"no model's name holds {' or '.join(map(repr, texts))}; there are {known}")
    return chosen


def of_script(path: Path) -> list[Entry]:
    """The entries of one script, which is not executed; none without a table. ZooError: the table is invalid."""
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
