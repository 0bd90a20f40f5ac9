"""A moving average of the weights that one setting turns on."""

from lightning.pytorch.callbacks import WeightAveraging

from lightning_modules.weight_averaging import WarmedUpEMA


class EMA(WeightAveraging):
    """Validate, keep and test an exponential moving average of the weights instead of the latest weights.

    Mean and variance of the batch norms are averaged like the weights; callbacks/recalibrate_batch_norm.py, which comes after
    this callback, measures them again for the averaged weights. A checkpoint holds both sets of weights, with Adam four numbers
    per weight instead of three, so it is a third larger.

    Args:
        decay: final decay; WarmedUpEMA averages over fewer steps at first.
    """

    def __init__(self, *, enabled: bool, decay: float):
        super().__init__(avg_fn=WarmedUpEMA(decay=decay))
        self.enabled = enabled
