"""The race that several processes share."""

import shutil
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from common.locks import locked
from common.run_folder import RunFolder
from common.run_record import RunRecord, write_record
from common.smallest_record import Costs
from engine.search.search import Search
from engine.smallest.plan import Budget
from engine.smallest.race import PLACE, Halving, Race
from engine.smallest.runs import Runs
from engine.smallest.selection import utility
from tests.support.fake_runs import make_run


@pytest.fixture
def race(tmp_path) -> Race:
    (tmp_path / "screen").mkdir()
    question = SimpleNamespace(metric="accuracy", seeds=[1], good_enough=0.1)
    settings = SimpleNamespace(
        folder=tmp_path, question=question, min_epochs=1, reduction_factor=2, storage=None, monitor="val/accuracy"
    )
    candidates = [SimpleNamespace(backbone="a", keep=keep, image_size=32, frozen=False) for keep in "bc"]
    return Race(Runs(settings, candidates, None, Budget(None), None, None), [1, 0], None)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_is_of_a_killed_process_only_where_no_process_holds_its_lock(race):
    """Composing a run takes seconds on a busy machine, before which its folder does not exist."""
    place = race.study.ask(race.settings.space).params[PLACE]
    (trial,) = race._running()
    with locked(race._lock(place)):
        assert not race._is_orphan(trial)
    assert race._is_orphan(trial)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_other_processes_never_see_the_race_without_the_trial_of_a_killed_one(race, monkeypatch):
    """They would decide without its candidate."""
    monkeypatch.setattr("engine.smallest.race.LOCKING_S", 0)
    monkeypatch.setattr(Search, "run_trials", lambda self: True)
    for _ in race.places:
        race.study.ask(race.settings.space)
    tell, left = race.study.tell, []

    def tell_and_look(*args, **kwargs):
        tell(*args, **kwargs)
        left.append(len(race._running()) + race._is_trial_left())

    monkeypatch.setattr(race.study, "tell", tell_and_look)
    assert race.run_trials() and len(left) == 2 and all(left)
    assert sum(trial.state == TrialState.WAITING for trial in race._trials().values()) == 2


def test_the_race_is_over_when_no_process_runs_any_of_it(race, monkeypatch):
    monkeypatch.setattr(Search, "run_trials", lambda self: True)
    with locked(race._lock(1)):
        assert not race.run_trials()
    assert race.run_trials()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("how", ["finished", "pruned"])
@pytest.mark.parametrize("happened", ["deleted", "damaged", "reopened"])
def test_a_trial_without_the_record_of_its_run_starts_again(race, happened, how):
    state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[how]
    for expected in (0, 1):
        trial = race.study.ask(race.settings.space)
        assert trial.params[PLACE] == expected
        make_run(race.runs.folder(race._key(trial)).path, status=how)
        race.study.tell(trial.number, 0.5 if how == "finished" else None, state=state)
    assert len(race._trials()) == 2
    race._forget_lost_runs()
    assert len(race._trials()) == 2
    folder = race.runs.folder(race.runs.first(0))  # of place 1
    if happened == "deleted":
        shutil.rmtree(folder.path)
    elif happened == "damaged":
        folder.record.write_text("{")
    else:
        record = RunRecord.read(folder)
        record.status = "running"
        write_record(record)
    for again in range(2):  # it can be lost twice
        race._forget_lost_runs()
        assert {each.params[PLACE] for each in race._trials().values()} == {0}
        trial = race.study.ask(race.settings.space)
        assert trial.params[PLACE] == 1
        race.study.tell(trial.number, 0.5 + again)


