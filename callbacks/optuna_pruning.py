"""Ends a trial of a search that is behind the others."""

import math
import statistics

import lightning as L
import optuna
from optuna.trial import TrialState

from callbacks.epoch_logger import EpochLogger
from common.errors import TrialPruned


class OptunaPruning(L.Callback):
    """Reports a figure of every epoch to the trial, and raises Pruned once the study's pruner says so.

    A trial that goes on after its process was killed reports the epochs before from the rows in its checkpoint.
    """

    def __init__(self, *, trial: optuna.Trial, monitor: str):
        self._trial = trial
        self._monitor = monitor  # val/accuracy or val/loss
        self._name = monitor.replace("/", " ")
        self._values: dict[int, float] = {}  # by epoch

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        rows = next(callback for callback in trainer.callbacks if isinstance(callback, EpochLogger)).rows
        for row in rows[len(self._values) :]:
            self._values[row["epoch"]] = row[self._monitor]
            self._trial.report(row[self._monitor], step=row["epoch"])
        epoch = rows[-1]["epoch"]
        if epoch == trainer.max_epochs:
            return
        if math.isnan(row[self._monitor]):
            raise TrialPruned(f"after epoch {epoch}: {self._name} is not a number")
        if self._trial.should_prune():
            raise TrialPruned(self._reason(epoch))

    def _reason(self, epoch: int) -> str:
        """`after epoch 3: val accuracy 0.6100, median of 5 trials at that epoch 0.7000`."""
        study = self._trial.study
        best = (max if study.direction.name == "MAXIMIZE" else min)(self._values.values())
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        there = [trial.intermediate_values[epoch] for trial in others if epoch in trial.intermediate_values]
        at_best = "" if best == self._values[epoch] else " at best"
        return (
            f"after epoch {epoch}: {self._name} {best:.4f}{at_best}, median of {len(there)} trials at that epoch "
            f"{statistics.median(there):.4f}"
        )
