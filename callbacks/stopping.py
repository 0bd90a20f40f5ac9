"""Training that a signal asked to end: the state is saved in the middle of an epoch."""

import logging
import signal

import lightning as L

from .checkpoints import Last
from .errors import Stopped
from .signals import signals

log = logging.getLogger(__name__)


class Stopping(L.Callback):
    """Ends the training after the step that a signal came in; a second signal ends it at once."""

    def __init__(self):
        self._signal: int | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        # Here and not earlier, since Lightning puts handlers of its own in place before; it takes ours away at the end
        for number in signals():
            signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not trainer.is_last_batch and self._asked(trainer):
            next(c for c in trainer.checkpoint_callbacks if isinstance(c, Last)).save_now(trainer)
            self._end()

    def on_train_epoch_start(self, trainer, pl_module) -> None:  # of the next epoch: this one's last.ckpt is written
        if self._asked(trainer):
            self._end()

    def on_train_end(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def _ask(self, number: int, frame) -> None:
        if self._signal is not None:
            raise Stopped(number)
        self._signal = number
        log.warning("%s: ends after this step; once more: at once", signal.Signals(number).name)

    def _asked(self, trainer) -> bool:
        asked = self._signal is not None
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def _end(self) -> None:
        raise Stopped(self._signal or signal.SIGTERM)  # another process of this run was asked
