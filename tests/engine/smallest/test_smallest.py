"""The stages of smallest.py: how long they have taken, also where a signal ends one, and the notes of runs that failed."""

import errno
import os
import time
from types import SimpleNamespace

import pytest

from common.errors import StopRequested
from common.smallest_record import Question, SmallestRecord
from engine.smallest.runs import RunKey
from engine.smallest.smallest import Smallest


def test_the_time_of_a_stage_that_is_stopped_is_kept_for_the_command_that_resumes(tmp_path):
    search = object.__new__(Smallest)
    search.settings, search.folder, search._has_answer = SimpleNamespace(folder=tmp_path), tmp_path, False
    search.record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02))
    search.record.seconds = {"screen": 2.0}  # of an earlier command

    def screen() -> None:
        with search._timed("screen"):
            time.sleep(0.3)
            raise StopRequested(15)

    search._screen = screen
    with pytest.raises(StopRequested):
        search._train()
    assert SmallestRecord.read(tmp_path).seconds["screen"] == pytest.approx(2.3, abs=0.2)


def test_the_note_on_a_run_that_failed_says_what_to_do(tmp_path):
    """And names an error without a text by its kind."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/result.json")
    key, search = RunKey(0, 1), object.__new__(Smallest)
    search._has_answer, search.folder, search.folds = False, tmp_path, None
    search.candidates = [SimpleNamespace(stage="raced")]
    search.record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02))
    search._decide = lambda name, take: [0] if name == "finals" else 1
    for error, wanted in ((full, "free some"), (AssertionError(), "AssertionError()")):
        search.runs = SimpleNamespace(
            finals=lambda index: [key], train=lambda keys, title: None, failed={key: error}, describe=lambda key: "a, seed 1",
            is_cut_off=lambda key: False,
        )  # fmt: skip
        search._finals([0])
        assert search.record.notes[-1].startswith("a, seed 1 failed: ") and wanted in search.record.notes[-1]
        assert "Errno" not in search.record.notes[-1]
