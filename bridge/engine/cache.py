"""The engine cache on disk, shared by all processes of a user.

An entry is an ordinary engine file, <folder>/engines/<key>.engine, written atomically. Its builder holds the lock
<key>.lock, which is released when the process ends. The least recently used entries are removed first.

An engine holds code for the GPU, so no file of another user is ever loaded. The folder must belong to this user or the
administrator, and no one else may read it or write to it. Otherwise there is no cache.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.base.cache_folder import VARIABLE, folder_of
from bridge.base.files import is_temporary, own_folder, remove_abandoned
from bridge.base.locks import locked
from bridge.base.log import logger
from bridge.base.text import parse_size, size
from bridge.config import Config
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError

SIZE_VARIABLE = "BRIDGE_CACHE_SIZE"

_DEFAULT_SIZE = 20 << 30
_KEY = "cache_key"  # in the metadata of an entry
_ENTRY = re.compile(r"([0-9a-f]{64})\.engine")
_LOCK = re.compile(r"[0-9a-f]{64}\.lock")


@dataclass(frozen=True)
class Entry:
    """An engine in the cache. used: seconds since the epoch, when it was built or taken last."""

    key: str
    path: Path
    size: int
    used: float


class EngineCache:
    """The engines of one folder, of at most `limit` bytes together.

    A fault of the folder or of an entry is logged as a warning and costs a build at most.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._engines = folder / "engines"

    @classmethod
    def of(cls, config: Config) -> "EngineCache | None":
        """The cache that a config asks for, or None. ValueError: BRIDGE_CACHE_SIZE is no size."""
        if not config.cache:
            return None
        return cls(folder_of(config.cache_dir), config.cache_size or default_size())

    def get_or_build(self, key: str, build: Callable[[], EngineFile]) -> tuple[EngineFile, bool]:
        """The engine of a key and True, or what `build` makes and False; that is stored.

        Exceptions of `build` pass through.
        """
        if not self._is_usable():
            return build(), False
        cached = self._load_entry(key)
        if cached is not None:
            return cached, True
        with self._lock(key):
            cached = self._load_entry(key)  # another process may have built it meanwhile
            if cached is not None:
                return cached, True
            logger.info("cache miss: %s", key)
            file = build()
            file = replace(file, metadata={**file.metadata, _KEY: key})
            self._store(key, file)
            return file, False

    def entries(self) -> list[Entry]:
        """All entries, the most recently used first."""
        return sorted(self._scan(), key=lambda entry: -entry.used)

    def clear(self, keys: Sequence[str] = ()) -> list[Entry]:
        """Removes the entries whose keys begin with one of `keys`, or all; returns what was removed."""
        chosen = [entry for entry in self.entries() if not keys or entry.key.startswith(tuple(keys))]
        return [entry for entry in chosen if self._remove(entry.path)]

    def prune(self, limit: int | None = None, keep: str | None = None) -> list[Entry]:
        """Removes the least recently used entries until `limit` bytes are left, and temporary files of dead processes.

        keep: the key of an entry that is not removed.
        """
        for path in [*self._paths(self._engines), *self._paths(self.folder)]:
            if is_temporary(path.name) or _LOCK.fullmatch(path.name):
                remove_abandoned(path)
        limit = self.limit if limit is None else limit
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in reversed(entries):
            if total > limit and entry.key != keep and self._remove(entry.path):
                total -= entry.size
                removed.append(entry)
        return removed

    def verify(self) -> dict[str, str]:
        """Reads every entry in full; returns what is wrong, by file name."""
        faults = {entry.path.name: self._fault(entry) for entry in self.entries()}
        return {name: fault for name, fault in faults.items() if fault is not None}

    def _fault(self, entry: Entry) -> str | None:
        try:
            self._read(entry.key)
        except EngineFileError as error:
            return str(error)
        return None

    def path(self, key: str) -> Path:
        """The path of the entry of a key, which need not exist."""
        return self._engines / f"{key}.engine"

    def _read(self, key: str) -> EngineFile:
        path = self.path(key)
        file = EngineFile.load(path)
        if file.metadata.get(_KEY) != key:
            raise EngineFileError(f"{path}: it is the entry of {file.metadata.get(_KEY)!r}")
        return file

    def _load_entry(self, key: str) -> EngineFile | None:
        path = self.path(key)
        if not os.path.lexists(path):
            return None
        try:
            file = self._read(key)
        except EngineFileError as error:
            if os.path.lexists(path):  # or another process has removed it just now
                logger.warning("the cached engine is not usable and is built again: %s", error)
                self._remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used last now
        logger.info("cache hit: %s", path)
        return file

    def _store(self, key: str, file: EngineFile) -> None:
        path = self.path(key)
        try:
            file.save(path, private=True)
            written = path.stat().st_size
        except (OSError, EngineFileError) as error:
            self._warn(error)
            return
        if written > self.limit:
            self._remove(path)
            logger.warning(
                "the engine has %s, the cache at most %s: it is not kept; set %s, or cache_size",
                *(size(written), size(self.limit), SIZE_VARIABLE),
            )
        else:
            self.prune(keep=key)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """One process at a time builds a key. Where the file system has no locks, every process builds."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._engines / f"{key}.lock", "another process builds the same engine"))
            except OSError as error:
                self._warn(error)
            yield

    def _is_usable(self) -> bool:
        """Whether the folder exists and is this user's alone; it is created, or its mode corrected, if need be."""
        try:
            own_folder(self.folder)
            own_folder(self._engines, private=True)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _scan(self) -> Iterator[Entry]:
        for path in self._paths(self._engines):
            match = _ENTRY.fullmatch(path.name)
            with contextlib.suppress(OSError):  # another process has removed it
                if match:
                    stat = path.stat()
                    yield Entry(match[1], path, stat.st_size, stat.st_mtime)

    def _paths(self, folder: Path) -> list[Path]:
        """The files of a folder; none where it does not exist."""
        try:
            return list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._warn(error)
            return []

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        logger.warning(
            "the engine cache %s is not usable: %s; set %s to a folder that can be written to, or cache=False",
            *(self.folder, error, VARIABLE),
        )


def default_size() -> int:
    """Bytes that the environment allows. ValueError: it names no size."""
    text = os.environ.get(SIZE_VARIABLE)
    return _DEFAULT_SIZE if not text else parse_size(text, SIZE_VARIABLE)
