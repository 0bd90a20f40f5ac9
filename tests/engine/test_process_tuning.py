import atexit
import ctypes
import gc
import os
import subprocess
import sys
import weakref

import pytest

from engine.process_tuning import OBJECTS, SPIN_ROUNDS, collect_garbage, tune_process


@pytest.fixture
def untuned(monkeypatch):
    """A process before tuning; returns the options of malloc that are set later."""
    threshold, options = gc.get_threshold(), []

    class Libc:
        def __init__(self, name):
            self.mallopt = lambda option, value: options.append(option) or 1

    monkeypatch.setattr(ctypes, "CDLL", Libc)
    monkeypatch.setattr(atexit, "register", lambda function: None)
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "OMP_WAIT", "GOMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that what is set is taken away afterwards
    del os.environ["GOMP_SPINCOUNT"]
    gc.set_threshold(700, 10, 10)
    yield options
    gc.set_threshold(*threshold)


def test_it_changes_a_process_once(untuned):
    tune_process()
    assert gc.get_threshold()[0] == OBJECTS and len(untuned) == 2
    tune_process()
    assert len(untuned) == 2


def test_settings_of_malloc_in_the_environment_are_kept(untuned, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    tune_process()
    assert gc.get_threshold()[0] == OBJECTS and not untuned


def test_waiting_threads_spin_shortly_unless_the_environment_says_how(untuned, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    tune_process()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    gc.set_threshold(700, 10, 10)
    tune_process()
    assert os.environ["GOMP_SPINCOUNT"] == str(SPIN_ROUNDS)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    gc.set_threshold(700, 10, 10)
    tune_process()
    assert os.environ["GOMP_SPINCOUNT"] == "5"


@pytest.mark.thorough
def test_a_training_imports_what_it_needs_of_scipy_only():
    code = """
import sys
import engine.run.stages
print([name for name in ("signal", "stats", "optimize", "ndimage") if f"scipy.{name}" in sys.modules])
import scipy.signal, torchmetrics
print(scipy.signal.windows.hamming(3).round(2), scipy.signal is sys.modules["scipy.signal"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[0.08 1.   0.08] True"]


def test_garbage_is_still_collected(untuned):
    class Node:
        pass

    tune_process()
    alive = weakref.WeakSet()
    for _ in range(2 * OBJECTS):
        node = Node()
        node.itself = node
        alive.add(node)
    assert len(alive) < 2 * OBJECTS


def test_what_a_job_leaves_is_freed_after_each_job():
    for _ in range(2):  # the first time keeps what is there then
        left = type("Left", (), {})()
        left.itself, freed = left, weakref.ref(left)
        del left
        collect_garbage()
        assert freed() is None
