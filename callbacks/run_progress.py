"""Show the progress of smallest.py's runs, and stop a run when the budget is used up."""

from collections.abc import Callable

import lightning as L

from common.errors import TrialPruned

USED_UP = "the budget is used up"  # the recorded reason of a run that has ended early


class RunProgress(L.Callback):
    """Report the progress after each batch, and stop the run when its time is over.

    Args:
        show: takes the finished epochs (3.5 in the middle of the fourth) and the number of epochs.
        is_over: returns whether the run has to stop.
    """

    def __init__(self, *, show: Callable[[float, int], None], is_over: Callable[[], bool]):
        self._show, self._is_over = show, is_over

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._show(trainer.current_epoch + (batch_idx + 1) / max(trainer.num_training_batches, 1), trainer.max_epochs)
        if self._is_over():
            raise TrialPruned(USED_UP)
