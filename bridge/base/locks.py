"""Lock files between processes, with a timeout.

A lock is released when its process ends. A stopped or hanging process keeps it. A waiting process logs this. After
BRIDGE_LOCK_TIMEOUT seconds (default: 600) it proceeds without the lock. Files stay intact, since writes are atomic;
work may be done twice.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge.base.log import logger

VARIABLE = "BRIDGE_LOCK_TIMEOUT"

_DEFAULT_TIMEOUT = 600.0  # seconds
_PATIENCE = 30.0  # seconds of waiting before a warning
_NAPS = (0.02, 0.5)  # seconds between attempts: the first pause and the longest
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`, and removes it at the end. While it waits, it logs `what`.

    After the timeout, or where the file system has no locks, it proceeds without the lock.
    OSError: the file cannot be made. ValueError: BRIDGE_LOCK_TIMEOUT is no number of seconds.
    """
    deadline = time.monotonic() + timeout()
    with _holding(path, lambda descriptor: _wait(descriptor, path, what, deadline)):
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """As `locked`, but never waits; gives whether it holds the lock. OSError: the file cannot be made or locked."""
    with _holding(path, try_lock) as descriptor:
        yield descriptor is not None


def hold(folder: Path) -> int | None:
    """A descriptor of a folder that is locked, with others who hold it, until it is closed or the process ends.

    `files.unused` tells. None: the folder is gone, or its file system has no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """As `hold`, within the block; makes the folder where there is none. OSError: it cannot be made."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def _holding(path: Path, wait: Callable[[int], bool]) -> Iterator[int | None]:
    descriptor = _lock(path, wait)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while locked: a waiting process sees that it is gone, and makes another
            os.close(descriptor)


def timeout() -> float:
    """Seconds to wait for a lock. ValueError: the environment variable is no number of seconds."""
    text = os.environ.get(VARIABLE, "").strip()
    try:
        seconds = float(text) if text else _DEFAULT_TIMEOUT
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{VARIABLE} is {text!r}; expected a number of seconds such as 600")
    return seconds


def try_lock(descriptor: int) -> bool:
    """Locks an open file if no other process has; returns whether it did. OSError: the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(path: Path, wait: Callable[[int], bool]) -> int | None:
    """A descriptor of the file at `path` that `wait` has locked; None: it has not. OSError: the file cannot be made."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "is no regular file", str(path))
            if not wait(descriptor):
                os.close(descriptor)
                return None
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it: the next process locks a new file


def _wait(descriptor: int, path: Path, what: str, deadline: float) -> bool:
    """Waits for the lock; returns whether it is held. OSError: any but missing support for locks."""
    started, nap, warned = time.monotonic(), _NAPS[0], False
    try:
        if try_lock(descriptor):
            return True
        logger.info("%s; waiting for %s", what, path)
        while not try_lock(descriptor):
            now = time.monotonic()
            if now >= deadline:
                logger.warning("%s%s; going on without waiting any longer for %s", what, _holder(descriptor), path)
                return False
            holder = _holder(descriptor)
            if not warned and (now - started > _PATIENCE or "stopped" in holder):
                warned = True
                remaining = deadline - now
                logger.warning("%s%s; waiting for %s, for %.0f s at most (%s)", what, holder, path, remaining, VARIABLE)
            time.sleep(min(nap, max(deadline - now, 0)))
            nap = min(2 * nap, _NAPS[1])
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _holder(descriptor: int) -> str:
    """Text on the process that holds a lock, and whether it is stopped; "" where the system does not tell."""
    try:
        status = os.fstat(descriptor)
        inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pids = [row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == inode]
        if not pids or int(pids[0]) <= 0:
            return ""
        state = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):  # not Linux, or the process has ended since
        return ""
    return f" (process {pids[0]}{', which is stopped' if state in 'Tt' else ''})"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
