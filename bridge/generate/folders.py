"""Folders with generated libraries: those of the cache, and those that were shipped.

A folder holds lib<namespace>_plugins.so and library.json, which says what is in it; see native/report.py.
BRIDGE_GENERATED_PATH lists folders that `bridge build-ops` made, and folders of these.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.base import cache_folder
from bridge.base.files import read_object, sha256
from bridge.base.log import warn_once  # libraries are looked through for every plugin of a model
from bridge.core.device_code import device_codes, lacking_text
from bridge.engine_file import checks
from bridge.errors import EngineFileError

DESCRIPTION = "library.json"
PATH_VARIABLE = "BRIDGE_GENERATED_PATH"

_EXTENTS = checks.optional(checks.sequence(checks.scalar))
_NAMED = {"name": checks.name, "dtype": checks.optional(checks.name), "shape": _EXTENTS}
_SYMBOL = {"name": checks.name} | dict.fromkeys(("input", "axis", "low", "high"), checks.integer(0))
_REGION = {"conditions": checks.sequence(checks.text), "steps": checks.sequence(checks.mapping(checks.plain))}
_CODE = checks.record(
    {"cubin_bytes": checks.integer(0)}, {"compressed_bytes": checks.integer(0), "seconds": checks.seconds}
)
_KERNEL = {
    "function": checks.name,
    "file": checks.text,
    "line": checks.integer(0),
    "constants": checks.mapping(checks.text),
    "options": checks.mapping(checks.text),
    "targets": checks.mapping(_CODE),
}
_OP = {
    "name": checks.name,
    "operator": checks.name,
    "inputs": checks.sequence(checks.record(_NAMED)),
    "outputs": checks.of(list),
    "symbols": checks.sequence(checks.record(_SYMBOL)),
    "workspace_bytes": checks.integer(0),
    "regions": checks.sequence(checks.record(_REGION)),
    "kernels": checks.sequence(checks.record(_KERNEL)),
}
_LIBRARY = checks.record(
    {
        "namespace": checks.name,
        "targets": checks.sequence(checks.name),
        "seconds": checks.mapping(checks.seconds),
        "ops": checks.sequence(checks.record(_OP)),
    },
    {"sha256": checks.name},  # an ejected library, which users change, has none
)


@dataclass(frozen=True)
class Generated:
    """A generated library. path: its folder. description: of library.json, checked."""

    path: Path
    description: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """Of its plugins."""
        return str(self.description["namespace"])

    @property
    def library(self) -> Path:
        """The file."""
        return self.path / f"lib{self.namespace}_plugins.so"

    @property
    def ops(self) -> list[dict[str, Any]]:
        """A description of each of its plugins."""
        return list(self.description["ops"])

    def op(self, local_name: str) -> dict[str, Any] | None:
        """The description of a plugin; None: it has none of that name."""
        return next((row for row in self.ops if row["name"] == local_name), None)

    def is_whole(self) -> bool:
        """Whether the file is as it was built; of an ejected library, whether there is one."""
        try:
            found = sha256(self.library)
            return bool(self.description.get("sha256", found) == found)
        except OSError:
            return False

    def lacking_text(self, target: str | None) -> str | None:
        """What code the file has, where none of it runs on a target; None: some does, or any target will do."""
        return None if target is None else lacking_text(device_codes(self.library), target)


def read(folder: Path) -> Generated:
    """The library of a folder. ValueError, OSError: it holds no description of one."""
    description = read_object(folder / DESCRIPTION, "generated library")
    try:
        _LIBRARY(description, "it")
    except EngineFileError as error:
        raise ValueError(f"{folder / DESCRIPTION} is no generated library: {error}") from error
    return Generated(folder, description)


def is_ejected(folder: Path) -> bool:
    """Whether a folder holds a library that users may have changed."""
    try:
        return "sha256" not in read(folder).description
    except (OSError, ValueError):
        return False


def is_whole(folder: Path, namespace: str) -> bool:
    """Whether a folder holds a library of a namespace as it was built."""
    try:
        found = read(folder)
    except (OSError, ValueError):
        return False
    return found.namespace == namespace and found.is_whole()


def shipped() -> Iterator[Generated]:
    """The libraries on BRIDGE_GENERATED_PATH, in its order. A folder without one is passed over with a warning."""
    for entry in filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep)):
        root = Path(entry).absolute()
        places = [each.parent for pattern in (DESCRIPTION, f"*/{DESCRIPTION}") for each in sorted(root.glob(pattern))]
        if not places:
            warn_once(f"{PATH_VARIABLE} names {root}, which has no {DESCRIPTION}")
        for place in places:
            try:
                yield read(place)
            except (OSError, ValueError) as error:
                warn_once(f"{PATH_VARIABLE}: {error}")


def cached(namespace: str = "*") -> Iterator[Generated]:
    """The libraries in the cache, the one that was used last first."""
    found = [each.parent for each in cache_folder.folder_of().glob(f"generated/{namespace}/[!.]*/{DESCRIPTION}")]
    for folder in sorted(found, key=_used, reverse=True):
        with contextlib.suppress(OSError, ValueError):  # what is damaged is built again when it is needed
            yield read(folder)


def whole() -> list[Generated]:
    """Every library that is as it was built, shipped ones first."""
    return [each for each in itertools.chain(shipped(), cached()) if each.is_whole()]


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0


def holding(name: str, target: str | None, *, only_shipped: bool = False) -> Generated | None:
    """A whole library with the plugin of that qualified name, and code for a target; shipped ones come first."""
    namespace, _, local_name = name.partition("::")
    for each in shipped():
        if _has(each, namespace, local_name):
            lacking = each.lacking_text(target)
            if lacking is None:
                return each
            warn_once(f"{PATH_VARIABLE}: {each.library} is not used for {target}: it holds {lacking}")
    candidates = [] if only_shipped else cached(namespace)
    return next((e for e in candidates if _has(e, namespace, local_name) and e.lacking_text(target) is None), None)


def _has(library: Generated, namespace: str, local_name: str) -> bool:
    """Whether a library has a plugin, and is as it was built; it warns where it is not."""
    if library.namespace != namespace or library.op(local_name) is None:
        return False
    if not library.is_whole():
        warn_once(f"{library.library} is not as {library.path / DESCRIPTION} describes it, and is not used")
        return False
    return True
