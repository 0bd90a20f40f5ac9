"""Smaller images first: most of the training at a fraction of the cost."""

import lightning as L

from lightning_modules.networks.surgery import smallest_image_size


class ProgressiveResizing(L.Callback):
    """Trains on smaller images at first and on whole ones at the end; they are measured whole all the time.

    A step costs as the square of the side. Howard 2018, the fast.ai entry to DAWNBench (progressive resizing); Tan & Le 2021,
    arXiv:2104.00298, section 4.

    Args:
        initial_scale: side of the smaller images, as a share of the image size.
        epoch_fraction: of the epochs that see them, rounded down.
    """

    def __init__(self, *, initial_scale: float, epoch_fraction: float):
        for name, value in (("initial_scale", initial_scale), ("epoch_fraction", epoch_fraction)):
            if not 0 < value <= 1:
                raise ValueError(f"callbacks.progressive_resizing.{name}={value}: use a share above 0 and up to 1")
        self.enabled = initial_scale != 1
        self.initial_scale = initial_scale
        self.epoch_fraction = epoch_fraction

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        side = round(self.initial_scale * trainer.datamodule.image_size)
        if smallest_image_size(pl_module.network, side, start=side) is None:
            raise ValueError(
                f"callbacks.progressive_resizing.initial_scale={self.initial_scale}: this network does not take images of {side} pixels; use "
                "callbacks.progressive_resizing.initial_scale=1"
            )

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning leaves it out where it goes on in the middle of one

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        small = trainer.current_epoch < int(self.epoch_fraction * trainer.max_epochs)
        trainer.datamodule.train_size = round((self.initial_scale if small else 1) * trainer.datamodule.image_size)
