"""End the run on a NaN or infinite loss, before its weights become a checkpoint."""

import signal
from math import isnan
from pathlib import Path

import lightning as L
import torch

from common.errors import StopRequested, UserError
from common.run_folder import RunFolder
from common.text import join_words
from lightning_modules.epoch_end import ends_epoch

EVERY_ON_DEVICE = 50  # steps between checks, since reading a value waits for the device


class DivergedError(UserError):
    """End a run whose loss is NaN or infinite."""


class TerminateOnNaN(L.Callback):
    """Check the loss after each step; on a GPU, the sum over the last steps from time to time.

    Raises:
        DivergedError: the loss is NaN or infinite; names step, learning rate and images.
    """

    def __init__(self):
        self._sum: torch.Tensor | None = None
        self._since = 0  # first step of the sum
        self._step = 0  # from 1; accumulated batches share it
        self._lr = 0.0  # of this step; after it, a schedule has set the next one
        self._images: torch.Tensor | list[str] = []  # rows of the last batch; for streamed images, their places

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._step = trainer.global_step + 1
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = outputs["loss"].detach()
        if self._sum is None:
            self._sum, self._since = torch.zeros_like(loss), self._step
        self._sum += loss
        self._images = batch["names"] if "names" in batch else batch["rows"]
        if loss.device.type == "cpu" or self._step % EVERY_ON_DEVICE == 0 or ends_epoch(trainer):
            self._check(trainer)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self._sum is not None:  # unchecked steps remain if a later callback has stopped the epoch
            self._check(trainer)

    def _check(self, trainer) -> None:
        value, step = self._sum, self._step
        if trainer.world_size > 1:  # all processes end in the same step; otherwise one would wait for the others
            value = trainer.strategy.reduce(value.clone(), reduce_op="sum")
        if not torch.isfinite(value):
            names = self._names(trainer)
            if trainer.world_size > 1:
                parts: list = [None] * trainer.world_size
                torch.distributed.all_gather_object(parts, names)
                names = [name for part in parts for name in part]
            if not trainer.is_global_zero:
                raise StopRequested(signal.SIGTERM)  # the first process shows the reason
            raise DivergedError(self._message(trainer, float(value), step, names))
        self._sum = None

    def _names(self, trainer) -> list[str]:
        if isinstance(self._images, list):
            return self._images
        return [trainer.datamodule.catalog.paths[row] for row in self._images.tolist()]

    def _message(self, trainer, value: float, step: int, names: list[str]) -> str:
        where = f"step {step}" if self._since == step else f"one of the steps {self._since} to {step}"
        images, shown = join_words(names, 16), "NaN" if isnan(value) else value
        kept = RunFolder(Path(trainer.default_root_dir)).last_checkpoint.is_file()
        return (
            f"the loss is {shown} at {where} (epoch {trainer.current_epoch + 1}, learning rate {self._lr:g}). Try a smaller "
            f"optimizer.lr or trainer.gradient_clip_val=1{'; last.ckpt and best.ckpt are from earlier' if kept else ''}. "
            f"Images of {'this' if self._since == step else 'the last'} batch: {images}"
        )
