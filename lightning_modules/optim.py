"""Optimizers that choose groups of parameters, for which they get the network, and learning rate schedules."""

import math
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from common.errors import UserError
from lightning_modules.networks.surgery import find_head


def discriminative_adamw(
    network: nn.Module, *, lr: float, backbone_lr_factor: float, weight_decay: float, fused: bool
) -> AdamW:
    """Build AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for a pretrained backbone with a fresh head.

    The head learns at `lr`, the backbone at `lr * backbone_lr_factor` (Howard & Ruder 2018, arXiv:1801.06146, with two
    groups). Weights of layers decay; biases and norms do not (He et al. 2019, arXiv:1812.01187, section 3.1).

    Raises:
        UserError: a factor below 0, or a network of which it is not known where its head begins.
    """
    if backbone_lr_factor < 0:
        raise UserError(f"optimizer.backbone_lr_factor={backbone_lr_factor}: use 0 or more")
    if backbone_lr_factor == 1:
        groups = [{"params": list(network.parameters()), "lr": lr}]
    else:
        head = find_head(network)
        if head is None:
            raise UserError(
                "optimizer.backbone_lr_factor: it is not known where the head of this network begins; use 1"
            )
        of_head = {id(parameter) for parameter in head.parameters()}
        backbone = [parameter for parameter in network.parameters() if id(parameter) not in of_head]
        groups = [
            {"params": list(head.parameters()), "lr": lr},
            {"params": backbone, "lr": lr * backbone_lr_factor},
        ]
    return AdamW([half for group in groups for half in _by_decay(group, weight_decay)], lr=lr, fused=fused)


def _by_decay(group: dict, weight_decay: float) -> list[dict]:
    """Divide a group into parameters that decay and those that do not: vectors (biases and norms)."""
    matrices = [parameter for parameter in group["params"] if parameter.ndim > 1]
    vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    halves = [
        group | {"params": matrices, "weight_decay": weight_decay},
        group | {"params": vectors, "weight_decay": 0.0},
    ]
    return [half for half in halves if half["params"]]


Monitored = Literal["train/loss", "train/accuracy", "val/loss", "val/accuracy"]


def plateau(optimizer: Optimizer, *, monitor: Monitored, factor: float, patience: int) -> dict:
    """Multiply the learning rate by `factor` when `monitor` has not improved for more than `patience` epochs."""
    if patience < 0:
        raise UserError(f"scheduler.patience={patience}: use 0 or more")
    mode = "min" if monitor.endswith("loss") else "max"
    return {
        "scheduler": ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience),
        "monitor": monitor,
    }


def cosine(optimizer: Optimizer, *, epochs: int, max_steps: int | None = None) -> dict:
    """Lower the learning rate to zero along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, no restart).

    Args:
        epochs: in which it falls, epoch by epoch.
        max_steps: optimizer steps that end the training, in which it falls instead, step by step.
    """
    if epochs < 1:
        raise UserError(f"scheduler.epochs={epochs}: use 1 or more")
    if max_steps is not None:
        return {"scheduler": CosineAnnealingLR(optimizer, T_max=max_steps), "interval": "step"}
    return {"scheduler": CosineAnnealingLR(optimizer, T_max=epochs)}


def one_cycle(optimizer: Optimizer, *, steps: int, warmup_fraction: float) -> dict:
    """Raise the learning rate from near zero along a line, then lower it to zero along half a cosine, step by step.

    Smith 2018, arXiv:1803.09820, without its cycle of momentum.

    Args:
        steps: optimizer steps of the whole training.
        warmup_fraction: share of them in which it rises.
    """
    if not 0 <= warmup_fraction < 1:
        raise UserError(f"scheduler.warmup_fraction={warmup_fraction}: use a share from 0 to below 1")
    rising = round(warmup_fraction * steps)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2

    return {"scheduler": LambdaLR(optimizer, share), "interval": "step"}
