"""Freeze the backbone, for the whole training or for its first epochs."""

import logging

import lightning as L

from lightning_modules.networks.surgery import set_frozen

log = logging.getLogger(__name__)


class FreezeBackbone(L.Callback):
    """Train only the head.

    Args:
        epochs: number of epochs after which the backbone is unfrozen; True: it stays frozen.
    """

    def __init__(self, *, epochs: int | bool):
        self.epochs = epochs

    def on_train_start(self, trainer, pl_module) -> None:
        if self.epochs is not True and 0 < trainer.max_epochs <= self.epochs and not trainer.fast_dev_run:
            log.warning(
                "model.freeze=%d: the backbone is never unfrozen in trainer.max_epochs=%d; use fewer epochs, or true",
                self.epochs, trainer.max_epochs,
            )  # fmt: skip
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        set_frozen(pl_module.network, self.epochs is True or trainer.current_epoch < self.epochs)
