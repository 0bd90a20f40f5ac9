"""Learning-rate schedules: each builds, for an optimizer, what Lightning calls a scheduler configuration."""

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

Monitored = Literal["train/loss", "train/accuracy", "val/loss", "val/accuracy"]


def plateau(optimizer: Optimizer, *, monitor: Monitored, factor: float, patience: int) -> dict:
    """Multiplies the learning rate by `factor` when `monitor` has not improved for more than `patience` epochs."""
    mode = "min" if monitor.endswith("loss") else "max"
    return {
        "scheduler": ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience),
        "monitor": monitor,
    }
