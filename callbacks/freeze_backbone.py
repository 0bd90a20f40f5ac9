"""Freeze the backbone, for the whole training or for its first epochs."""

import lightning as L

from lightning_modules.networks.surgery import set_frozen


class FreezeBackbone(L.Callback):
    """Train only the head.

    Args:
        epochs: number of epochs after which the backbone is unfrozen; True: it stays frozen.
    """

    def __init__(self, *, epochs: int | bool):
        self.epochs = epochs

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        set_frozen(pl_module.network, self.epochs is True or trainer.current_epoch < self.epochs)
