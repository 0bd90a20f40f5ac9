"""Time a forward pass: when no other measurement runs, for long enough, and with what disturbed it."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common.locks import locked

WARM_UP = 3  # passes before the clock starts
LEAST_REPEATS, MOST_REPEATS = 5, 200
LONG_ENOUGH_S = 0.5  # of measuring, after which the least number of repeats is enough
LARGEST_RATIO = 3.0  # of p95 to p50, above which a figure is flagged
SPARE_CORES = 0.25  # that other processes may use of those that a pass needs, since the system always uses some
LEAST_SHARE = 0.75  # of the time that a process which only computes has a core
TICKS_S = 0.02  # to which /proc/stat is exact
LONGEST_REPEATED_S = 3.0  # a disturbed measurement that took longer is not repeated
LONGEST_WAIT_S = 60  # for another measurement on this machine


def time_passes(one_pass: Callable[[], object], threads: int | None) -> dict:
    """Time a pass: milliseconds, p50 and p95 over repeats after a warm-up, with what is known of their conditions.

    A measurement waits for those of the user's other processes on this machine, at most LONGEST_WAIT_S. One that was
    disturbed is repeated once; where that one is disturbed as well, the faster one is returned, flagged.

    Args:
        threads: on the processor that a pass computes with; None: it computes elsewhere, so that only the spread of the
            times can show a disturbance.
    """
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    with locked(_lock_file(), LONGEST_WAIT_S) as is_single:
        started = time.perf_counter()
        found = _time_once(one_pass, threads)
        if found["flag"] and time.perf_counter() - started < LONGEST_REPEATED_S:
            found = min(
                found, _time_once(one_pass, threads), key=lambda each: (bool(each["flag"]), each["latency_p50_ms"])
            )
    if not is_single:
        found["flag"] = found["flag"] or f"another measurement on this machine took over {LONGEST_WAIT_S} s"
    return found | {"threads": threads, "cores": len(_own_cores()), "load_1min": load}


def _time_once(one_pass: Callable[[], object], threads: int | None) -> dict:
    for _ in range(WARM_UP):
        one_pass()
    times_s: list[float] = []
    busy_s, own_s, started = _busy_s(), time.process_time(), time.perf_counter()
    while len(times_s) < LEAST_REPEATS or (len(times_s) < MOST_REPEATS and sum(times_s) < LONG_ENOUGH_S):
        before = time.perf_counter()
        one_pass()
        times_s.append(time.perf_counter() - before)
    wall_s, own_s = time.perf_counter() - started, time.process_time() - own_s
    others_s = None if busy_s is None else max(0.0, _busy_s() - busy_s - own_s)
    p50, p95 = statistics.median(times_s) * 1000, statistics.quantiles(times_s, n=20, method="inclusive")[18] * 1000
    return {
        "latency_p50_ms": round(p50, 3),
        "latency_p95_ms": round(p95, 3),
        "repeats": len(times_s),
        "warm_up": WARM_UP,
        "flag": find_disturbance(p95 / p50, threads, len(_own_cores()), wall_s, own_s, others_s),
    }


def find_disturbance(
    ratio: float, threads: int | None, cores: int, wall_s: float, own_s: float, others_s: float | None
) -> str | None:
    """Say what disturbed a measurement; None where nothing did.

    The load average is no sign: a run that has just read its images has raised it itself. What counts is the time of the
    cores during the passes: that of other processes must fit beside `threads`, and a process that only computes
    uses at least one core all the time.

    Args:
        ratio: p95 / p50 of the times.
        threads: of a pass; None: it does not compute on the processor.
        wall_s, own_s, others_s: duration, and the processor time of this and of all other processes on its cores; None: the
            system does not tell.
    """
    if threads is not None:
        free_s = max(0, cores - threads + SPARE_CORES) * wall_s + TICKS_S
        if others_s is not None and others_s > free_s:
            return f"other processes used {others_s / wall_s:.1f} of {cores} cores, and a pass needs {threads}"
        if own_s < LEAST_SHARE * wall_s:
            return f"the process had a core for only {own_s / wall_s:.0%} of the time"
    return f"p95 is {ratio:.1f} times p50" if ratio > LARGEST_RATIO else None


def _lock_file() -> Path:
    """Return the lock that lets one process of this user measure at a time."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"justenough-latency-{user}.lock")


def _own_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _busy_s() -> float | None:
    """Return the seconds that the cores of this process were in use since the machine started; None where that is not known."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = {name: list(map(int, values)) for name, *values in lines if name.startswith("cpu")}
        own = [ticks[f"cpu{core}"] for core in _own_cores()]
        # user, nice, system, irq, softirq and steal; in between idle and iowait
        used = [sum(times[index] for times in own) for index in (0, 1, 2, 5, 6, 7)]
        return sum(used) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, LookupError, AttributeError):
        return None
