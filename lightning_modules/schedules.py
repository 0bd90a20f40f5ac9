"""Learning-rate schedules: each builds, for an optimizer, what Lightning calls a scheduler configuration."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

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


def one_cycle(optimizer: Optimizer, *, steps: int, warm_up: float) -> dict:
    """From near zero along a line to the full learning rate, then along half a cosine to zero, step by step.

    Smith 2018, arXiv:1803.09820, without its cycle of momentum.

    Args:
        steps: optimizer steps of the whole training.
        warm_up: share of them that the way up takes.
    """
    if not 0 <= warm_up < 1:
        raise ValueError(f"scheduler.warm_up={warm_up}: use a share from 0 to below 1")
    rising = round(warm_up * steps)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2

    return {"scheduler": LambdaLR(optimizer, share), "interval": "step"}
