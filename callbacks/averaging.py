"""An average of the weights along the way."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaging(WeightAveraging):
    """Validation, best.ckpt and test take the exponential moving average of the weights: Tarvainen & Valpola 2017,
    arXiv:1703.01780. Batch norm's statistics are averaged likewise.

    Args:
        decay: of the average, each step; 0 for none.
    """

    def __init__(self, *, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.averaging.decay={decay}: use 0 (none) to below 1")
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.idle = decay == 0
