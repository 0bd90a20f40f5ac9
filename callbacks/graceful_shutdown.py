"""On SIGINT, SIGTERM, SIGHUP or SLURM's SIGUSR1, save the state in the middle of an epoch and end the training."""

import logging
import signal

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from callbacks.checkpoint import LastCheckpoint
from common.errors import StopRequested, UserError
from common.signals import is_repeated, stop_signals
from lightning_modules.epoch_end import may_save

log = logging.getLogger(__name__)


class GracefulShutdown(L.Callback):
    """End the training after the step in which a signal arrives; a second signal ends it immediately."""

    def __init__(self):
        self._signal = 0
        self.if_ended = ""  # advice if a callback has ended the training already, for an error; empty: only log it
        self.has_changed = False  # whether a resumed run has other settings, perhaps to train longer

    def on_fit_start(self, trainer, pl_module) -> None:
        for ending in ended_by(trainer):
            if self.if_ended:
                raise UserError(
                    f"{ending}; this has ended the training already, so nothing is left to train; {self.if_ended}"
                )
            log.log(
                logging.WARNING if self.has_changed else logging.INFO,
                "a callback has ended this training already (%s), so nothing is trained; to train longer, remove it: "
                "++callbacks.NAME=null",
                ending,
            )
            trainer.should_stop = True

    def on_train_start(self, trainer, pl_module) -> None:
        # Not earlier, since Lightning installs its own handlers first; it restores the usual ones at the end
        for number in stop_signals():
            signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if may_save(trainer, batch_idx) and (number := self._received(trainer)):
            next(c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)).save_now(trainer)
            raise StopRequested(number)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        # The previous epoch's last.ckpt is written at this point
        if number := self._received(trainer):
            raise StopRequested(number)

    def on_train_end(self, trainer, pl_module) -> None:
        for ending in ended_by(trainer):
            log.info("%s", ending)
        self.on_train_epoch_start(trainer, pl_module)

    def _on_signal(self, number: int, frame) -> None:
        if is_repeated(number):
            return
        if self._signal:
            raise StopRequested(number)
        self._signal = number
        log.warning("%s: stopping after this step; a second signal stops at once", signal.Signals(number).name)

    def _received(self, trainer) -> int:
        """Return the signal that any process of the run received; 0: none."""
        if trainer.world_size == 1:
            return self._signal
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))


def ended_by(trainer) -> list[str]:
    """Return why callbacks have ended the training; Lightning logs this at a level that is off."""
    reasons = [
        f"early stopping: {early.stopping_reason_message}"
        for early in trainer.early_stopping_callbacks
        if early.stopping_reason != EarlyStoppingReason.NOT_STOPPED
    ]
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    return reasons + [
        f"timer: {timer.time_elapsed():.0f} s of training are over"
        for timer in timers
        if (left_s := timer.time_remaining()) is not None and left_s <= 0
    ]
