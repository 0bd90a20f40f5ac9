"""Freeze the running statistics of pretrained batch norms."""

import logging

import lightning as L

from common.errors import UserError
from lightning_modules.networks.surgery import batch_norms, has_trained_statistics

log = logging.getLogger(__name__)


class FreezeBatchNorm(L.Callback):
    """Train with the mean and variance of a pretrained backbone instead of each batch's, and leave them as they are.

    A batch of sixteen estimates neither well. Scale and shift of the batch norms still learn. Batch norms without pretrained
    statistics train as usual.
    """

    def __init__(self, *, enabled: bool):
        self.enabled = enabled
        self.frozen: list[str] | None = None  # names of the batch norms; part of every checkpoint

    def setup(self, trainer, pl_module, stage: str) -> None:
        self._names = set(batch_norms(pl_module.network))  # DDP may replace the modules themselves after this

    def on_train_start(self, trainer, pl_module) -> None:
        if self.frozen is None:
            norms = batch_norms(pl_module.network)
            self.frozen = [name for name, norm in norms.items() if has_trained_statistics(norm)]
            if not self.frozen:
                log.warning("callbacks.freeze_batch_norm: no pretrained batch-norm statistics to freeze")
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        for name in self.frozen:
            pl_module.network.get_submodule(name).eval()

    def state_dict(self) -> dict:
        return {"frozen": self.frozen}

    def load_state_dict(self, state_dict: dict) -> None:
        frozen = state_dict["frozen"]
        if not isinstance(frozen, list) or not all(isinstance(name, str) and name in self._names for name in frozen):
            raise UserError("its frozen batch norms are not those of the network")
        self.frozen = frozen
