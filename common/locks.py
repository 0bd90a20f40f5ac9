"""Locks between processes, which the system releases where their process is killed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def locked(path: Path, timeout_s: float = 0.0, *, removes: bool = False) -> Iterator[bool]:
    """Hold a lock; yield whether it was free within the time, True too where there are no locks.

    Args:
        timeout_s: how long to wait; -1: until it is free.
        removes: whether the lock's file is removed at the end. Left by a killed process it means nothing.
    """
    lock, is_free = FileLock(path, timeout=timeout_s), True
    try:
        lock.acquire()
    except Timeout:
        is_free = False
    except (OSError, NotImplementedError):  # a file system that is read-only, full or without locks
        pass
    try:
        yield is_free
    finally:
        if removes and lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()  # before the release: afterwards it could be another process's
        lock.release()
