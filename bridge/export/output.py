"""A folder that appears when it is complete."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from bridge.errors import EngineFileError


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """An empty folder beside `path`, which becomes `path` when the block ends, and is removed if the block fails.

    force: what is at `path` is replaced.
    EngineFileError: `path` is a file, or a folder that is not empty, or cannot be written.
    """
    path = path.resolve()
    try:
        _check_free(path, force)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.parent / f".{path.name}-{secrets.token_hex(8)}"
        staging.mkdir()
        try:
            yield staging
            _move(staging, path, force)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise EngineFileError(f"cannot write {path}: {error.strerror or error}") from error


def _check_free(path: Path, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise EngineFileError(f"{path} is no folder; name another one to write to")
    if path == Path.cwd():
        raise EngineFileError(f"{path} is the current folder, which the new one would replace; name another one")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise EngineFileError(f"the folder {path} is not empty; name another one, or replace it with --force")


def _move(staging: Path, path: Path, force: bool) -> None:
    """Puts the folder in place. What was there before goes, but not before; by force alone where it is not empty."""
    if not (force and path.is_dir()):
        staging.replace(path)
        return
    old = path.parent / f"{staging.name}-old"
    path.rename(old)
    try:
        staging.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
