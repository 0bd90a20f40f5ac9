import itertools
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from engine.search import processes, study
from engine.search.objectives import Objective
from engine.search.study import AGAIN, FOLDER, PROCESS, WITHDRAWN, SeededTPESampler

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


@pytest.fixture
def opened(tmp_path):
    def call(objectives=("val.accuracy",), *, seed=1, asked=None, storage=None, name="made_up"):
        return study.open_study(
            name,
            storage,
            tmp_path,
            [Objective(key) for key in objectives],
            asked=asked or {"space": {"x": "0 to 1"}, "base": []},
            sampler=SeededTPESampler(seed, startup_trials=5),
            pruner=optuna.pruners.NopPruner(),
        )

    return call


def made(opened_study, *values, state=TrialState.COMPLETE, **attributes):
    """A trial that has come to an end."""
    number = len(opened_study.trials)
    opened_study.add_trial(
        optuna.trial.create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params={"x": 0.5},
            distributions={"x": SPACE["x"]},
            user_attrs={FOLDER: f"trial{number}", **attributes},
        )
    )
    return number


def test_the_front_is_that_of_brute_force(opened):
    """Every trial that no other is at least as good as in both and better in one."""
    generator = np.random.default_rng(3)
    for objectives, signs in ((("val.accuracy", "model.macs"), (1, -1)), (("val.loss", "val.auroc"), (-1, 1))):
        searched = opened(objectives, name=objectives[0])
        points = [tuple(map(float, point)) for point in generator.integers(0, 12, (60, 2))]
        for point in points:
            made(searched, *point)
        merits = [tuple(s * v for s, v in zip(signs, point, strict=True)) for point in points]
        front = {m for m in merits if not any(o != m and o[0] >= m[0] and o[1] >= m[1] for o in merits)}
        found = study.best_trials(searched)
        assert [tuple(s * v for s, v in zip(signs, t.values, strict=True)) for t in found] == sorted(
            front, reverse=True
        )
        assert {tuple(t.values) for t in found} == {tuple(t.values) for t in searched.best_trials}  # Optuna's own
        assert all(t.number == points.index(tuple(t.values)) for t in found)  # the first of equal ones


def test_the_best_is_the_first_of_the_best(opened):
    up, down = opened(), opened(("val.loss",), name="down")
    for value in (0.5, 0.9, 0.9, 0.1, 0.1):
        made(up, value)
        made(down, value)
    assert [t.number for t in study.best_trials(up)] == [1] and [t.number for t in study.best_trials(down)] == [3]


def test_proposals_depend_on_seed_and_number_and_on_no_process(opened):
    def points(searched, count):
        found = []
        for _ in range(count):
            trial = searched.ask(SPACE)
            searched.tell(trial, -((trial.params["x"] - 0.3) ** 2) - (trial.params["y"] - 0.8) ** 2)
            found.append(tuple(trial.params.values()))
        return found

    whole = points(opened(name="whole"), 12)
    parts = [*points(opened(name="parts"), 4), *points(opened(name="parts"), 8)]  # opened again, as after a kill
    assert whole == parts and len(set(whole)) == 12
    assert points(opened(name="other", seed=2), 1) != whole[:1]
    first, second = opened(name="two").ask(SPACE), opened(name="two").ask(SPACE)  # two processes, the same seed
    assert first.params != second.params


def test_tpe_comes_nearer_than_its_random_start(opened):
    searched = opened()
    for _ in range(40):
        trial = searched.ask(SPACE)
        searched.tell(trial, -((trial.params["x"] - 0.3) ** 2) - (trial.params["y"] - 0.8) ** 2)
    best = searched.best_params
    assert abs(best["x"] - 0.3) < 0.1 and abs(best["y"] - 0.8) < 0.1
    distances = [-t.value for t in searched.trials]
    assert np.median(distances[-15:]) < np.median(distances[:5]) / 3


