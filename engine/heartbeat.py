"""Heartbeats of the processes of a run, in the store that they share: a killed process stops sending them."""

import atexit
import contextlib
import socket
import threading
import time
from collections.abc import Iterable

BEAT_S = 5.0
LOOK_S = 1.0
SILENT_S = 60.0  # time without a heartbeat until a process counts as dead; it beats even while it reads images


def beat(store, rank: int, name: str) -> None:
    """Write a heartbeat of this process into the store every few seconds, from a thread, until the process ends."""
    stop, who = threading.Event(), f"{name} ({socket.gethostname()})"

    def write() -> None:
        count = 0
        with contextlib.suppress(RuntimeError):  # the store ended with the first process or its launcher
            while not stop.wait(BEAT_S if count else 0):
                count += 1
                store.set(_key(rank), f"{count} {who}")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()

    def end() -> None:  # a thread that is inside torch would crash Python at exit
        stop.set()
        thread.join(BEAT_S)

    atexit.register(end)


def has_beaten(store, rank: int) -> bool:
    """Return whether a process has sent a heartbeat."""
    return store.check([_key(rank)])


class Watch:
    """Find a process that no longer sends heartbeats.

    Silence is counted in checks by this process, since the clocks of nodes differ and a whole job may be suspended for a while.
    """

    def __init__(self, store):
        self._store, self._looked = store, 0.0
        self._last: dict[int, str] = {}
        self._unchanged: dict[int, int] = {}  # rank -> checks in a row without a new heartbeat

    def find_silent(self, ranks: Iterable[int]) -> str | None:
        """Return the name of one of these processes that has been silent for too long, or None; may be called at any rate."""
        if time.monotonic() < self._looked + LOOK_S:
            return None
        self._looked = time.monotonic()
        for rank in ranks:
            sign = self._store.get(_key(rank)).decode() if self._store.check([_key(rank)]) else f"0 process {rank}"
            self._unchanged[rank] = self._unchanged.get(rank, 0) + 1 if sign == self._last.get(rank) else 0
            self._last[rank] = sign
            if self._unchanged[rank] * LOOK_S >= SILENT_S:
                return sign.partition(" ")[2]
        return None


def _key(rank: int) -> str:
    return f"alive {rank}"
