import itertools
import sqlite3
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from common.errors import UserError
from engine.search import study
from engine.search.objectives import Objective
from engine.search.settings import SearchSettings
from engine.search.space import suggest_point
from engine.state import STATE
from tests.support.helpers import Killed

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of heartbeats and retries

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
LETTERS = {"x": CategoricalDistribution(["a", "b", "c", "d"])}


@pytest.fixture
def opened(tmp_path):
    """Open a study."""

    def call(objectives=("val.accuracy",), **changed):
        settings = {
            "name": "made_up", "n_trials": 9, "objectives": [Objective(key) for key in objectives], "base_overrides": [],
            "space": SPACE, "seeds": [1], "good_enough": 0.02, "n_retrain": 1, "n_startup_trials": 5, "seed": 1,
            "pruning": None, "storage": None,
        }  # fmt: skip
        return study.open_study(SearchSettings(**settings | changed), tmp_path)

    return call


def add(opened_study, *values, state=TrialState.COMPLETE, space=SPACE, **params):
    """Add a trial; return its number."""
    params = params or {"x": 0.5, "y": len(opened_study.trials) / 1000}
    values = values if state == TrialState.COMPLETE else None
    opened_study.add_trial(
        optuna.trial.create_trial(
            state=state, values=values, params=params, distributions={k: space[k] for k in params}
        )
    )
    return len(opened_study.trials) - 1


def in_memory(*directions, seed=1, space=SPACE):
    """Create a study that proposes as one of a search does."""
    sampler = study.SeededTPESampler(space, seed=seed, n_startup_trials=5)
    return optuna.create_study(directions=directions or ["maximize"], sampler=sampler)


def optimize(searched, n_trials):
    """Search for the point (0.3, 0.8); return the proposals of these trials."""
    proposals = []

    def objective(trial):
        proposals.append(suggest_point(SPACE, trial))
        return -((proposals[-1]["x"] - 0.3) ** 2) - (proposals[-1]["y"] - 0.8) ** 2

    searched.optimize(objective, n_trials=n_trials)
    return [tuple(point.values()) for point in proposals]


@pytest.mark.parametrize(
    ("directions", "signs"), [(("maximize", "minimize"), (1, -1)), (("minimize", "maximize"), (-1, 1))]
)
def test_the_front_is_that_of_brute_force(directions, signs):
    """Every trial that no other is at least as good as in both and better in one."""
    generator = np.random.default_rng(3)
    searched = in_memory(*directions)
    points = [tuple(map(float, point)) for point in generator.integers(0, 12, (60, 2))]
    for point in points:
        add(searched, *point)
    merits = [tuple(s * v for s, v in zip(signs, point, strict=True)) for point in points]
    front = {m for m in merits if not any(o != m and o[0] >= m[0] and o[1] >= m[1] for o in merits)}
    found = study.best_trials(searched)
    found_merits = [tuple(s * v for s, v in zip(signs, t.values, strict=True)) for t in found]
    assert found_merits == sorted(front, reverse=True)
    assert all(t.number == points.index(tuple(t.values)) for t in found)  # the first of equal ones


def test_permutations_of_a_front_are_the_same():
    for order in itertools.permutations([(0.9, 5.0), (0.8, 3.0), (0.7, 4.0), (0.8, 2.0)]):
        searched = in_memory("maximize", "minimize")
        for point in order:
            add(searched, *point)
        assert [tuple(t.values) for t in study.best_trials(searched)] == [(0.9, 5.0), (0.8, 2.0)]


def test_the_best_is_the_first_of_the_best():
    up, down = in_memory("maximize"), in_memory("minimize")
    for value in (0.5, 0.9, 0.9, 0.1, 0.1):
        add(up, value)
        add(down, value)
    assert [t.number for t in study.best_trials(up)] == [1]
    assert [t.number for t in study.best_trials(down)] == [3]


def test_proposals_depend_on_seed_and_number_and_on_no_process(opened):
    straight = optimize(in_memory(), 12)
    resumed = [*optimize(opened(), 4), *optimize(opened(), 8)]  # opened again, as after a kill
    assert straight == resumed and len(set(straight)) == 12
    assert optimize(in_memory(seed=2), 1) != straight[:1]


def test_tpe_comes_nearer_than_its_random_start():
    searched = in_memory()
    optimize(searched, 40)
    best = searched.best_params
    assert abs(best["x"] - 0.3) < 0.1 and abs(best["y"] - 0.8) < 0.1
    distances = [-t.value for t in searched.trials]
    assert np.median(distances[-15:]) < np.median(distances[:5]) / 3


def test_no_point_of_a_small_space_is_proposed_twice():
    searched = in_memory(space=LETTERS)
    add(searched, state=TrialState.RUNNING, space=LETTERS, x="b")  # in another process
    seen = []
    searched.optimize(lambda trial: seen.append(suggest_point(LETTERS, trial)["x"]) or 0.5, n_trials=3)
    assert sorted(seen) == ["a", "c", "d"]


