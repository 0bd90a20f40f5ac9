"""The clock of a forward pass: long enough, one at a time, and honest about what disturbed it."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from common.processor_time import CoreUse
from lightning_modules import latency
from lightning_modules.latency import find_disturbance, time_passes


@pytest.fixture
def outcomes(monkeypatch):
    """Let measurements come out as given, one after the other; return what is left of them."""

    def give(*found):
        left = [{"latency_p50_ms": p50, "flag": flag} for p50, flag in found]
        monkeypatch.setattr(latency, "_time_once", lambda *_: left.pop(0))
        return left

    return give


# As measured with one and two threads of two cores while other processes used 1.0 to 1.6 of them: ratio of p95 and p50,
# threads, cores, seconds, of this process, of others. The p50 of the first two were 5.3 ms, the network's own; of the others
# 9.4, 976 (without any spread) and 23 ms
@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((1.34, 1, 2, 0.50, 0.48, 0.52), None),
        ((1.06, 1, 2, 0.50, 0.50, 0.51), None),
        ((1.24, 1, 2, 0.50, 0.36, 0.65), "other processes used 1.3 of 2 cores, and a pass needs 1"),
        ((1.00, 2, 2, 4.88, 4.88, 4.88), "other processes used 1.0 of 2 cores, and a pass needs 2"),
        ((7.85, 2, 2, 0.54, 0.36, 0.73), "other processes used 1.4 of 2 cores"),
        ((1.10, 1, 64, 0.50, 0.50, 60 * 0.50), None),  # a large machine, on which others work beside
        ((1.24, 1, 2, 0.50, 0.30, None), "the process had a core for only 60% of the time"),  # without /proc
        ((3.10, 1, 2, 0.50, 0.50, 0.0), "p95 is 3.1 times p50"),
        ((2.90, None, 2, 0.50, 0.01, 1.0), None),  # a GPU computes: the processor may be somebody else's
        ((1.00, 2, 2, 0.05, 0.10, 0.02), None),  # two ticks of /proc/stat
    ],
)
def test_what_counts_as_a_disturbance(measured, words):
    ratio, threads, cores, wall_s, own_s, others_s = measured
    used = CoreUse(wall_s, cores, own_s, others_s, None if others_s is None else 0.0)
    found = find_disturbance(ratio, threads, used)
    assert found is None if words is None else found.startswith(words)


def test_the_steps_of_windows_clock_are_no_disturbance(monkeypatch):
    """There, the time of a process is a number of ticks of 15.6 ms, and 200 quick passes take a few milliseconds."""
    used = CoreUse(wall_s=0.012, cores=2, own_s=0.0, others_s=None, stolen_s=None)
    assert find_disturbance(1.0, 1, used) == "the process had a core for only 0% of the time"
    monkeypatch.setattr(latency, "CLOCK_STEP_S", 1 / 64)
    assert find_disturbance(1.0, 1, used) is None
    assert "for only 6% of the time" in find_disturbance(1.0, 1, used._replace(wall_s=0.5, own_s=2 / 64))


@pytest.mark.thorough  # takes the cores from the other tests
def test_a_measurement_beside_busy_processes_is_flagged():
    # Of a shell that has ended: what this process starts itself counts as its own
    loop = f"{shlex.quote(sys.executable)} -c 'while True: pass' > /dev/null 2>&1 & echo $!"
    busy = [int(subprocess.check_output(["sh", "-c", loop])) for _ in range(2 * os.cpu_count())]
    try:
        time.sleep(0.3)
        found = time_passes(lambda: sum(range(100_000)), threads=1)
    finally:
        for number in busy:
            os.kill(number, signal.SIGKILL)
    assert found["flag"] and found["cores"] == len(os.sched_getaffinity(0)) and found["load_1min"] >= 0


def test_a_disturbed_measurement_is_repeated_once(outcomes):
    left = outcomes((9.0, "disturbed"), (9.5, None), (1.0, None))
    assert time_passes(None, 1)["latency_p50_ms"] == 9.5 and len(left) == 1
    outcomes((9.0, "disturbed"), (9.5, "again"))
    found = time_passes(None, 1)
    assert (found["latency_p50_ms"], found["flag"]) == (9.0, "disturbed")
    left = outcomes((5.0, None), (1.0, None))
    assert time_passes(None, 1)["latency_p50_ms"] == 5.0 and len(left) == 1


def test_slow_passes_take_half_a_second_and_quick_ones_are_two_hundred(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])

    def passes(seconds):
        return time_passes(lambda: clock.__setitem__(0, clock[0] + seconds), threads=None)

    assert [passes(s)["repeats"] for s in (1e-4, 1 / 1024, 1 / 128, 1 / 16, 1)] == [200, 200, 64, 8, 5]
    found = passes(1 / 16)
    assert (found["latency_p50_ms"], found["latency_p95_ms"], found["flag"]) == (62.5, 62.5, None)


def test_two_processes_of_one_user_do_not_measure_at_the_same_time(outcomes, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(latency.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(latency, "LONGEST_WAIT_S", 0.1)
    outcomes((5.0, None))
    assert time_passes(None, 1)["flag"] is None and not caplog.messages
    (file,) = tmp_path.iterdir()
    with FileLock(file):
        outcomes((5.0, None))
        assert time_passes(None, 1)["flag"] == "another measurement on this machine took over 0.1 s"
    assert caplog.messages == ["measuring latency: another process is doing this; waiting"]
    outcomes((5.0, None))
    assert time_passes(None, 1)["flag"] is None
