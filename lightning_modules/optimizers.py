"""Optimizers that know which parameters they train; each takes the network instead of its parameters."""

from torch import nn
from torch.optim import AdamW

from .networks import head_of


def fine_tuning_adamw(
    network: nn.Module, *, lr: float, backbone_lr_factor: float, weight_decay: float, fused: bool
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for a pretrained backbone with a fresh head.

    The head learns at `lr`, the backbone at `lr * backbone_lr_factor` (Howard & Ruder 2018, arXiv:1801.06146, with two
    groups). Weights of layers decay; biases and norms do not (He et al. 2019, arXiv:1812.01187, section 3.1).

    Raises:
        ValueError: a factor below 0, or a network of which it is not known where its head begins.
    """
    if backbone_lr_factor < 0:
        raise ValueError(f"optimizer.backbone_lr_factor={backbone_lr_factor}: use 0 or more")
    if backbone_lr_factor == 1:
        groups = [{"params": list(network.parameters()), "lr": lr}]
    else:
        head = head_of(network)
        if head is None:
            raise ValueError(
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
    """A group as those of its parameters that decay, and those that do not; vectors (biases and norms) do not."""
    matrices = [parameter for parameter in group["params"] if parameter.ndim > 1]
    vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    halves = [
        group | {"params": matrices, "weight_decay": weight_decay},
        group | {"params": vectors, "weight_decay": 0.0},
    ]
    return [half for half in halves if half["params"]]
