"""Early stopping that knows in which direction each metric improves."""

import math
from typing import Literal

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from torch import Tensor

from common.errors import UserError
from common.text import did_you_mean
from lightning_modules.optim import direction


class EarlyStopping(LightningEarlyStopping):
    """Stop training when `monitor` has not improved for `patience` epochs.

    Args:
        monitor: metric of each epoch; a loss improves downward, all others upward.
        patience: epochs without an improvement.
        min_delta: smallest change that counts as an improvement.
        mode: min or max, for a user's own metric; None: as known for `monitor`.
    """

    def __init__(self, *, monitor: str, patience: int, min_delta: float = 0, mode: Literal["min", "max"] | None = None):
        if patience < 0:
            raise UserError(f"callbacks.early_stopping.patience={patience}: use 0 or more")
        if not 0 <= min_delta < math.inf:
            raise UserError(f"callbacks.early_stopping.min_delta={min_delta}: use 0 or more")
        super().__init__(monitor=monitor, mode=mode or direction(monitor), patience=patience, min_delta=min_delta)

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        """Raise UserError where nothing logs the metric, which only training shows if a user's own callback might log it."""
        if self.monitor not in logs:
            raise UserError(
                f"callbacks.early_stopping.monitor={self.monitor}: nothing logged it; {did_you_mean(self.monitor, logs)}"
            )
        return True
