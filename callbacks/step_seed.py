"""Seed every training step, so that its randomness depends only on the seed and the step."""

import hashlib
import random

import lightning as L
import numpy as np
import torch


class StepSeed(L.Callback):
    """Seed Python, NumPy and torch before every training step from (seed, step, process).

    The random numbers of a step (mostly dropout) then do not depend on earlier ones, so resuming from a checkpoint equals
    never having stopped, without any state to keep.
    """

    def __init__(self, *, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        key = f"{self.seed} {trainer.global_step} {trainer.global_rank}"
        if accumulated := batch_idx % trainer.accumulate_grad_batches:  # a further batch of the same step
            key = f"{key} {accumulated}"
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 the old global generator is what libraries draw from
        # torch.manual_seed would spend 0.1 ms on devices that do not exist
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