def test_tpe_proposes_in_a_small_space_what_it_proposes_in_a_large_one_until_that_is_a_repetition(monkeypatch):
    space = {key: CategoricalDistribution(list("abcdefghijklmnop")) for key in "xy"}

    def proposals():
        searched, points = in_memory(space=space), []

        def objective(trial):
            points.append(tuple(suggest_point(space, trial).values()))
            return float(points[-1] == ("c", "e")) + points[-1].count("c")

        searched.optimize(objective, n_trials=24)
        return points

    small = proposals()
    monkeypatch.setattr("engine.search.space.MAX_LISTED_POINTS", 0)
    large = proposals()
    repeated = next(number for number, point in enumerate(large) if point in large[:number])
    assert repeated > 6 and small[:repeated] == large[:repeated]  # after the random start, too
    assert len(set(small)) == 24


def test_where_every_point_was_tried_one_comes_again():
    searched = in_memory(space=LETTERS)
    for letter in "abcd":
        add(searched, 0.5, space=LETTERS, x=letter)
    searched.optimize(lambda trial: "abcd".index(suggest_point(LETTERS, trial)["x"]), n_trials=1)
    assert searched.trials[-1].state == TrialState.COMPLETE


def test_which_trials_count():
    searched = in_memory()
    failed = add(searched, state=TrialState.FAIL, x=0.1, y=0.2)
    whole = add(searched, 0.5, x=0.3, y=0.4)
    for _ in range(2):  # two processes retry it
        study.retry_trial(searched, searched.trials[failed])
    add(searched, state=TrialState.FAIL, x=0.1)  # killed before all of its point was proposed
    same = add(searched, 0.5, x=0.3, y=0.4)
    assert [t.number for t in study.effective_trials(searched, SPACE).values()] == [2, whole, same]
    searched.optimize(lambda trial: suggest_point(SPACE, trial)["x"], n_trials=1)
    retried = study.effective_trials(searched, SPACE)[failed]
    assert retried.state == TrialState.COMPLETE and retried.params == {"x": 0.1, "y": 0.2}
    study.retry_trial(searched, retried)
    assert study.effective_trials(searched, SPACE)[failed].number == retried.number
    searched.set_user_attr(study.LOST_RUNS, [whole])
    assert list(study.effective_trials(searched, SPACE)) == [failed, same]


def test_in_a_small_space_equal_points_are_one_trial():
    searched = in_memory(space=LETTERS)
    for state in (TrialState.FAIL, TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE):
        add(searched, 0.5, state=state, space=LETTERS, x="a")
    add(searched, state=TrialState.PRUNED, space=LETTERS, x="b")
    assert {name: t.number for name, t in study.effective_trials(searched, LETTERS).items()} == {"x-a": 2, "x-b": 4}


