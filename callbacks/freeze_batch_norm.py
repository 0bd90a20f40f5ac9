"""Batch norms keep the statistics that came with the weights."""

import logging

import lightning as L

from lightning_modules.networks.surgery import batch_norms, has_trained_statistics

log = logging.getLogger(__name__)


class FreezeBatchNorm(L.Callback):
    """Trains with the mean and variance of a pretrained backbone instead of each batch's own, and leaves them as they are.

    A batch of sixteen says little about either. Scale and shift of the batch norms still learn. Batch norms that were never
    trained have nothing to keep, and go on as usual.
    """

    def __init__(self, *, enabled: bool):
        self.enabled = enabled
        self.kept: list[str] | None = None  # names of the batch norms; part of every checkpoint

    def setup(self, trainer, pl_module, stage: str) -> None:
        self._names = set(batch_norms(pl_module.network))  # the modules themselves may be exchanged after this, for DDP

    def on_train_start(self, trainer, pl_module) -> None:
        if self.kept is None:
            self.kept = [name for name, norm in batch_norms(pl_module.network).items() if has_trained_statistics(norm)]
            if not self.kept:
                log.warning("callbacks.freeze_batch_norm: no batch norm here was trained before, so none is kept")
        self.on_train_epoch_start(trainer, pl_module)  # Lightning leaves it out where it goes on in the middle of one

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        for name in self.kept:
            pl_module.network.get_submodule(name).eval()

    def state_dict(self) -> dict:
        return {"kept": self.kept}

    def load_state_dict(self, state_dict: dict) -> None:
        kept = state_dict["kept"]
        if not isinstance(kept, list) or not all(isinstance(name, str) and name in self._names for name in kept):
            raise ValueError("its batch norms that keep their statistics are not those of the network")
        self.kept = kept
