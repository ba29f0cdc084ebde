"""Atomic writes of files that processes share, and checks of files and folders that other users may have made."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bridge.base import locks

_SUFFIX = ".tmp"
_LARGEST_OBJECT = 64 << 20  # bytes of JSON
_SURELY_ABANDONED = 24 * 3600  # seconds; used where the file system has no locks
_SURELY_LOCKED = 60  # seconds within which a live writer locks its file


@contextlib.contextmanager
def replacing(path: Path, private: bool = False) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` when the block ends, and is removed if the block fails.

    private: no other user may read it.
    """
    temporary = path.parent / f".bridge-{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
            with contextlib.suppress(OSError):  # the file system has no locks
                locks.try_lock(file.fileno())  # tells `remove_abandoned` that the writer is alive
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_abandoned(path: Path) -> None:
    """Removes a temporary or lock file of a dead process. No-op if the process lives, or removal fails."""
    with contextlib.suppress(OSError):
        age = time.time() - path.stat().st_mtime
        if age < _SURELY_LOCKED:
            return
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if _is_free(descriptor, age):
                path.unlink()  # while locked: a waiting process sees that it is gone, and makes another
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether no process holds a lock of a file or folder; in the block none can take one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _is_free(descriptor, time.time() - os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int, age: float) -> bool:
    try:
        return locks.try_lock(descriptor)
    except OSError:  # the file system has no locks
        return age > _SURELY_ABANDONED


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `replacing` gives."""
    return name.startswith(".bridge-") and name.endswith(_SUFFIX)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file to read, without blocking. OSError: there is none, or it is a pipe, a folder or the like."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file can have that name: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory, not an engine file", str(path))
    raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_own(path: Path, most: int) -> bytes:
    """The content of a small file that this user or root owns. OSError: it is too large, another's, or no file."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"belongs to user {status.st_uid}", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, of at most {most:,}", str(path))
    return content


def read_object(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The JSON object in a file named by the user. ValueError: it holds none. OSError: it cannot be read."""
    parsed = read_json(path, what)
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} is no {what}: it holds a {type(parsed).__name__}")
    return parsed


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """The JSON value in a file named by the user. ValueError: it holds none. OSError: it cannot be read."""
    with open_regular(path) as file:
        content = file.read(_LARGEST_OBJECT + 1)
    try:
        if len(content) > _LARGEST_OBJECT:
            raise ValueError(f"it has more than {_LARGEST_OBJECT:,} bytes")
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no {what}: {error}") from error


def own_folder(path: Path, private: bool = False) -> None:
    """Makes a folder for this user alone, or checks the owner of an existing one.

    A folder of this user loses write permission for others and, if `private`, read permission. A folder of root is
    accepted if others cannot replace files in it and, if `private`, cannot add files.
    OSError: it cannot be made, or belongs to another user.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    open_to_others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid == os.geteuid():
        safe_mode = mode & ~(0o077 if private else 0o022)
        if mode != safe_mode:
            path.chmod(safe_mode)
    elif status.st_uid != 0 or (open_to_others and (private or not mode & stat.S_ISVTX)):
        raise PermissionError(errno.EPERM, f"belongs to user {status.st_uid}, not to {os.geteuid()}", str(path))


def _sync_folder(folder: Path) -> None:
    """Makes a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. A file that did not change is read once."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
