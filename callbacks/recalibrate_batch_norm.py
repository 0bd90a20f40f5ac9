"""Measure the mean and variance of the batch norms before each validation."""

import logging

import lightning as L
import torch
from torch import nn

from common.errors import UserError
from lightning_modules.epoch_end import is_past
from lightning_modules.networks.surgery import batch_norms

log = logging.getLogger(__name__)

SMALLEST_BATCH = 64  # images; memory allows it without gradients, and a larger batch is closer to a network's use


class RecalibrateBatchNorm(L.Callback):
    """Before validation, replace the batch norms' running mean and variance with those for the current weights.

    Running statistics come from the last steps: from few images if batches are small, and from outdated weights while these
    still change much. They make validation jump from epoch to epoch. Here they are averaged over batches of training images
    instead (PreciseBN: Wu & Johnson 2021, arXiv:2105.07576, section 3; torch.optim.swa_utils.update_bn), in forward passes.

    This does not affect training, in which a batch norm uses the statistics of its batch. The new statistics stay in the
    network as the running statistics of the next epoch, so a checkpoint is complete. Batch norms that do not learn their
    statistics, as with freeze_batch_norm, keep them.

    Args:
        images: at most this many of the training split; the same in each epoch, in random order.
        after_fraction: share of the epochs, or of the time limit, before the first epoch that is validated this way.
        augmented: whether to augment these images, although validation images are not augmented.
    """

    def __init__(self, *, enabled: bool, images: int, after_fraction: float, augmented: bool):
        if images < 2:
            raise UserError(f"callbacks.recalibrate_batch_norm.images={images}: use 2 or more")
        if not 0 <= after_fraction < 1:
            raise UserError(
                f"callbacks.recalibrate_batch_norm.after_fraction={after_fraction}: use a share from 0 to below 1"
            )
        self.enabled = enabled
        self.images = images
        self.after_fraction = after_fraction
        self.augmented = augmented
        self._norms: list[nn.Module] | None = None  # those that learn their statistics in this epoch
        self._warned = False

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._norms = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self._norms is None:  # by now, all callbacks have frozen what they freeze
            norms = batch_norms(pl_module.network).values()
            self._norms = [norm for norm in norms if norm.training and norm.running_mean is not None]
            if not self._norms and not self._warned:
                self._warned = True
                log.warning(
                    "callbacks.recalibrate_batch_norm: no batch norm learns its statistics in epoch %d, which is validated as "
                    "usual",
                    trainer.current_epoch + 1,
                )

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        if trainer.state.fn == "fit" and self._norms and is_past(trainer, self.after_fraction):
            with trainer.precision_plugin.forward_context():
                replace_statistics(trainer, pl_module, self._norms, images=self.images, augmented=self.augmented)


@torch.no_grad()
def replace_statistics(trainer, pl_module, norms: list[nn.Module], *, images: int, augmented: bool = False) -> None:
    """Replace the running mean and variance of batch norms with their mean over batches of training images.

    Afterwards these norms are in evaluation mode; all other modules keep theirs.
    """
    data = trainer.datamodule
    size = max(data.batch_size, SMALLEST_BATCH)
    batches = data.sample_of_train_dataloader(images, batch_size=size, augmented=augmented)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the batches
        norm.train()
    try:
        for number, batch in enumerate(batches):
            if number and len(batch["labels"]) < size:  # a partial batch would count as much as a full one
                break
            pl_module(trainer.strategy.batch_to_device(batch, pl_module.device)["pixels"])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
