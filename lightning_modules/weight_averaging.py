"""The moving average of the weights that callbacks/ema.py gives to Lightning's callback."""

import torch
from torch import Tensor

from common.errors import UserError


class WarmedUpEMA:
    """Average weights exponentially, over fewer steps at first: decay min(`decay`, (1 + n) / (10 + n)) after n steps.

    The average covers about the last ninth of the steps so far, and in the end the last 1 / (1 - decay) steps. With a fixed
    decay, the first epochs would be validated with the initial random weights. The schedule is that of TensorFlow's
    ExponentialMovingAverage.

    Args:
        decay: final decay, from 0 (no average) to below 1.
    """

    def __init__(self, *, decay: float):
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay={decay}: use a number from 0 to below 1")
        self.decay = decay

    def __call__(self, average: Tensor, current: Tensor, steps: Tensor) -> Tensor:
        """Return the new average of a weight; `steps` is the number of steps in `average`."""
        decay = torch.clamp((1 + steps) / (10 + steps), max=self.decay)
        return average + (1 - decay) * (current - average)
