import math
from types import SimpleNamespace

import lightning as L
import optuna
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from optuna.trial import TrialState

from callbacks.epoch_logger import EpochLogger
from callbacks.optuna_pruning import OptunaPruning, RacePruning, RaceReference
from common.errors import TrialPruned


class Rows(EpochLogger):
    """An epoch log of given values."""

    def __init__(self, values, monitor="val/accuracy"):
        super().__init__()
        self.values, self.monitor = values, monitor

    def on_train_epoch_start(self, trainer, pl_module):
        pass

    def on_train_epoch_end(self, trainer, pl_module):
        self.rows.append({"epoch": len(self.rows) + 1, self.monitor: self.values[len(self.rows)]})


@pytest.fixture
def study():
    """Three trials of four epochs, whose medians are 0.2, 0.4, 0.6 and 0.8."""

    def made(direction="maximize"):
        study = optuna.create_study(direction=direction, pruner=optuna.pruners.MedianPruner(3, 2))
        for best in (0.7, 0.8, 0.9):
            trial = study.ask()
            for epoch in range(1, 5):
                trial.report(best * epoch / 4, step=epoch)
            study.tell(trial, best)
        return study

    return made


def epochs(trial, values, max_epochs=4, monitor="val/accuracy", before=0, kind=OptunaPruning, **settings):
    """Give a trial these values, `before` of them before its process was killed; return its callback."""
    log = Rows(values, monitor)
    callback = kind(trial=trial, monitor=monitor, **settings)
    trainer = SimpleNamespace(callbacks=[log], max_epochs=max_epochs)
    for index in range(len(values)):
        log.on_train_epoch_end(trainer, None)
        if index >= before:
            callback.on_train_epoch_end(trainer, None)
    return callback


def test_a_trial_behind_the_median_is_pruned_after_its_warmup(study):
    searched = study()
    trial = searched.ask()
    with pytest.raises(
        TrialPruned, match=r"^after epoch 2: val accuracy 0\.1000, median of 3 trials at that epoch 0\.4000$"
    ):
        epochs(trial, [0.0, 0.1, 0.2, 0.3])
    assert searched.trials[-1].intermediate_values == {1: 0.0, 2: 0.1}


def test_its_best_value_so_far_counts(study):
    trial = study().ask()
    with pytest.raises(
        TrialPruned, match=r"^after epoch 3: val accuracy 0\.5000 at best, median of 3 trials at that epoch 0\.6000$"
    ):
        epochs(trial, [0.5, 0.0, 0.0, 0.0])


def test_the_last_epoch_prunes_nothing(study):
    trial = study().ask()
    epochs(trial, [0.5, 0.5, 0.7, 0.0])
    assert trial.study.trials[-1].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.7, 4: 0.0}


def test_a_smaller_loss_is_better(study):
    epochs(study("minimize").ask(), [0.9, 0.3, 0.5, 0.7], monitor="val/loss")
    with pytest.raises(TrialPruned, match=r"after epoch 2: val loss 0\.5000, median of 3"):
        epochs(study("minimize").ask(), [0.9, 0.5], monitor="val/loss")


def test_nan_is_pruned(study):
    with pytest.raises(TrialPruned, match=r"^after epoch 1: val loss is NaN$"):
        epochs(study("minimize").ask(), [math.nan, math.nan], monitor="val/loss")


@pytest.mark.filterwarnings("error")  # Optuna warns of an epoch that is reported twice
def test_a_resumed_trial_reports_the_earlier_epochs_once(study):
    trial = study().ask()
    epochs(trial, [0.5, 0.6, 0.7, 0.8], before=2)
    assert trial.study.trials[-1].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8}


def test_a_trial_that_counts_as_failed_still_completes(study):
    trial = study().ask()
    trial.study.tell(trial, state=TrialState.FAIL)  # by another process, after its heartbeats had stopped
    epochs(trial, [0.9, 0.9, 0.9, 0.9])
    assert trial.study.trials[-1].intermediate_values == {}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:The number of training batches.*")
@pytest.mark.filterwarnings("ignore:.*The '\\w+_dataloader' does not have.*")
def test_it_ends_lightning_s_training(study, tmp_path):
    searched = study()
    trial = searched.ask()
    rows = Rows([0.0] * 4)
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=[rows, OptunaPruning(trial=trial, monitor="val/accuracy")], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        limit_train_batches=1, limit_val_batches=1,
    )  # fmt: skip
    with pytest.raises(TrialPruned):
        trainer.fit(BoringModel())
    assert len(rows.rows) == 2 and searched.trials[-1].state == TrialState.RUNNING


def race(values_by_trial):
    """Give trials these values one after the other; the loss against the best of all is what counts, from 0.05 on."""
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
    )
    ended = []
    for place, values in enumerate(values_by_trial):
        trial = study.ask()
        kind = RacePruning if place else RaceReference
        try:
            epochs(trial, values, kind=kind, utility=lambda value, best: min(0.0, value - best + 0.05))
            study.tell(trial, values[-1])
            ended.append("finished")
        except TrialPruned as pruned:
            study.tell(trial, state=TrialState.PRUNED)
            ended.append(str(pruned))
    return ended


def test_in_a_race_a_candidate_near_the_best_stays_and_the_worse_half_is_pruned_at_its_rung():
    reference, near, far, as_near = (
        [0.5, 0.8, 0.9, 0.9],
        [0.4, 0.76, 0.8, 0.86],
        [0.7, 0.7, 0.9, 0.9],
        [0.1, 0.78, 0.1, 0.9],
    )
    assert race([reference, near, far, as_near]) == [
        "finished",
        "finished",
        "after epoch 2, behind by accuracy and cost: val accuracy 0.7000, best at that epoch 0.8000",
        "finished",
    ]


def test_the_reference_of_a_race_is_never_pruned_and_fills_no_place():
    worse = [[0.9] * 4, [0.5] * 4]
    assert race(worse) == ["finished", "finished"]  # the only one that is compared
    assert race([worse[1], worse[0]]) == ["finished", "finished"]
