"""Time a forward pass for long enough, while no other measurement runs, and report disturbances."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common.locks import locked
from common.processor_time import CoreUse, CoreWatch, own_cores

WARM_UP = 3  # passes before the clock starts
LEAST_REPEATS, MOST_REPEATS = 5, 200
LONG_ENOUGH_S = 0.5  # seconds of measuring after which LEAST_REPEATS are enough
LARGEST_RATIO = 3.0  # p95 / p50 above which a time is flagged
LEAST_SHARE = 0.75  # share of the time during which a process that only computes has a core
CLOCK_STEP_S = 1 / 64 if sys.platform == "win32" else 0.0  # of time.process_time, which counts clock ticks on Windows
LONGEST_REPEATED_S = 3.0  # a disturbed measurement that took longer is not repeated
LONGEST_WAIT_S = 60  # seconds to wait for another measurement on this machine


def time_passes(one_pass: Callable[[], object], threads: int | None) -> dict:
    """Time a pass: p50 and p95 in milliseconds over repeats after a warm-up, with the known conditions.

    A measurement waits up to LONGEST_WAIT_S for those of the user's other processes on this machine. A disturbed measurement is
    repeated once; if the second is disturbed too, the faster one is returned with its flag.

    Args:
        threads: number of CPU threads that a pass uses; None: it computes elsewhere, so only the spread of the times can show
            a disturbance.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""
    lock = Path(tempfile.gettempdir(), f"justenough-latency-{user}.lock")
    with locked(lock, LONGEST_WAIT_S, what="measuring latency") as is_single:
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
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
    """Return what disturbed a measurement; None if nothing did.

    Args:
        ratio: p95 / p50 of the times.
        threads: CPU threads of a pass; None: it does not compute on the CPU.
        used: how the cores were used meanwhile; a process that only computes uses at least one all the time.
    """
    if threads is not None:
        if shortage := used.describe_shortage(threads, "a pass"):
            return shortage
        if used.own_s + CLOCK_STEP_S < LEAST_SHARE * used.wall_s:
            return f"the process had a core for only {used.own_s / used.wall_s:.0%} of the time"
    return f"p95 is {ratio:.1f} times p50" if ratio > LARGEST_RATIO else None
