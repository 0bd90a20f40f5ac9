"""Metrics of one pass over a split: exact sums, also over a short last batch and over several processes."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

ECE_BINS = 15  # Guo et al. 2017, arXiv:1706.04599


class Metrics(nn.Module):
    """Loss and accuracy; with `full` also balanced accuracy, macro F1, macro AUROC, ECE and the confusion matrix."""

    def __init__(self, num_classes: int, full: bool = False):
        super().__init__()
        # Not MeanMetric: torchmetrics 1.9 forgets its weights with nan_strategy="disable", and a NaN has to stay visible
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.count = SumMetric(nan_strategy="disable")
        options = {"num_classes": num_classes, "validate_args": False}
        scores = {"accuracy": MulticlassAccuracy(average="micro", **options)}
        if full:
            scores |= {
                "balanced_accuracy": MulticlassAccuracy(average="macro", **options),
                "f1": MulticlassF1Score(average="macro", **options),
                "auroc": MulticlassAUROC(average="macro", **options),
                "ece": MulticlassCalibrationError(n_bins=ECE_BINS, norm="l1", **options),
                "confusion": MulticlassConfusionMatrix(**options),  # rows: true class, columns: predicted
            }
        self.scores = MetricCollection(scores)

    def update(self, logits: Tensor, labels: Tensor, mean_loss: Tensor) -> None:
        """Adds a batch: logits (B, K), labels (B,), mean loss of the batch."""
        self.loss_sum.update(mean_loss * len(labels))
        self.count.update(len(labels))
        self.scores.update(logits.softmax(1), labels)

    def sums(self) -> list[Tensor]:
        """What was added up so far, for a checkpoint in the middle of an epoch."""
        return [getattr(metric, name) for metric in self._metrics() for name in metric._defaults]

    def add_to_sums(self, sums: list[Tensor]) -> None:
        """Takes up `sums` of before."""
        places = [(metric, name) for metric in self._metrics() for name in metric._defaults]
        for (metric, name), value in zip(places, sums, strict=True):
            if value.shape != getattr(metric, name).shape:
                raise ValueError(f"its sum {name} is of shape {tuple(value.shape)}")
            setattr(metric, name, getattr(metric, name) + value.to(metric.device))

    def _metrics(self) -> list[Metric]:
        return [module for module in self.modules() if isinstance(module, Metric)]

    def compute_and_reset(self) -> dict[str, float | list]:
        """Plain numbers, and lists for the confusion matrix."""
        values = {"loss": self.loss_sum.compute() / self.count.compute(), **self.scores.compute()}
        for metric in self.children():
            metric.reset()
        return {name: value.tolist() for name, value in values.items()}


def all_gather(value: Tensor) -> Tensor:
    """The values (...) of all processes -> (processes, ...)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value[None]
    parts = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, value)
    return torch.stack(parts)
