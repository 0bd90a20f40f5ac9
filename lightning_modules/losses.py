"""Training losses: logits (B, K) and labels (B,) to one loss a picture (B,). Evaluation always uses plain cross entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """-log p of the true class."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")


class WeightedCrossEntropy(nn.Module):
    """Cross entropy times n / (K n_k) for a picture of class k, of which there are n_k among n training pictures.

    The weights average to 1 over the training pictures (King & Zeng 2001, Political Analysis 9:137-163, eq. 8).
    """

    def __init__(self, *, class_counts: list[int]):
        super().__init__()
        counts = torch.tensor(class_counts, dtype=torch.float32)
        self.register_buffer("class_weights", counts.sum() / (len(counts) * counts), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none") * self.class_weights[labels]


class Focal(nn.Module):
    """-(1 - p)^gamma log p of the true class: Lin et al. 2017, arXiv:1708.02002, eq. 4 (without alpha)."""

    def __init__(self, *, gamma: float):
        super().__init__()
        if gamma < 0:
            raise ValueError(f"loss.gamma={gamma}: use 0 or more")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        wrong = (-torch.expm1(-cross_entropy)).clamp_min(1e-7)  # 1 - p; a root has no slope at 0
        return wrong**self.gamma * cross_entropy
