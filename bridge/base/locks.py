"""Lock files: one process at a time does what several could, and none waits for ever for another that is stopped.

A lock dies with its process. One that is stopped, or hangs, keeps it: whoever waits says so, and after
BRIDGE_LOCK_TIMEOUT seconds (600 where that is not set) goes on without the lock. No file is spoilt by that, since all
are written whole; work may be done twice.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from bridge.base.log import logger

VARIABLE = "BRIDGE_LOCK_TIMEOUT"

_DEFAULT_TIMEOUT = 600.0  # seconds
_PATIENCE = 30.0  # seconds of waiting that are worth no warning
_NAPS = (0.02, 0.5)  # seconds between two attempts, the first and the longest
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`, and removes it. Waits, and logs that `what` is busy.

    Where the file system has no locks, or another process keeps it for too long, nothing is held.
    OSError: the file cannot be made. ValueError: BRIDGE_LOCK_TIMEOUT is no number of seconds.
    """
    descriptor = _lock(path, what, time.monotonic() + timeout())
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is locked: one who waits for it sees that it is gone, and makes another
            os.close(descriptor)


def timeout() -> float:
    """Seconds after which a lock is not waited for any more. ValueError: the environment names none."""
    text = os.environ.get(VARIABLE, "").strip()
    try:
        seconds = float(text) if text else _DEFAULT_TIMEOUT
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{VARIABLE} is {text!r}; expected a number of seconds such as 600")
    return seconds


def try_lock(descriptor: int) -> bool:
    """Whether an open file is locked now, because no other process had it. OSError: there are no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(path: Path, what: str, deadline: float) -> int | None:
    """A descriptor of the file at `path`, locked, or None: it could not be. OSError: the file cannot be made."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "is no regular file", str(path))
            if not _wait(descriptor, path, what, deadline):
                os.close(descriptor)
                return None
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it: whoever comes now locks another file


def _wait(descriptor: int, path: Path, what: str, deadline: float) -> bool:
    """Whether the lock is held. OSError other than that there are no locks."""
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
                rest = deadline - now
                logger.warning("%s%s; waiting for %s, for %.0f s at most (%s)", what, holder, path, rest, VARIABLE)
            time.sleep(min(nap, max(deadline - now, 0)))
            nap = min(2 * nap, _NAPS[1])
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _holder(descriptor: int) -> str:
    """Which process holds the lock of a file, and whether it is stopped, as far as this system says."""
    try:
        found = os.fstat(descriptor)
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pids = [row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == place]
        if not pids or int(pids[0]) <= 0:
            return ""
        state = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):  # another system, or the process has ended since
        return ""
    return f" (process {pids[0]}{', which is stopped' if state in 'Tt' else ''})"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
