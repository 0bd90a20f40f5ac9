"""Whose work the cores did, by a made-up /proc."""

import os
from types import SimpleNamespace

import pytest

from common import processor_time
from common.processor_time import CoreUse, CoreWatch

CHILD, GRANDCHILD, OTHER = 900_001, 900_002, 900_003


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of two cores that this process may use, and a third; `after(...)` gives what was used since the start."""
    clock = SimpleNamespace(wall_s=0.0, own_s=5.0)
    monkeypatch.setattr(processor_time, "PROC", tmp_path)
    monkeypatch.setattr(processor_time, "own_cores", lambda: {0, 1})
    monkeypatch.setattr(processor_time.time, "perf_counter", lambda: clock.wall_s)
    monkeypatch.setattr(processor_time.time, "process_time", lambda: clock.own_s)
    monkeypatch.setattr(processor_time.os, "sysconf", lambda _: 100)

    def write(user=0.0, nice=0.0, system=0.0, steal=0.0, started=0.0):
        ticks = [round(100 * each) for each in (user, nice, system)]
        lines = [f"cpu{core} {' '.join(map(str, ticks))} 7 7 0 0 {round(100 * steal)} 0 0" for core in (0, 1)]
        (tmp_path / "stat").write_text("cpu 1 2 3\n" + "\n".join([*lines, "cpu2 99999 0 0 0 0 0 0 0 0 0", "intr 5"]))
        for number, parent, name in ((CHILD, os.getpid(), "a) (b"), (GRANDCHILD, CHILD, "x"), (OTHER, 1, "y")):
            folder = tmp_path / str(number)
            folder.mkdir(exist_ok=True)
            each = round(100 * started / 4)  # of two processes user and system
            (folder / "stat").write_text(f"{number} ({name}) S {parent} {'0 ' * 9}{each} {each} 0 0 20 0")

    write()

    def after(wall_s, own_s=0.0, **used) -> CoreUse:
        watch = CoreWatch()
        clock.wall_s, clock.own_s = wall_s, 5.0 + own_s
        write(**used)
        return watch.used()

    return after


def test_what_is_neither_own_nor_idle_is_that_of_others(machine):
    used = machine(10.0, own_s=12.0, user=6.0, nice=2.0, system=1.0)  # on each of two cores
    assert used == CoreUse(10.0, 2, pytest.approx(12.0), pytest.approx(6.0), 0.0)
    assert used.describe_shortage(2, "training") == "other processes used 0.6 of 2 cores, and training needs 2"
    assert used.describe_shortage(1, "training") is None  # it fits beside


def test_loader_workers_and_what_they_start_are_own(machine):
    used = machine(10.0, own_s=8.0, user=10.0, started=12.0)
    assert (used.own_s, used.others_s) == (pytest.approx(20.0), pytest.approx(0.0))


def test_stolen_time_is_named_as_such(machine):
    used = machine(10.0, own_s=8.0, user=4.2, steal=5.0)
    assert (used.others_s, used.stolen_s) == (pytest.approx(0.4), pytest.approx(10.0))
    assert used.describe_shortage(2, "a pass") == "other virtual machines took 1.0 of 2 cores, and a pass needs 2"


@pytest.mark.parametrize("content", [None, "", "cpu0 a b\ncpu1 1 2", "cpu0 1 2 3 4 5 6 7 8"])
def test_without_proc_stat_nothing_is_claimed(machine, tmp_path, content):
    (tmp_path / "stat").unlink()
    if content is not None:
        (tmp_path / "stat").write_text(content)
    watch = CoreWatch()
    used = watch.used()
    assert used.others_s is None and used.stolen_s is None and used.describe_shortage(2, "training") is None