@pytest.mark.thorough
def test_the_trial_of_a_killed_process_is_retried_and_no_other(opened, monkeypatch):
    monkeypatch.setattr(study, "HEARTBEAT_S", 1)
    monkeypatch.setattr(study, "GRACE_S", 1)

    def killed(trial):
        points.append(suggest_point(SPACE, trial))
        raise Killed

    # Both are open before the kill: on a busy machine, opening one takes longer than the grace period
    points, searched, other = [], opened(), opened()
    with pytest.raises(Killed):
        searched.optimize(killed, n_trials=1)
    assert [t.state for t in searched.trials] == [TrialState.RUNNING]

    def slow(trial):
        points.append(suggest_point(SPACE, trial))
        time.sleep(3)
        optuna.storages.fail_stale_trials(opened())
        return 0.5

    other.optimize(slow, n_trials=1)  # runs longer than the grace period, with heartbeats
    other.optimize(lambda trial: points.append(suggest_point(SPACE, trial)) or 0.6, n_trials=1)
    assert points[1] != points[0] and points[2] == points[0]
    assert [t.state.name for t in opened().trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [t.values for t in study.effective_trials(opened(), SPACE).values()] == [[0.6], [0.5]]


def test_a_study_keeps_its_settings(opened, monkeypatch):
    monkeypatch.setattr(STATE, "command", ["python", "search.py", "name=made_up"])
    opened()
    opened()
    space = {"x": FloatDistribution(0.0, 2.0), "z": CategoricalDistribution(["1", "2"])}
    expected = (
        r"name=made_up.*space x=\{low:0.0,high:2.0\} instead of \{low:0.0,high:1.0\}, space y=absent instead of.*"
        r"space z=\[1,2\] instead of absent. For a new study, use another name=NAME$"
    )
    with pytest.raises(UserError, match=expected):
        opened(space=space)
    for key, other in (("log", FloatDistribution(1.0, 2.0, log=True)), ("step", FloatDistribution(1.0, 2.0, step=0.5))):
        opened(name=key, space={"x": FloatDistribution(1.0, 2.0)})
        with pytest.raises(UserError, match=rf"space x=\{{low:1.0,high:2.0,{key}:.* instead of \{{low:1.0,high:2.0\}}"):
            opened(name=key, space={"x": other})
    monkeypatch.setattr(STATE, "command", ["python", "search.py", "name=made_up", "hydra.run.dir=there"])
    with pytest.raises(
        UserError, match=r"base_overrides=\[.?seed=3.?\] instead of \[\]. .* name=NAME hydra.run.dir=DIR$"
    ):
        opened(base_overrides=["seed=3"])
    with pytest.raises(UserError, match=r"objectives=\[val.loss\] instead of \[val.accuracy\]"):
        opened(("val.loss",))
    with pytest.raises(UserError, match=r"objectives=\[val.accuracy,model.macs\] instead of \[val.accuracy\]"):
        opened(("val.accuracy", "model.macs"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://nobody@127.0.0.1:9/none", "not available"),
        ("postgresql+nodriver://nobody@127.0.0.1/none", "driver"),
        ("no url", "not a URL of a database"),
        ("sqlite:////nowhere/at/all.db", "not available"),
    ],
)
def test_a_storage_that_is_not_available(opened, monkeypatch, url, words):
    pytest.importorskip("psycopg")
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for what does not come"))
    with pytest.raises(UserError, match=f"storage=.*{words}"):
        opened(storage=url)


def test_the_password_of_a_storage_is_for_the_database_only(opened, monkeypatch):
    def refused(url, **_):
        connected.append(url)
        raise SQLAlchemyError("refused")

    connected, url = [], "postgresql+psycopg://nobody:secret@127.0.0.1:9/none"
    monkeypatch.setattr("optuna.storages.RDBStorage", refused)
    with pytest.raises(UserError, match=r"nobody:\*\*\*@127") as error:
        opened(storage=url)
    assert "secret" not in str(error.value) and connected == [url]


def test_the_pruner_is_that_of_the_settings_unless_one_is_given(opened, tmp_path):
    assert isinstance(opened().pruner, optuna.pruners.NopPruner)
    pruner = opened(pruning={"n_startup_trials": 1, "n_warmup_steps": 2}).pruner

    def is_behind(values, step):
        """Whether a trial is pruned after two trials of these values."""
        searched = optuna.create_study(direction="maximize", pruner=pruner)
        for value in values:
            one = searched.ask()
            one.report(value, step)
            searched.tell(one, value)
        behind = searched.ask()
        behind.report(0.5, step)
        return behind.should_prune()

    assert isinstance(pruner, optuna.pruners.MedianPruner)
    assert [is_behind(v, step) for v, step in (([0.7], 2), ([], 2), ([0.7], 1), ([0.3], 2))] == [True] + [False] * 3
    own = optuna.pruners.NopPruner(), optuna.samplers.RandomSampler()
    settings = SearchSettings(
        name="own", n_trials=1, objectives=[Objective("val.f1")], base_overrides=[], space=SPACE, seeds=[1],
        good_enough=0.02, n_retrain=1, n_startup_trials=5, seed=1, pruning={}, storage=None,
    )  # fmt: skip
    given = study.open_study(settings, tmp_path, own[1], own[0])
    assert (given.pruner, given.sampler) == own


def test_a_database_that_is_damaged(opened, tmp_path):
    (tmp_path / study.DATABASE).write_text("no database" * 100)
    with pytest.raises(UserError, match=r"study\.db: not available: file is not a database.*delete it"):
        opened()


def test_a_database_that_another_process_is_creating_is_waited_for(opened, monkeypatch):
    class Created(optuna.storages.RDBStorage):
        def __init__(self, *given, **options):
            if errors:
                raise errors.pop()
            super().__init__(*given, **options)

    errors, waited = [IntegrityError("", None, Exception()), SQLAlchemyError("table studies already exists")], []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("optuna.storages.RDBStorage", Created)
    assert opened().study_name == "made_up" and waited == [0.2, 0.2]
    errors, waited[:] = [SQLAlchemyError("table studies already exists")] * 99, []
    with pytest.raises(UserError, match="not available: table studies already exists"):
        opened(name="other")
    assert sum(waited) == pytest.approx(2)


def test_a_disk_that_is_full_when_the_database_is_made(opened, monkeypatch, tmp_path):
    def connect(database, *_, **__):
        Path(database).touch()
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("sqlite3.dbapi2.connect", connect)
    for kept in (False, True):  # a database that was there before stays
        if kept:
            (tmp_path / "study.db").touch()
        with pytest.raises(
            UserError, match=r"study\.db: not available: database or disk is full; free some space, or write"
        ):
            opened()
        assert (tmp_path / "study.db").exists() == kept


@pytest.mark.parametrize("hidden", [False, True])
def test_a_full_disk_of_the_database_is_one_line(hidden):
    with pytest.raises(UserError, match=r"storage: .*disk is full.*; rerun the same command"), study.storage_errors():
        try:
            raise study.StorageInternalError("commit") from RuntimeError("database or disk is full")
        except study.StorageInternalError:
            if hidden:  # as Optuna's _run_trial does
                raise AssertionError("Should not reach.")  # noqa: B904
            raise


def test_an_assertion_of_another_origin_stays():
    with pytest.raises(AssertionError), study.storage_errors():
        raise AssertionError("own")
