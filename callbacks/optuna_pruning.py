"""Prune a trial of a search that is behind the others."""

import contextlib
import math
import statistics
from collections.abc import Callable

import lightning as L
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from callbacks.epoch_logger import EpochLogger
from common.errors import TrialPruned
from common.text import plural


class OptunaPruning(L.Callback):
    """Report a metric of every epoch to the trial, and raise TrialPruned if the study's pruner says so.

    A resumed trial reports earlier epochs from the rows in its checkpoint.

    Args:
        monitor: a metric of metrics.csv.
    """

    def __init__(self, *, trial: optuna.Trial, monitor: str):
        self._trial = trial
        self.monitor = monitor
        self._values: dict[int, float] = {}  # by epoch

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        rows = next(callback for callback in trainer.callbacks if isinstance(callback, EpochLogger)).rows
        for row in rows:
            if row["epoch"] in self._values or row.get(self.monitor) is None:  # reported already, or not validated
                continue
            self._values[row["epoch"]] = row[self.monitor]
            with contextlib.suppress(UpdateFinishedTrialError):  # failed for lack of heartbeats; the run continues
                self._trial.report(row[self.monitor], step=row["epoch"])
        epoch = rows[-1]["epoch"]
        if epoch == trainer.max_epochs or epoch not in self._values:
            return
        if math.isnan(self._values[epoch]):
            raise TrialPruned(f"after epoch {epoch}: {self._label} is NaN")
        if self._trial.should_prune():
            raise TrialPruned(self._reason(epoch))

    @property
    def _label(self) -> str:
        return self.monitor.replace("/", " ")

    def _reason(self, epoch: int) -> str:
        """Return `after epoch 3: val accuracy 0.6100, median of 5 trials at that epoch 0.7000`."""
        study = self._trial.study
        best = (max if study.direction.name == "MAXIMIZE" else min)(self._values.values())
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [trial.intermediate_values[epoch] for trial in others if epoch in trial.intermediate_values]
        at_best = "" if best == self._values[epoch] else " at best"
        return (
            f"after epoch {epoch}: {self._label} {best:.4f}{at_best}, median of {plural(len(values), 'trial')} at that epoch "
            f"{statistics.median(values):.4f}"
        )


class RacePruning(OptunaPruning):
    """Pruning for a study that weighs accuracy and cost; the reason names the best value of all at the same epoch.

    Args:
        best: takes the study and an epoch, and returns the best value after that epoch.
    """

    def __init__(self, *, trial: optuna.Trial, monitor: str, best: Callable[[optuna.Study, int], float]):
        super().__init__(trial=trial, monitor=monitor)
        self._best = best

    def _reason(self, epoch: int) -> str:
        return (
            f"after epoch {epoch}, behind by accuracy and cost: {self._label} {self._values[epoch]:.4f}, best at that epoch "
            f"{self._best(self._trial.study, epoch):.4f}"
        )
