"""Time a forward pass: when no other measurement runs, for long enough, and with what disturbed it."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common.locks import locked
from common.processor_time import CoreUse, CoreWatch, own_cores

WARM_UP = 3  # passes before the clock starts
LEAST_REPEATS, MOST_REPEATS = 5, 200
LONG_ENOUGH_S = 0.5  # of measuring, after which the least number of repeats is enough
LARGEST_RATIO = 3.0  # of p95 to p50, above which a figure is flagged
LEAST_SHARE = 0.75  # of the time that a process which only computes has a core
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
    return found | {"threads": threads, "cores": len(own_cores()), "load_1min": load}


def _time_once(one_pass: Callable[[], object], threads: int | None) -> dict:
    for _ in range(WARM_UP):
        one_pass()
    times_s: list[float] = []
    watch = CoreWatch()
    while len(times_s) < LEAST_REPEATS or (len(times_s) < MOST_REPEATS and sum(times_s) < LONG_ENOUGH_S):
        before = time.perf_counter()
        one_pass()
        times_s.append(time.perf_counter() - before)
    used = watch.used()
    p50, p95 = statistics.median(times_s) * 1000, statistics.quantiles(times_s, n=20, method="inclusive")[18] * 1000
    return {
        "latency_p50_ms": round(p50, 3),
        "latency_p95_ms": round(p95, 3),
        "repeats": len(times_s),
        "warm_up": WARM_UP,
        "flag": find_disturbance(p95 / p50, threads, used),
    }


def find_disturbance(ratio: float, threads: int | None, used: CoreUse) -> str | None:
    """Say what disturbed a measurement; None where nothing did.

    Args:
        ratio: p95 / p50 of the times.
        threads: of a pass; None: it does not compute on the processor.
        used: what the cores were used for meanwhile; a process that only computes uses at least one all the time.
    """
    if threads is not None:
        if shortage := used.describe_shortage(threads, "a pass"):
            return shortage
        if used.own_s < LEAST_SHARE * used.wall_s:
            return f"the process had a core for only {used.own_s / used.wall_s:.0%} of the time"
    return f"p95 is {ratio:.1f} times p50" if ratio > LARGEST_RATIO else None


def _lock_file() -> Path:
    """Return the lock that lets one process of this user measure at a time."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"justenough-latency-{user}.lock")
