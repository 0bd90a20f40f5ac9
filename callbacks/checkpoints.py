"""Which checkpoints a run keeps: the best by a validation quantity, and the last whole state."""

from typing import Literal

from lightning.pytorch.callbacks import ModelCheckpoint


class Best(ModelCheckpoint):
    """checkpoints/best.ckpt: the epoch with the best `monitor`; the earliest one wins a tie."""

    def __init__(self, *, monitor: Literal["val/accuracy", "val/loss"]):
        super().__init__(
            filename="best",
            monitor=monitor,
            mode="min" if monitor.endswith("loss") else "max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )


class Last(ModelCheckpoint):
    """checkpoints/last.ckpt: everything that going on needs, after each epoch. It comes after Best, whose state it holds."""

    def __init__(self):
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
