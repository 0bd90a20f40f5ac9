"""Learning-rate schedules: each builds, for an optimizer, what Lightning calls a scheduler configuration."""

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

Monitored = Literal["train/loss", "train/accuracy", "val/loss", "val/accuracy"]


def plateau(optimizer: Optimizer, *, monitor: Monitored, factor: float, patience: int) -> dict:
    """Multiplies the learning rate by `factor` when `monitor` has not improved for more than `patience` epochs."""
    if patience < 0:
        raise ValueError(f"patience={patience}: use 0 or more")
    mode = "min" if monitor.endswith("loss") else "max"
    return {
        "scheduler": ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience),
        "monitor": monitor,
    }


def cosine(optimizer: Optimizer, *, epochs: int) -> dict:
    """From the full learning rate to zero along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, no restart)."""
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: use 1 or more")
    return {"scheduler": CosineAnnealingLR(optimizer, T_max=epochs)}
