import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from common.errors import StopRequested
from common.run_folder import PROJECT
from common.signals import ignore_stops, repeat_lost_stops, stop_immediately, stop_signals


class Restores:
    """Fail to restore its state after a signal, as a library does that is interrupted halfway."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        raise AttributeError("half restored")


def test_a_signal_ends_a_command_whatever_error_a_library_makes_of_it():
    with pytest.raises(StopRequested, match="SIGTERM"), stop_immediately():
        try:
            with Restores():
                os.kill(os.getpid(), signal.SIGTERM)
        except AttributeError as error:
            raise ValueError("composing failed") from error
    with pytest.raises(StopRequested, match="SIGTERM"), stop_immediately():
        with contextlib.suppress(StopRequested):  # as C++ does, which leaves no context
            os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("Invalid bounding box")
    with pytest.raises(AttributeError), stop_immediately(), Restores():
        pass


@pytest.mark.parametrize("has_pthread_kill", [True, False], ids=["POSIX", "Windows"])
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, StopRequested), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_while_an_object_is_removed_ends_a_command_too(capsys, monkeypatch, number, error, has_pthread_kill):
    """Python only prints what is raised there; SIGINT is that of a sweep between two jobs."""
    if not has_pthread_kill:
        monkeypatch.delattr(signal, "pthread_kill")
    waiting = stop_immediately() if error is StopRequested else contextlib.nullcontext()
    removed, before = Restores(), signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    link, began = weakref.ref(removed, lambda _: signal.raise_signal(number)), time.monotonic()
    try:
        with pytest.raises(error), repeat_lost_stops(), waiting:
            del removed
            for _ in range(600):
                time.sleep(60 if has_pthread_kill else 0.1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert link() is None and "Traceback" not in capsys.readouterr().err
    assert time.monotonic() - began < 30  # what the command waits for does not keep it


ONCE = """
import os, signal
from common.errors import StopRequested
from common.signals import stop_immediately, stop_once, was_asked_to_stop
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started these tests
stop_once()
assert not was_asked_to_stop()
if FIRST:
    os.kill(os.getpid(), FIRST)
    assert was_asked_to_stop()
try:
    with stop_immediately():
        os.kill(os.getpid(), signal.SIGINT)
        print("not stopped")
except StopRequested as stopped:
    print(stopped)
os.kill(os.getpid(), signal.SIGTERM)
assert was_asked_to_stop()
print("lives")
"""


@pytest.mark.parametrize(("first", "line"), [("0", "SIGINT"), ("signal.SIGHUP", "SIGHUP")])
def test_a_process_of_a_launcher_takes_only_the_first_signal(first, line):
    """In a job it stops that; between two jobs it is noted, and stops the next one at its start."""
    code = ONCE.replace("FIRST", first)
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == [line, "lives"], ran.stderr


def test_other_errors_while_an_object_is_removed_are_shown_as_ever(monkeypatch):
    shown = []
    monkeypatch.setattr("sys.unraisablehook", lambda lost: shown.append(lost.exc_type))
    removed = Restores()
    link = weakref.ref(removed, lambda _: 1 / 0)
    with repeat_lost_stops():
        del removed
    assert link() is None and shown == [ZeroDivisionError]


def test_a_signal_does_not_end_what_is_being_written_and_ends_what_follows():
    written = []
    with pytest.raises(StopRequested, match="SIGTERM"), stop_immediately():
        with ignore_stops():
            os.kill(os.getpid(), signal.SIGTERM)
            written.append("whole")
        os.kill(os.getpid(), signal.SIGTERM)
    assert written == ["whole"]


def test_a_closed_terminal_asks_to_stop_unless_nohup_ignores_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in stop_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
