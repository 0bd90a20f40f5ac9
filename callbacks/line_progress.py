"""Show the progress of an epoch, a validation or a test: a bar in a terminal, lines elsewhere."""

import logging
import math

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from common.progress import EVERY_S, Progress

log = logging.getLogger(__name__)


def name_epoch(trainer) -> str:
    """Return `epoch 3/12`, counted from 1 as everywhere on the screen and in metrics.csv."""
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


class EpochBar(TQDMProgressBar):
    """Name the epoch on Lightning's bar as in the log, and leave no bar behind."""

    def __init__(self):
        super().__init__(leave=False)

    def on_train_epoch_start(self, trainer, *_) -> None:
        bar, total = self.train_progress_bar, self.total_train_batches
        bar.reset()
        bar.total = None if total == math.inf else total
        bar.initial = 0
        bar.set_description(name_epoch(trainer))  # Lightning's own would first show `Epoch 0`


class LineProgress(L.Callback):
    """Show a line soon after training starts, which tells its speed, and then one per minute.

    Args:
        is_shown: False where a bar shows the same.
    """

    def __init__(self, *, is_shown: bool):
        self.is_shown = is_shown
        self._progress: Progress | None = None
        self._fits = False
        self._images = 0  # number in the epoch, the validation or the test

    def setup(self, trainer, pl_module, stage: str) -> None:
        self._end()
        self._fits = stage == "fit"
        self._progress = Progress(log=log).__enter__()
        self._set("starting the training" if self._fits else "", 0)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._set(name_epoch(trainer), trainer.datamodule.n_used("train"))
        self._progress.then_every_s = EVERY_S

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._count(trainer, batch_idx)

    def on_validation_start(self, trainer, pl_module) -> None:
        data = trainer.datamodule
        split = data.validated_split
        text = f"{name_epoch(trainer)}, {split}" if self._fits else f"evaluation on {split}"
        self._set(text, len(data.validated_rows()))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._count(trainer, batch_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer, pl_module) -> None:
        if self._fits:  # perhaps in the middle of an epoch
            self.on_train_epoch_start(trainer, pl_module)

    def on_test_start(self, trainer, pl_module) -> None:
        self._set("evaluation on test", trainer.datamodule.n_used("test"))

    def teardown(self, trainer, pl_module, stage: str) -> None:
        self._end()

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        self._end()

    def _set(self, text: str, images: int) -> None:
        self._images = images
        self._progress.set(text if self.is_shown else "")

    def _count(self, trainer, batch_idx: int) -> None:
        done = (batch_idx + 1) * trainer.datamodule.batch_size * trainer.world_size
        self._progress.count(min(self._images, done), self._images)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None
