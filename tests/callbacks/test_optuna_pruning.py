import math
from types import SimpleNamespace

import lightning as L
import optuna
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from optuna.trial import TrialState

from callbacks.epoch_logger import EpochLogger
from callbacks.optuna_pruning import OptunaPruning, RacePruning
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


def test_a_smaller_loss_is_better(study):
    epochs(study("minimize").ask(), [0.9, 0.3, 0.5, 0.7], monitor="val/loss")
    with pytest.raises(TrialPruned, match=r"after epoch 2: val loss 0\.5000, median of 3"):
        epochs(study("minimize").ask(), [0.9, 0.5], monitor="val/loss")


def test_nan_is_pruned(study):
    with pytest.raises(TrialPruned, match=r"^after epoch 1: val loss is NaN$"):
        epochs(study("minimize").ask(), [math.nan, math.nan], monitor="val/loss")


@pytest.mark.filterwarnings("error")  # Optuna warns of an epoch that is reported twice
@pytest.mark.parametrize("before", [0, 2])
def test_every_epoch_of_a_trial_that_resumes_or_not_is_reported_once_and_the_last_prunes_nothing(study, before):
    trial = study().ask()
    epochs(trial, [0.5, 0.6, 0.7, 0.0], before=before)
    assert trial.study.trials[-1].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.0}


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


def test_in_a_race_the_reason_names_the_best_of_all(study):
    trial = study().ask()
    words = r"^after epoch 2, behind by accuracy and cost: val accuracy 0\.1000, best at that epoch 0\.4500$"
    best = {1: 0.225, 2: 0.45}  # of the three trials: 0.9 / 2
    with pytest.raises(TrialPruned, match=words):
        epochs(trial, [0.0, 0.1, 0.2], kind=RacePruning, best=lambda study, epoch: best[epoch])
