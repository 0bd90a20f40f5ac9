"""Locks between processes, which the system releases when their process is killed."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path, timeout_s: float = 0.0, *, removes: bool = False, what: str = "") -> Iterator[bool]:
    """Hold a lock; yield whether it became free in time, or True if the file system has no locks.

    Args:
        timeout_s: how long to wait; -1: until it is free.
        removes: whether to remove the lock's file at the end. A file that a killed process leaves means nothing.
        what: shown before waiting, what the other process does: "reading images"; empty: nothing is shown.
    """
    lock = FileLock(path)
    is_free = _acquire(lock, 0.0)
    if not is_free and timeout_s:
        if what:
            log.info("%s: another process is doing this; waiting", what)
        is_free = _acquire(lock, timeout_s)
    try:
        yield is_free
    finally:
        if removes and lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()  # before the release, since afterwards it could be another process's
        lock.release()


def _acquire(lock: FileLock, timeout_s: float) -> bool:
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    except (OSError, NotImplementedError):  # a file system that is read-only, full or without locks
        pass
    return True


@contextlib.contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Let one process do what all processes that see this lock file need: those of a machine, or of a shared disk.

    The others wait and then enter the block too, which checks whether the result exists. Without locks, each process does it.

    Args:
        what: as of `locked`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, -1, removes=True, what=what):
        yield
