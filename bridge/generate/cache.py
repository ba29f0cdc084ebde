"""The limit of the cache of generated libraries, <cache>/generated.

It holds the folders of libraries, see build.py, Triton's compiled kernels in `triton/`, and bridge's own objects. What
other versions of bridge or Triton made goes first, then what was not used for longest. What a process has in use, as
`keep` and locks tell, stays.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bridge.base import cache_folder
from bridge.base.files import read_object, remove_abandoned, unused
from bridge.base.locks import hold, locked_if_free
from bridge.base.text import parse_size
from bridge.generate.folders import DESCRIPTION
from bridge.generate.native import triton_private
from bridge.generate.native.canonical import made_by

SIZE_VARIABLE = "BRIDGE_GENERATED_SIZE"
TRITON = "triton"
"""The folder of Triton's own cache."""

_DEFAULT_SIZE = 5 << 30
_RECENT = 60  # seconds within which a process that took an entry from the cache holds it
_ABANDONED = 24 * 3600  # seconds after which a folder that is still being written is a dead process's
_kept: dict[tuple[Path, int], int | None] = {}  # folder and inode → what `hold` gave


@dataclass(frozen=True)
class Entry:
    """What is removed as a whole: the folder of a library or of a kernel, or a file of objects.

    size: in bytes. used: seconds since the epoch, when it was made or taken last. is_library: it is the first.
    """

    path: Path
    size: int
    used: float
    is_library: bool


def root_of(cache_dir: str | None = None) -> Path:
    """The folder of generated libraries in a cache; by default in the environment's."""
    return cache_folder.folder_of(cache_dir) / "generated"


def default_size() -> int:
    """Bytes that the environment allows. ValueError: it names no size."""
    text = os.environ.get(SIZE_VARIABLE)
    return _DEFAULT_SIZE if not text else parse_size(text, SIZE_VARIABLE)


def keep(folder: Path) -> None:
    """Notes that a folder of the cache is used now, and has it stay while this process lives."""
    if root_of().absolute() not in folder.absolute().parents:
        return
    with contextlib.suppress(OSError):  # it is gone, or not this user's
        os.utime(folder)
        key = folder.absolute(), folder.stat().st_ino
        if key not in _kept:
            _kept[key] = hold(folder)


def entries(root: Path) -> list[Entry]:
    """All entries, the most recently used first."""
    found = [entry for path in _paths(root) if (entry := _entry(path)) is not None]
    return sorted(found, key=lambda entry: -entry.used)


def prune(root: Path, limit: int) -> list[Entry]:
    """Removes entries until `limit` bytes are left, and what dead processes left behind; returns the entries."""
    _remove_abandoned(root)
    found = entries(root)
    total = sum(entry.size for entry in found)
    if total <= limit:
        return []
    removed = []
    for entry in sorted(found, key=lambda entry: (_is_current(entry), entry.used)):
        if total > limit and time.time() - entry.used > _RECENT and _remove(entry.path):
            total -= entry.size
            removed.append(entry)
    return removed


def clear(root: Path) -> list[Entry]:
    """Removes all entries that no process has in use; returns them."""
    return [entry for entry in entries(root) if _remove(entry.path)]


def _paths(root: Path) -> Iterator[Path]:
    yield from root.glob("*.o")
    yield from (path for path in root.glob("*/[!.]*") if path.is_dir())


def _entry(path: Path) -> Entry | None:
    """None: another process has removed it."""
    try:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        size = sum(each.lstat().st_size for each in files)
        return Entry(path, size, path.stat().st_mtime, path.is_dir() and path.parent.name != TRITON)
    except OSError:
        return None


def _is_current(entry: Entry) -> bool:
    """Whether this bridge and Triton would make the same."""
    if entry.is_library:
        return _value(entry.path / DESCRIPTION, "made_by") == made_by()
    versions = {_value(path, "triton_version") for path in entry.path.glob("*.json")} - {None}
    return versions <= {triton_private.version()}


def _value(path: Path, key: str) -> object:
    try:
        return read_object(path, "description").get(key)
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> bool:
    """Removes a file or folder unless it is in use; returns whether it did."""
    try:
        with (
            locked_if_free(path.with_suffix(".lock")) as is_free,
            unused(path.parent) as is_unused_around,
            unused(path) as is_unused,
        ):
            if not (is_free and is_unused_around and is_unused):
                return False
            _take_away(path)
    except OSError:
        return False
    return True


def _take_away(path: Path) -> None:
    """Removes a file or folder, at once as others see it."""
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
    try:
        path.rename(aside / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for path in [*root.glob(".*"), *root.glob("*/.*")]:
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
    for path in [*root.glob("*.lock"), *root.glob("*/*.lock")]:
        remove_abandoned(path)
