"""Train on smaller images first, so that most of the training costs a fraction."""

import logging

import lightning as L
from torch import nn

from common.errors import UserError
from lightning_modules.epoch_end import is_past
from lightning_modules.networks.surgery import smallest_image_size

log = logging.getLogger(__name__)


class ProgressiveResizing(L.Callback):
    """Train on smaller images at first and on full size at the end; val and test always use full size.

    The cost of a step grows with the square of the side. Howard 2018, the fast.ai entry to DAWNBench (progressive resizing);
    Tan & Le 2021, arXiv:2104.00298, section 4.

    Args:
        initial_scale: side of the smaller images, as a share of the image size.
        epoch_fraction: share of the epochs that use them, rounded down to whole epochs; or of the time limit, if there is one.
    """

    def __init__(self, *, initial_scale: float, epoch_fraction: float):
        for name, value in (("initial_scale", initial_scale), ("epoch_fraction", epoch_fraction)):
            if not 0 < value <= 1:
                raise UserError(f"callbacks.progressive_resizing.{name}={value}: use a share above 0 and up to 1")
        self.enabled = initial_scale != 1
        self.initial_scale = initial_scale
        self.epoch_fraction = epoch_fraction

    def check(self, network: nn.Module, image_size: int) -> None:
        """Raise UserError unless a network takes the smaller images."""
        side = round(self.initial_scale * image_size)
        if smallest_image_size(network, side, start=side) is None:
            raise UserError(
                f"callbacks.progressive_resizing.initial_scale={self.initial_scale}: this network does not take images of "
                f"{side} x {side} pixels; use callbacks.progressive_resizing.initial_scale=1"
            )

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        scale = 1 if is_past(trainer, self.epoch_fraction) else self.initial_scale
        trainer.datamodule.train_size = round(scale * trainer.datamodule.image_size)

    def on_train_end(self, trainer, pl_module) -> None:
        if self.epoch_fraction < 1 and trainer.datamodule.train_size < trainer.datamodule.image_size:
            log.warning(
                "callbacks.progressive_resizing: the training ended before it used images in full size, as val and test "
                "do; use a smaller callbacks.progressive_resizing.epoch_fraction"
            )
