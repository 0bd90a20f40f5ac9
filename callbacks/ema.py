"""A moving average of the weights that one setting turns on."""

import functools

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from common.errors import UserError


class EMA(WeightAveraging):
    """Validate, keep and test an exponential moving average of the weights instead of the latest weights.

    Mean and variance of the batch norms are averaged like the weights; callbacks/recalibrate_batch_norm.py, which comes after
    this callback, measures them again for the averaged weights. A checkpoint holds both sets of weights, with Adam four numbers
    per weight instead of three, so it is a third larger.

    Args:
        decay: final decay, from 0 (no average) to below 1; see `average_weights`.
    """

    def __init__(self, *, enabled: bool, decay: float):
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay={decay}: use a number from 0 to below 1")
        super().__init__(avg_fn=functools.partial(average_weights, decay=decay))
        self.enabled = enabled


def average_weights(average: Tensor, current: Tensor, steps: Tensor, *, decay: float) -> Tensor:
    """Return the new average of a weight after `steps` steps n: with the decay min(`decay`, (1 + n) / (10 + n)).

    The average covers about the last ninth of the steps so far, and in the end the last 1 / (1 - decay) steps. With a fixed
    decay, the first epochs would be validated with the initial random weights. The schedule is that of TensorFlow's
    ExponentialMovingAverage.
    """
    return average + (1 - torch.clamp((1 + steps) / (10 + steps), max=decay)) * (current - average)
