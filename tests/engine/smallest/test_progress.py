"""The lines that smallest.py shows while something takes long."""

import importlib.util
import logging
import time

import pytest

from common import progress as of_progress
from common.errors import UserError
from engine.smallest import start
from engine.smallest.progress import Progress


@pytest.fixture
def lines(monkeypatch, caplog):
    """Run with a silence of 0.05 s allowed; return the lines."""
    monkeypatch.setattr(of_progress, "SILENCE_S", 0.05)
    monkeypatch.setattr(of_progress, "POLL_S", 0.01)
    caplog.set_level(logging.INFO)

    def found() -> list[str]:
        time.sleep(0.2)
        return [record.getMessage() for record in caplog.records]

    return found


def test_what_takes_long_is_repeated_with_how_far_it_is(lines):
    with Progress("starting") as progress:
        assert "starting: 1 s so far" in lines()
        progress.begin("race: 1 of 3, A")
        progress.epoch(2.5, 4)
        assert lines()[-1] == "race: 1 of 3, A: epoch 3 of 4, 62%"
        progress.set("finals")
        assert lines()[-1] == "finals: 1 s so far"


def test_what_others_show_is_on_the_screen_only_while_it_is_open_to_them(lines):
    with Progress("outer") as outer:
        with outer.open_to_others(), of_progress.Progress("inner"):
            assert lines()[-1] == "inner: 1 s so far"
        with of_progress.Progress("of a run"):
            assert lines()[-1] == "outer: 1 s so far"


def test_what_takes_no_time_is_not_shown(caplog):
    with caplog.at_level(logging.INFO), Progress("starting") as progress:
        progress.set("screen")
    assert not caplog.records


@pytest.mark.parametrize("package", ["optuna", "sklearn"])
def test_a_missing_package_is_one_line_that_names_the_extra(package, monkeypatch):
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else usual(name))
    with pytest.raises(UserError, match=rf'^smallest\.py: {package} is not installed; .*"\.\[smallest\]"$'):
        start.start(None, None)
