"""Freeze the running statistics of pretrained batch norms, always or where the images resemble those of the weights."""

import contextlib
import logging
import math
from dataclasses import fields
from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn

from callbacks.freeze_backbone import FreezeBackbone
from common.errors import UserError
from common.run_record import BatchNormChoice
from common.text import finite_number
from lightning_modules.networks.surgery import batch_norms, evaluating, has_trained_statistics

log = logging.getLogger(__name__)

IMAGES = 256  # of the training split, compared with the statistics of the weights
TINY = 1e-8  # below this variance, a channel is constant


class FreezeBatchNorm(L.Callback):
    """Train with the mean and variance of a pretrained backbone instead of each batch's, without updating them.

    A batch of sixteen images estimates neither well. But on images of another kind the pretrained statistics are wrong, and
    training with them can fail. Before the first step, `auto` measures which is the case: for each batch norm, it compares the
    mean and variance of the input, over training images without augmentation, with those of the weights. Photographs are close
    to ImageNet; solar cells and drawings are not (docs/results.md, "The fast recipe"). Scale and shift of the batch norms learn
    either way. Batch norms without pretrained statistics train as usual. A backbone that stays frozen keeps its statistics,
    unmeasured.

    Args:
        enabled: true, false or auto: only if the images differ by less than `similar_below`.
        similar_below: limit on the divergence of `statistics_shift`, in nats.
        lr_factor: with auto, factor on the backbone's learning rate if the statistics are kept, since they no longer fit
            weights that change fast.
    """

    def __init__(self, *, enabled: bool | Literal["auto"], similar_below: float = 0.05, lr_factor: float = 0.2):
        if not 0 <= similar_below < math.inf:
            raise UserError(f"callbacks.freeze_batch_norm.similar_below={similar_below}: use 0 or more")
        if not 0 < lr_factor <= 1:
            raise UserError(f"callbacks.freeze_batch_norm.lr_factor={lr_factor}: use a number above 0 and up to 1")
        self.enabled = enabled
        self.similar_below = similar_below
        self.lr_factor = lr_factor
        self.frozen: list[str] | None = None  # names of the batch norms; part of every checkpoint
        self.choice: BatchNormChoice | None = None  # what auto has chosen; part of every checkpoint

    def setup(self, trainer, pl_module, stage: str) -> None:
        self._names = set(batch_norms(pl_module.network))  # names, since DDP may replace the modules later

    def on_train_start(self, trainer, pl_module) -> None:
        if self.frozen is None:
            norms = batch_norms(pl_module.network)
            self.frozen = [name for name, norm in norms.items() if has_trained_statistics(norm)]
            if not self.frozen:
                log.warning("callbacks.freeze_batch_norm: no pretrained batch-norm statistics to freeze")
            elif self.enabled == "auto" and not _stays_frozen(trainer):
                self.choice = self._choose(trainer, pl_module)
                if not self.choice.kept:
                    self.frozen = []
        if self.choice is not None and self.choice.kept:
            pl_module.scale_backbone_lr(self.choice.lr_factor)
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where an epoch is resumed in the middle

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        for name in self.frozen:
            pl_module.network.get_submodule(name).eval()

    def _choose(self, trainer, pl_module) -> BatchNormChoice:
        loader = trainer.datamodule.sample_of_train_dataloader(IMAGES, batch_size=64, augmented=False)
        batches = (
            trainer.strategy.batch_to_device(batch, pl_module.device)["pixels"].to(pl_module.dtype) for batch in loader
        )
        shift = statistics_shift(pl_module.network, self.frozen, batches)
        shift = trainer.strategy.broadcast(shift)  # the same in all processes
        kept = shift < self.similar_below
        factor = self.lr_factor if kept else 1.0
        result = f"are kept, and the backbone's learning rate is multiplied by {factor:g}" if kept else "are learned"
        log.info(
            "batch norms: the training images differ by %.3f from those of the weights (%s %g): their mean and variance %s",
            shift, "below" if kept else "at or above", self.similar_below, result,
        )  # fmt: skip
        return BatchNormChoice(shift=shift, kept=kept, lr_factor=factor)

    def state_dict(self) -> dict:
        return {"frozen": self.frozen, "choice": None if self.choice is None else vars(self.choice).copy()}

    def load_state_dict(self, state_dict: dict) -> None:
        frozen, choice = state_dict["frozen"], state_dict.get("choice")  # absent in checkpoints of earlier versions
        if not isinstance(frozen, list) or not all(isinstance(name, str) and name in self._names for name in frozen):
            raise UserError("its frozen batch norms are not those of the network")
        if choice is not None and not _is_choice(choice):
            raise UserError("its choice of batch norms is malformed")
        self.frozen, self.choice = frozen, None if choice is None else BatchNormChoice(**choice)


@torch.no_grad()
def statistics_shift(network: nn.Module, names: list[str], batches) -> float:
    """Return how far the inputs of batch norms are from their running statistics, in nats; 0 where they agree.

    For each channel, take the Kullback-Leibler divergence of the normal distribution with the running mean and variance from
    the one with the mean and variance over all images; then the median over the channels, since single channels may hardly
    vary, and the mean over the batch norms. The network keeps its mode.

    Args:
        names: names of the batch norms, as in `batch_norms`.
        batches: batches of normalized images (B, 3, H, W).
    """
    norms = {name: norm for name, norm in batch_norms(network).items() if name in names}
    sums: dict[str, list[Tensor]] = {}

    def add(name: str, x: Tensor) -> None:  # (B, C, ...)
        x = x.transpose(0, 1).flatten(1).double()
        of_batch = [x.sum(1), x.square().sum(1), torch.tensor(x.shape[1], device=x.device)]
        sums[name] = [a + b for a, b in zip(sums[name], of_batch, strict=True)] if name in sums else of_batch

    with contextlib.ExitStack() as hooks, evaluating(network):
        for name, norm in norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0])))
        for batch in batches:
            network(batch)
    shifts = []
    for name, (total, squares, n) in sums.items():
        mean = total / n
        variance = (squares / n - mean.square()).clamp_min(TINY)
        running = norms[name].running_var.double().clamp_min(TINY)
        distance = (mean - norms[name].running_mean).square() / running
        shifts.append(0.5 * (variance / running + distance - 1 - (variance / running).log()).median())
    return float(torch.stack(shifts).mean())


def _stays_frozen(trainer: L.Trainer) -> bool:
    """Return whether the backbone stays frozen, including its statistics, so that there is nothing to choose."""
    return any(isinstance(each, FreezeBackbone) and each.epochs is True for each in trainer.callbacks)


def _is_choice(choice) -> bool:
    """Return whether a value from a checkpoint, which may hold anything, is the content of a BatchNormChoice."""
    if not isinstance(choice, dict) or set(choice) != {each.name for each in fields(BatchNormChoice)}:
        return False
    numbers = [finite_number(choice[name]) for name in ("shift", "lr_factor")]
    return type(choice["kept"]) is bool and None not in numbers and 0 < numbers[1] <= 1
