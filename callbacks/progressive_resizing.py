"""Smaller pictures in the first epochs."""

import lightning as L
import torch.nn.functional as F

STRIDE = 32  # sides are multiples of it, what the networks divide a side by


class ProgressiveResizing(L.Callback):
    """Shrinks the batches of the first epochs, more at first: Tan & Le 2021, arXiv:2104.00298, section 4.

    Validation and test see pictures of the full size.

    Args:
        smallest: share of the full side in the first epoch; 1 for none.
        until: share of the epochs after which the side is full.
    """

    def __init__(self, *, smallest: float, until: float):
        for name, value in (("smallest", smallest), ("until", until)):
            if not 0 < value <= 1:
                raise ValueError(f"callbacks.progressive_resizing.{name}={value}: use a share above 0 and up to 1")
        self.idle = smallest == 1
        self.smallest = smallest
        self.until = until

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        full = batch["pixels"].shape[-1]
        side = self.side(full, trainer.current_epoch, trainer.max_epochs)
        if side < full:
            batch["pixels"] = F.interpolate(batch["pixels"], size=(side, side), mode="bilinear", antialias=True)

    def side(self, full: int, epoch: int, epochs: int) -> int:
        """Pixels in an epoch, counted from 0."""
        growing = self.until * epochs
        share = self.smallest + (1 - self.smallest) * min(1, epoch / growing)
        return min(full, max(STRIDE, round(share * full / STRIDE) * STRIDE))
