"""Training that a signal asked to end: the state is saved in the middle of an epoch."""

import logging
import signal

import lightning as L
import torch
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from callbacks.checkpoint import LastCheckpoint
from common.errors import StopRequested
from common.signals import stop_signals

log = logging.getLogger(__name__)


class GracefulShutdown(L.Callback):
    """Ends the training after the step that a signal came in; a second signal ends it at once."""

    def __init__(self):
        self._signal = 0

    def on_train_start(self, trainer, pl_module) -> None:
        # Here and not earlier, since Lightning puts handlers of its own in place before; it takes ours away at the end
        for number in stop_signals():
            signal.signal(number, self._ask)
        if any(early.stopping_reason != EarlyStoppingReason.NOT_STOPPED for early in trainer.early_stopping_callbacks):
            log.warning(
                "early stopping has ended this training before: nothing more is trained; to train on, take that callback "
                "away: +callbacks.NAME=null"
            )
            trainer.should_stop = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not trainer.is_last_batch and (number := self._asked(trainer)):
            next(c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)).save_now(trainer)
            raise StopRequested(number)

    def on_train_epoch_start(self, trainer, pl_module) -> None:  # of the next epoch: this one's last.ckpt is written
        if number := self._asked(trainer):
            raise StopRequested(number)

    def on_train_end(self, trainer, pl_module) -> None:
        for early in trainer.early_stopping_callbacks:
            if early.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                log.info("early stopping: %s", early.stopping_reason_message)
        self.on_train_epoch_start(trainer, pl_module)

    def _ask(self, number: int, frame) -> None:
        if self._signal:
            raise StopRequested(number)
        self._signal = number
        log.warning("%s: ends after this step; once more: at once", signal.Signals(number).name)

    def _asked(self, trainer) -> int:
        """The signal that came to this process or another one of the run; 0 for none."""
        if trainer.world_size == 1:
            return self._signal
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))
