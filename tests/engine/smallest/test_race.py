"""The race that several processes share."""

from types import SimpleNamespace

import pytest

from common.locks import locked
from engine.search.search import Search
from engine.smallest.plan import Budget
from engine.smallest.race import PLACE, Race
from engine.smallest.runs import Runs


@pytest.fixture
def race(tmp_path) -> Race:
    (tmp_path / "screen").mkdir()
    question = SimpleNamespace(metric="accuracy", seeds=[1], good_enough=0.1)
    settings = SimpleNamespace(folder=tmp_path, question=question, min_epochs=1, reduction_factor=2, storage=None)
    return Race(Runs(settings, [], {}, None, Budget(None), None, None), [1, 0], None, None)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_is_of_a_killed_process_only_where_no_process_holds_its_lock(race):
    """Composing a run takes seconds on a busy machine, before which its folder does not exist."""
    place = race.study.ask(race.settings.space).params[PLACE]
    (trial,) = race._running()
    with locked(race._lock(place)):
        assert not race._is_orphan(trial)
    assert race._is_orphan(trial)


def test_the_race_is_over_when_no_process_runs_any_of_it(race, monkeypatch):
    monkeypatch.setattr(Search, "run_trials", lambda self: True)
    with locked(race._lock(1)):
        assert not race.run_trials()
    assert race.run_trials()