def test_the_worth_of_a_candidate_is_by_its_cost_over_that_of_the_reference(race):
    """Candidate 1 is the reference, the first that races; 0.02 is half of the margin below what is good enough."""
    for candidate, macs in zip(race.runs.candidates, (250, 1000), strict=True):
        candidate.costs = Costs(parameters=1, macs=macs, file_kib=1, activation_kib=1, activation_int8_kib=1)
    race.runs.settings.question.cost, race.runs.settings.question.target = ["macs"], None
    assert race._utility(0, 0.83, 0.9) == pytest.approx(0.83 - 0.85 + 0.002 * 2)  # a quarter: two halvings
    assert race._utility(1, 0.83, 0.9) == pytest.approx(0.83 - 0.85)
    assert race._halving._utility(1, 0.83, 0.9) == race._utility(0, 0.83, 0.9)  # by places
    race.runs.settings.question.target = 0.7
    assert race._utility(0, 0.7, 0.9) == pytest.approx(0.7 - 0.75 + 0.004)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize(("left_s", "starts"), [(None, True), (131, True), (129, False)])
def test_a_candidate_starts_if_it_can_end_half_a_minute_before_the_budget_and_the_reference_always(
    race, left_s, starts
):
    race.times = SimpleNamespace(of=lambda candidate: {"c": 1e6, "b": 100}[candidate.keep])  # c is the reference
    race.runs.budget.left_s = lambda: left_s
    assert race._is_trial_left()
    race.study.ask(race.settings.space)
    assert race._is_trial_left() is starts


