"""What a process keeps, and how often it looks for garbage, seen from the outside: in processes of their own."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from engine.process_tuning import speed_up
if sys.argv[1] == "fast":
    speed_up()
    speed_up()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"x" * (40 << 20)
del block
before = faults()
for _ in range(10):
    block = b"x" * (40 << 20)
    del block
print(faults() - before)
"""
COLLECTIONS = """
import gc, sys
from engine.process_tuning import speed_up
if sys.argv[1] == "fast":
    speed_up()
kept = [[number] for number in range(300_000)]
print(sum(generation["collections"] for generation in gc.get_stats()))
"""
MEMORY = """
import gc, sys
from engine.process_tuning import speed_up
speed_up()
class Node: pass
alive = 0
def gone(_):
    global alive
    alive -= 1
import weakref
watched = []
for _ in range(400_000):
    node = Node()
    node.itself = node
    alive += 1
    watched.append(weakref.ref(node, gone))
print(alive)
"""


def printed(code: str, kind: str, **environment: str) -> int:
    command = [sys.executable, "-c", code, kind]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment or None).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_blocks_that_come_again_in_each_step_cost_no_faults():
    assert printed(FAULTS, "fast") * 5 < printed(FAULTS, "usual")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_settings_of_malloc_in_the_environment_are_left_alone():
    theirs = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    assert printed(FAULTS, "fast", **theirs) > 0.9 * printed(FAULTS, "usual", **theirs)


def test_garbage_is_looked_for_less_often():
    assert printed(COLLECTIONS, "fast") * 20 < printed(COLLECTIONS, "usual")


def test_garbage_is_still_found():
    assert printed(MEMORY, "fast") < 250_000
