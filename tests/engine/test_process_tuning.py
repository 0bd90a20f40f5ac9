import atexit
import ctypes
import gc
import os
import weakref

import pytest

from engine.process_tuning import OBJECTS, tune_process


@pytest.fixture
def untuned(monkeypatch):
    """A process before tuning; returns the options of malloc that are set later."""
    threshold, options = gc.get_threshold(), []

    class Libc:
        def __init__(self, name):
            self.mallopt = lambda option, value: options.append(option) or 1

    monkeypatch.setattr(ctypes, "CDLL", Libc)
    monkeypatch.setattr(atexit, "register", lambda function: None)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
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
