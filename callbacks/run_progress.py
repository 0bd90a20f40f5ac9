"""Show how far the runs of smallest.py are, and end one that would not fit into the budget."""

from collections.abc import Callable

import lightning as L

from common.errors import TrialPruned

USED_UP = "the budget is used up"  # the reason of a run that has ended early


class RunProgress(L.Callback):
    """Report epoch and share of it after each batch, and end the run where its time is over.

    Args:
        show: takes the epochs that are done, as 3.5 for the middle of the fourth, and all epochs.
        is_over: whether the run has to end.
    """

    def __init__(self, *, show: Callable[[float, int], None], is_over: Callable[[], bool]):
        self._show, self._is_over = show, is_over

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._show(trainer.current_epoch + (batch_idx + 1) / max(trainer.num_training_batches, 1), trainer.max_epochs)
        if self._is_over():
            raise TrialPruned(USED_UP)