def halved(values_by_place, useful, known=None, every=1) -> list[int | None]:
    """Report these values of places one after the other; return after which epoch each was ended.

    The first rung is after epoch 2, the factor 2; values are of each `every`-th epoch.
    """
    study = optuna.create_study(direction="maximize", pruner=Halving(useful, known or {}, 2, 2))
    ended = []
    for values in values_by_place:
        study.enqueue_trial({PLACE: len(ended)})
        trial = study.ask({PLACE: IntDistribution(0, len(values_by_place))})
        ended.append(None)
        for epoch, value in zip(range(every, 100, every), values, strict=False):
            trial.report(value, step=epoch)
            if trial.should_prune():
                ended[-1] = epoch
                break
        study.tell(trial.number, values[-1] if values else 0.0)
    return ended


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("others", range(1, 10))
def test_one_of_as_many_as_the_factor_says_stays_and_of_fewer_the_best(others, factor):
    """Beside others with 0.1, 0.2, ... after the rung; the reference, with 2.0, takes no place."""
    known = {0: {2: 2.0}} | {1 + i: {2: (1 + i) / 10} for i in range(others)}
    stay = max(1, (others + 1) // factor)
    for rank in range(1, others + 2):  # of the new one among all
        study = optuna.create_study(pruner=Halving(lambda place, value, best: value - best, known, 2, factor))
        study.enqueue_trial({PLACE: others + 1})
        trial = study.ask({PLACE: IntDistribution(0, others + 1)})
        trial.report((others - rank + 1) / 10 + 0.05, step=2)
        assert trial.should_prune() == (rank > stay)
        assert study.pruner.best(study, 2) == 2.0


def near(place, value, best):
    """A loss of 0.05 against the best costs nothing."""
    return min(0.0, value - best + 0.05)


def test_a_candidate_near_the_best_stays_and_the_worse_half_is_ended_at_its_rung():
    reference, close, far, as_close = (
        [0.5, 0.8, 0.9, 0.9],
        [0.4, 0.76, 0.8, 0.86],
        [0.7, 0.7, 0.9, 0.9],
        [0.1, 0.78, 0.1, 0.9],
    )
    assert halved([reference, close, far, as_close], near) == [None, None, 2, None]


def test_the_reference_is_never_ended_and_takes_no_place():
    worse = [[0.9] * 4, [0.5] * 4]
    assert halved(worse, near) == [None, None]  # the only one that is compared
    assert halved([worse[1], worse[0]], near) == [None, None]


def test_who_is_more_accurate_than_all_before_it_stays():
    """The four of a search for solar cells, after the epoch of the first rung, in MACs of the reference.

    The last one is the best by 0.02. When it came, the second had kept what it was worth beside the reference, which was more.
    """
    ratio = [1.0, 0.27, 0.51, 1.26]

    def useful(place, value, best):
        return utility(value, best, 0.02, None, ratio[place])

    values = [[0.8, 0.8230], [0.8, 0.8451], [0.8, 0.8296], [0.8, 0.8650]]
    assert halved(values, useful) == [None, None, 2, None]
    at_once = {place: useful(place, value[1], 0.8650) for place, value in enumerate(values)}
    assert max(at_once, key=at_once.get) == 3
    assert useful(1, 0.8451, 0.8451) > useful(3, 0.8650, 0.8650)


def test_a_rung_between_two_validations_counts_at_the_next_one_and_only_once():
    places = [[0.5] * 4, [0.9] * 4, [0.1, 0.95, 0.95, 0.95]]
    assert halved(places, near, every=3) == [None, None, 3]  # rungs 2, 4, 8: epochs 3, 6, 9
    places[2] = [0.95, 0.95, 0.95, 0.1]
    assert halved(places, near, every=3) == [None, None, None]  # epoch 12 is no rung: 9 was that of 8


def test_a_trial_that_counted_as_failed_before_its_first_epoch_is_not_ended():
    study = optuna.create_study(pruner=Halving(near, {0: {2: 0.9}}, 2, 2))
    study.enqueue_trial({PLACE: 1})
    trial = study.ask({PLACE: IntDistribution(0, 1)})
    study.tell(trial, state=TrialState.FAIL)  # by another process, after its heartbeats had stopped
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(0.1, step=2)
    assert not trial.should_prune()


def test_beside_better_runs_of_before_the_more_accurate_one_stays_and_not_the_cheaper_one():
    def useful(place, value, best):
        return near(place, value, best) - 0.01 * place  # later places cost more

    places = [[0.5] * 2, [0.6, 0.60], [0.6, 0.64]]
    assert halved(places, useful) == [None, None, 2]
    assert halved(places, useful, known={-1: {2: 0.9}}) == [None, None, None]


def test_runs_of_a_smaller_budget_are_among_those_that_are_compared(race):
    """Its study is another one, in which they do not run again."""
    places = [[0.5] * 4, [0.9] * 4, [0.6] * 4, [0.8] * 4]
    assert halved(places, near) == [None, None, 2, 2]
    before = {place: dict(enumerate(places[place], 1)) for place in (0, 1)}
    assert halved([[], [], *places[2:]], near, before) == [None, None, 2, 2]
    assert halved([[], [], *places[2:]], near) == [None, None, None, None]
    for place, values in ((0, [0.5, 0.6]), (1, [0.9])):
        folder = RunFolder(make_run(race.runs.folder(race.runs.first(race.places[place])).path))
        row = dict.fromkeys(("train/loss", "train/accuracy", "val/loss", "lr"), 0.1)
        folder.write_metrics([row | {"epoch": i, "val/accuracy": value} for i, value in enumerate(values, 1)])
    again = Race(race.runs, race.places, None)
    assert again._halving._values(again.study, 1) == {0: 0.5, 1: 0.9}
    assert again._halving._values(again.study, 2) == {0: 0.6}


def test_a_second_race_knows_the_values_of_the_first(race):
    folder = race.runs.folder(race.runs.first(0))
    row = dict.fromkeys(("train/loss", "train/accuracy", "val/loss", "lr"), 0.1)
    RunFolder(make_run(folder.path)).write_metrics(
        [row | {"epoch": epoch, "val/accuracy": value} for epoch, value in ((1, 0.7), (2, ""), (3, 0.9))]
    )
    second = Race(race.runs, [1], None, "second race", [0])
    assert (second._halving.best(second.study, 1), second._halving.best(second.study, 3)) == (0.7, 0.9)
    assert second._halving.best(second.study, 2) == float("-inf")
