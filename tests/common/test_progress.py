"""What is on the screen while a command computes."""

import logging
import os
from types import SimpleNamespace

import pytest

from common import progress as of_progress
from common.progress import Progress, quiet_native


@pytest.fixture
def after(monkeypatch, caplog):
    """Move the clock by some seconds, one by one; return the lines that were shown meanwhile."""
    clock = [100.0]
    monkeypatch.setattr(of_progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(of_progress.Progress, "_repeat", lambda self: None)
    caplog.set_level(logging.INFO)

    def move(seconds: int, *running: Progress) -> list[str]:
        caplog.clear()
        for _ in range(seconds):
            clock[0] += 1
            for each in running:
                each._show_if_silent()
        return caplog.messages

    return move


def test_a_phase_has_a_line_at_least_every_five_seconds(after):
    with Progress("reading the images") as progress:
        assert after(9, progress) == ["reading the images: 4 s so far", "reading the images: 8 s so far"]
        progress.count(410, 1112)
        assert after(3, progress) == ["reading the images: 410 of 1,112 images, 12 s"]
        logging.getLogger("other").info("a line")
        assert after(3, progress) == []
        progress.set("")
        assert after(60, progress) == []


def test_phases_of_a_command_are_silent_together(after, monkeypatch):
    """Two of three seconds each; without a command, as in a notebook, nobody has waited before."""
    for screen_s, shown in ((None, []), (100.0, ["second: 1 s so far"])):
        monkeypatch.setattr(Progress, "screen_s", screen_s and of_progress.time.monotonic())
        with Progress("first") as progress:
            assert after(3, progress) == []
        with Progress("second") as progress:
            assert after(3, progress) == shown


def test_no_line_is_shown_twice(after):
    with Progress("writing") as progress:
        shown = after(200, progress)
    assert shown[14:17] == ["writing: 1 min 00 s so far", "writing: 1 min 04 s so far", "writing: 1 min 08 s so far"]
    assert len(shown) == len(set(shown)) == 50


def test_what_may_be_silent_for_longer_shows_its_first_line_soon(after):
    with Progress("epoch 1/2") as progress:
        progress.then_every_s = 60
        assert after(63, progress) == ["epoch 1/2: 4 s so far"]
        assert after(120, progress) == ["epoch 1/2: 1 min 04 s so far", "epoch 1/2: 2 min 04 s so far"]
        progress.count(240, 1200)  # in 184 s
        assert after(60, progress) == ["epoch 1/2: 240 of 1,200 images, 3 min 04 s, about 12 min 20 s left"]


def test_how_far_it_is_may_be_found_when_the_line_is_shown(after):
    done = []
    with Progress() as progress:
        progress.set("Sweep", lambda: f"{len(done)} of 3 done")
        done.append("a job")
        assert after(4, progress) == ["Sweep: 1 of 3 done"]


def test_of_two_the_inner_one_shows_lines_unless_the_outer_one_keeps_others_off_the_screen(after):
    with Progress("outer") as outer:
        assert after(3, outer) == []
        with Progress("inner") as inner:
            assert after(3, outer, inner) == ["inner: 1 s so far"]  # of the silence three seconds are the outer one's
        assert after(5, outer) == ["outer: 8 s so far"]
    with Progress("outer", own="tests") as outer, Progress("inner") as inner:
        assert after(4, outer, inner) == ["outer: 4 s so far"]


def test_two_threads_may_end_theirs_in_any_order(after):
    first, second = Progress("first").__enter__(), Progress("second").__enter__()
    first.__exit__()
    second.__exit__()
    assert Progress._innermost is None
    with Progress("third") as third:
        first._shown_s = second._shown_s = 1e9  # what they have shown says nothing of it
        assert after(4, third) == ["third: 4 s so far"]


def test_what_a_library_writes_beside_python_is_not_shown(capfd):
    with quiet_native():
        os.write(2, b"INFO: a delegate\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
