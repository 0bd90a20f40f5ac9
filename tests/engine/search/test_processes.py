import json
import os
import socket
import subprocess
import sys

from engine.search.processes import is_gone, this_process


def test_a_process_knows_itself_and_a_later_one_of_its_number():
    here = this_process()
    assert here["pid"] == os.getpid() and here["host"] == socket.gethostname()
    assert is_gone(here) is False
    assert is_gone(here | {"started": "before this one had the number"}) is True


def test_a_process_is_there_until_it_ends():
    code = "import json; from engine.search.processes import this_process; print(json.dumps(this_process()), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        noted = json.loads(child.stdout.readline())
        assert noted["pid"] == child.pid and is_gone(noted) is False
        child.kill()
        child.wait()
        assert is_gone(noted) is True
    finally:
        child.kill()
        child.communicate()


def test_of_another_host_nothing_is_known():
    assert is_gone(this_process() | {"host": "elsewhere"}) is None and is_gone({}) is None