def test_which_trials_count(opened):
    searched = opened()
    failed = made(searched, state=TrialState.FAIL)
    whole = made(searched, 0.5)
    again = made(searched, 0.5, **{AGAIN: failed})
    twice = made(searched, 0.5, **{AGAIN: failed})  # two processes had the same thought
    late = made(searched, state=TrialState.FAIL, **{WITHDRAWN: True})
    searched.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))  # killed before it had a point
    failed_again = made(searched, state=TrialState.FAIL, **{AGAIN: again})
    assert [t.number for t in study.effective_trials(searched.trials)] == [whole, failed_again]
    assert study.place_of(failed_again, searched.trials) == 2
    assert [study.place_of(n, searched.trials) for n in (failed, again, twice, late)] == [None] * 4


def test_a_failed_trial_is_proposed_again_once(opened):
    searched = opened()
    failed = made(searched, state=TrialState.FAIL)
    assert study.enqueue_failed(searched) == [failed] and study.enqueue_failed(searched) == []
    trial = searched.ask({"x": SPACE["x"]})
    assert trial.params == {"x": 0.5} and trial.user_attrs[AGAIN] == failed


def test_trials_whose_process_is_gone_are_freed_and_no_others(opened):
    searched = opened()
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here = processes.this_process()
    gone = here | {"pid": int(child.stdout)}
    notes = [here, gone, here | {"started": "another process had this number"}, here | {"host": "elsewhere"}, None]
    trials = [searched.ask(SPACE) for _ in notes]
    for trial, note in zip(trials, notes, strict=True):
        if note is not None:
            trial.set_user_attr(PROCESS, note)
    unknown = study.fail_stale_trials(searched, take_over=[])
    states = [t.state for t in searched.trials]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING]
    assert [t.number for t in unknown] == [3, 4]
    assert [t.number for t in study.fail_stale_trials(searched, take_over=[3])] == [4]
    assert searched.trials[3].state == TrialState.FAIL


def test_a_study_keeps_to_what_it_was_begun_with(opened):
    opened()
    opened()
    asked = {"space": {"x": "0 to 2", "z": "[1,2]"}, "base": ["seed=3"]}
    with pytest.raises(ValueError, match=r"name=made_up.*x=0 to 2 for 0 to 1 and z=\[1,2\] for absent.*name=OTHER"):
        opened(asked=asked)
    with pytest.raises(ValueError, match=r"base seed=3 for nothing"):
        opened(asked={"space": {"x": "0 to 1"}, "base": ["seed=3"]})
    with pytest.raises(ValueError, match=r"objectives val.loss for val.accuracy"):
        opened(("val.loss",))
    with pytest.raises(ValueError, match=r"objectives val.accuracy model.macs for val.accuracy"):
        opened(("val.accuracy", "model.macs"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://nobody@127.0.0.1:9/none", "cannot be reached"),
        ("postgresql+nodriver://nobody@127.0.0.1/none", "driver"),
        ("no url", "not a URL of a database"),
        ("sqlite:////nowhere/at/all.db", "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_reached(opened, url, words):
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=f"storage=.*{words}"):
        opened(storage=url)


def test_a_database_keeps_a_study_like_a_journal(opened, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    made(opened(storage=url), 0.5)
    assert [t.value for t in opened(storage=url).trials] == [0.5] and not (tmp_path / study.JOURNAL).exists()


def test_a_journal_that_is_damaged(opened, tmp_path):
    opened()
    path = tmp_path / study.JOURNAL
    path.write_text(path.read_text()[:-30] + "\n{}\n")
    with pytest.raises(ValueError, match=r"study\.journal: not a whole journal.*take it away"):
        opened()


def test_permutations_of_a_front_are_the_same(opened):
    points = [(0.9, 5.0), (0.8, 3.0), (0.7, 4.0), (0.8, 2.0)]
    for number, order in enumerate(itertools.permutations(points)):
        searched = opened(("val.accuracy", "model.macs"), name=f"order{number}")
        for point in order:
            made(searched, *point)
        assert [tuple(t.values) for t in study.best_trials(searched)] == [(0.9, 5.0), (0.8, 2.0)]
