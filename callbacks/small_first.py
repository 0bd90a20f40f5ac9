"""Smaller pictures first: most of the training at a fraction of the cost."""

import lightning as L

from lightning_modules.networks import smallest_image_size


class SmallFirst(L.Callback):
    """Trains on smaller pictures at first and on whole ones at the end; they are measured whole all the time.

    A step costs as the square of the side. Howard 2018, the fast.ai entry to DAWNBench (progressive resizing); Tan & Le 2021,
    arXiv:2104.00298, section 4.

    Args:
        scale: side of the smaller pictures, as a share of the image size.
        share: of the epochs that see them, rounded down.
    """

    def __init__(self, *, scale: float, share: float):
        for name, value in (("scale", scale), ("share", share)):
            if not 0 < value <= 1:
                raise ValueError(f"callbacks.small_first.{name}={value}: use a share above 0 and up to 1")
        self.idle = scale == 1
        self.scale = scale
        self.share = share

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        side = round(self.scale * trainer.datamodule.image_size)
        if smallest_image_size(pl_module.network, side, start=side) is None:
            raise ValueError(
                f"callbacks.small_first.scale={self.scale}: this network does not take pictures of {side} pixels; use "
                "callbacks.small_first.scale=1"
            )

    def on_train_start(self, trainer, pl_module) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning leaves it out where it goes on in the middle of one

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        small = trainer.current_epoch < int(self.share * trainer.max_epochs)
        trainer.datamodule.train_size = round((self.scale if small else 1) * trainer.datamodule.image_size)
