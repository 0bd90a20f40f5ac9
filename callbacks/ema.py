"""The moving average of the weights, as one switch."""

from lightning.pytorch.callbacks import WeightAveraging

from lightning_modules.weight_averaging import WarmedUpEMA


class EMA(WeightAveraging):
    """Validate, keep and test an exponential moving average of the weights in place of the last ones.

    Mean and variance of the batch norms are averaged as the weights are; callbacks/recalibrate_batch_norm.py, which comes after
    it, measures those of the averaged weights. A checkpoint holds both, four numbers a weight instead of three with Adam: it is
    a third larger.

    Args:
        enabled: whether there is one.
        decay: in the end; over fewer steps at first, as of WarmedUpEMA.
    """

    def __init__(self, *, enabled: bool, decay: float):
        super().__init__(avg_fn=WarmedUpEMA(decay=decay))
        self.enabled = enabled
