"""Find out from /proc/stat who used the cores while something was timed: this process, other processes, or the host."""

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
SPARE_CORES = 0.25  # share of a needed core that other processes may use, since the system always uses some
TICKS_S = 0.02  # precision of /proc/stat in seconds


class CoreUse(NamedTuple):
    """How the cores that this process may use were used over a period."""

    wall_s: float
    cores: int
    own_s: float  # used by this process and those that it has started, such as loader workers
    others_s: float | None  # used by all other processes; None: unknown on this system
    stolen_s: float | None  # given to other virtual machines by the host; None: unknown on this system

    def describe_shortage(self, threads: int, what: str) -> str | None:
        """Return who used cores that `threads` threads of `what` needed; None if nobody did or it is unknown.

        The load average does not show this: a run that has just read its images has raised it. What counts is whether the
        cores have room for the threads and for what others use.
        """
        if self.others_s is None:
            return None
        free_s = max(0, self.cores - threads + SPARE_CORES) * self.wall_s + TICKS_S
        if self.others_s + self.stolen_s <= free_s:
            return None
        who, seconds = "other processes used", self.others_s
        if self.stolen_s > self.others_s:
            who, seconds = "other virtual machines took", self.stolen_s
        return f"{who} {seconds / self.wall_s:.1f} of {self.cores} cores, and {what} needs {threads}"


class CoreWatch:
    """Watch the cores of this process from now on."""

    def __init__(self):
        self._before = _read()

    def used(self) -> CoreUse:
        """Return how the cores were used since this object was created."""
        before, now = self._before, _read()
        wall_s, own_s = now.wall_s - before.wall_s, now.own_s - before.own_s
        if before.busy_s is None or now.busy_s is None:
            return CoreUse(wall_s, len(own_cores()), own_s, None, None)
        others_s = max(0.0, now.busy_s - before.busy_s - own_s)
        return CoreUse(wall_s, len(own_cores()), own_s, others_s, max(0.0, now.stolen_s - before.stolen_s))


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class _Reading(NamedTuple):
    wall_s: float
    own_s: float
    busy_s: float | None  # busy time of the cores since the machine started
    stolen_s: float | None


def _read() -> _Reading:
    own_s, wall_s = time.process_time() + _started_s(), time.perf_counter()
    try:
        lines = [line.split() for line in (PROC / "stat").read_text().splitlines()]
        ticks = {name: list(map(int, values)) for name, *values in lines if name.startswith("cpu")}
        own = [ticks[f"cpu{core}"] for core in own_cores()]
        # busy: user, nice, system, irq and softirq, without idle and iowait in between; then steal
        busy, stolen = (sum(times[index] for times in own for index in places) for places in ((0, 1, 2, 5, 6), (7,)))
        per_s = os.sysconf("SC_CLK_TCK")
        return _Reading(wall_s, own_s, busy / per_s, stolen / per_s)
    except (OSError, ValueError, LookupError, AttributeError):
        return _Reading(wall_s, own_s, None, None)


def _started_s() -> float:
    """Return the processor time in seconds of the processes that this one has started, and of their children."""
    parents, ticks = {}, {}
    for file in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            values = file.read_text(errors="replace").rpartition(")")[2].split()  # a name may hold anything
            parents[int(file.parent.name)] = int(values[1])
            ticks[int(file.parent.name)] = sum(map(int, values[11:15]))  # including its children that have ended
    own, new = set(), {os.getpid()}
    while new:
        own |= new
        new = {number for number, parent in parents.items() if parent in own} - own
    ended = os.times()
    running = sum(ticks.get(number, 0) for number in own - {os.getpid()})
    return ended.children_user + ended.children_system + (running / os.sysconf("SC_CLK_TCK") if running else 0.0)
