"""Loss and accuracy of one pass over a split; evaluation/scores.py computes all other metrics from the probabilities."""

import torch
from torch import Tensor
from torchmetrics import Metric

from common.errors import UserError


class EpochMetrics(Metric):
    """Average loss and accuracy over a pass, exactly even with a short last batch and several processes."""

    full_state_update = False
    SUMS = ("loss_sum", "correct", "count")

    def __init__(self):
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, mean_loss: Tensor) -> None:
        """Add a batch: logits (B, K), labels (B,), mean loss of the batch."""
        self.loss_sum += (mean_loss * len(labels)).float()
        self.correct += (logits.argmax(1) == labels).sum()
        self.count += len(labels)

    def compute(self) -> dict[str, Tensor]:
        return {"loss": self.loss_sum / self.count, "accuracy": self.correct / self.count}

    def compute_and_reset(self) -> dict[str, float]:
        """Return the averages as plain numbers and reset the sums."""
        values = {name: value.item() for name, value in self.compute().items()}
        self.reset()
        return values

    def sums(self) -> list[Tensor]:
        """Return the sums so far, for a checkpoint in the middle of an epoch."""
        return [getattr(self, name) for name in self.SUMS]

    def add_to_sums(self, sums: list[Tensor]) -> None:
        """Add the `sums` of a process of the interrupted run; raise UserError if their shapes do not fit."""
        for name, value in zip(self.SUMS, sums, strict=True):
            if value.shape != getattr(self, name).shape:
                raise UserError(f"its sum {name} has the shape {tuple(value.shape)}")
            setattr(self, name, getattr(self, name) + value.to(self.device))


def all_gather(value: Tensor) -> Tensor:
    """Gather the values (...) of all processes as (processes, ...)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value[None]
    parts = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, value)
    return torch.stack(parts)
