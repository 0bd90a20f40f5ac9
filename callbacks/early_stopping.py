"""Early stopping that knows in which direction a metric improves."""

import math
from typing import Literal

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from common.errors import UserError
from lightning_modules.optim import direction


class EarlyStopping(LightningEarlyStopping):
    """End the training where `monitor` has not improved for some epochs.

    Args:
        monitor: metric of the epochs; a loss improves downward, all others upward.
        patience: epochs without an improvement.
        min_delta: what counts as one.
        mode: min or max, of a metric of the user's own; None: as of `monitor`.
    """

    def __init__(self, *, monitor: str, patience: int, min_delta: float = 0, mode: Literal["min", "max"] | None = None):
        if patience < 0:
            raise UserError(f"callbacks.early_stopping.patience={patience}: use 0 or more")
        if not 0 <= min_delta < math.inf:
            raise UserError(f"callbacks.early_stopping.min_delta={min_delta}: use a number from 0")
        super().__init__(monitor=monitor, mode=mode or direction(monitor), patience=patience, min_delta=min_delta)
