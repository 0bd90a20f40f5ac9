"""What a search hands to its pages: its trials in their order, and Optuna's importance of its settings."""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from common.search_record import SearchRecord
from engine.search.objectives import Objective
from engine.search.retrain import search_record
from engine.search.settings import SearchSettings

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of retries

RATE, DECAY = FloatDistribution(1e-5, 1e-1, log=True), FloatDistribution(0.0, 1.0)


def searched(space, trials):
    """Return settings and a study of these trials (state, value, params)."""
    settings = SearchSettings(
        name="s", n_trials=9, objectives=[Objective("val.accuracy")], base_overrides=[], space=space, seeds=[1],
        good_enough=0.02, n_retrain=1, n_startup_trials=1, seed=1, pruning=None, storage=None,
    )  # fmt: skip
    study = optuna.create_study(direction="maximize")
    for state, value, params in trials:
        study.add_trial(optuna.create_trial(state=state, value=value, params=params, distributions=space))
    return settings, study


def test_trials_and_importance_are_those_of_the_study(tmp_path):
    space = {"optimizer.lr": RATE, "optimizer.weight_decay": DECAY}
    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    trials = [
        (complete, i / 10, {"optimizer.lr": 1e-4 * 10 ** (i / 4), "optimizer.weight_decay": i * 7 % 10 / 10})
        for i in range(9)
    ]
    trials.insert(2, (pruned, 0.1, {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.5}))
    settings, study = searched(space, trials)
    record = search_record(settings, study)
    assert [each.state for each in record.trials[:4]] == ["finished", "finished", "pruned", "finished"]
    assert (
        record.trials[1].values == [0.1]
        and record.trials[1].folder
        and "optimizer.lr=0.000177" in record.trials[1].name
    )
    assert record.importance == optuna.importance.get_param_importances(study)
    assert next(iter(record.importance)) == "optimizer.lr" and record.no_importance is None
    assert sum(record.importance.values()) == pytest.approx(1)
    assert (record.objectives, record.maximize) == (["val.accuracy"], [True])
    record.write(tmp_path)
    assert SearchRecord.read(tmp_path) == record


@pytest.mark.parametrize(("keys", "n", "why"), [
    (1, 9, "only one setting was searched"), (2, 3, "3 finished trials are too few; it takes 4"),
    (2, 1, "1 finished trial is too few; it takes 4"),
])  # fmt: skip
def test_why_there_is_no_importance(keys, n, why):
    space = dict(list({"optimizer.lr": RATE, "optimizer.weight_decay": DECAY}.items())[:keys])
    params = {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.5}
    trial = (optuna.trial.TrialState.COMPLETE, 0.5, {key: params[key] for key in space})
    record = search_record(*searched(space, [trial] * n))
    assert (record.importance, record.no_importance) == ({}, why)


def test_only_finished_trials_count_for_the_importance_and_four_are_enough():
    space = {"optimizer.lr": RATE, "optimizer.weight_decay": DECAY}
    finished, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    trials = [(finished, i / 10, {"optimizer.lr": 1e-4 * 3**i, "optimizer.weight_decay": i / 5}) for i in range(4)]
    assert search_record(*searched(space, trials)).importance
    few = search_record(*searched(space, [(pruned, *trials[0][1:]), *trials[1:]]))
    assert (few.importance, few.no_importance) == ({}, "3 finished trials are too few; it takes 4")


def test_equal_trials_have_no_importance_that_is_nan():
    space = {"optimizer.lr": RATE, "optimizer.weight_decay": DECAY}
    trial = (optuna.trial.TrialState.COMPLETE, 0.5, {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.5})
    record = search_record(*searched(space, [trial] * 6))
    assert record.no_importance or sum(record.importance.values()) == pytest.approx(1)
