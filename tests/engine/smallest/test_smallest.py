"""The stages of smallest.py: how long they have taken, also where a signal ends one."""

import time
from types import SimpleNamespace

import pytest

from common.errors import StopRequested
from common.smallest_record import Question, SmallestRecord
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
