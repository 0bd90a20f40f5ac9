"""Training losses: logits (B, K) and labels (B,) to one loss per image (B,). Evaluation always uses plain cross entropy.

Instead of labels, each accepts the shares of mixed labels, (B, K) with rows that sum to 1. The loss is then the sum over the
classes of share times loss, as in mixup (Zhang et al. 2018, arXiv:1710.09412, section 2).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


class CrossEntropy(nn.Module):
    """Compute -log p of the true class.

    The share `label_smoothing` of the true label is spread evenly over all classes: Szegedy et al. 2016,
    arXiv:1512.00567, section 7.
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing}: use a share from 0 to below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)


class WeightedCrossEntropy(nn.Module):
    """Compute cross entropy times n / (K n_k) for an image of class k, which has n_k of the n training images.

    The weights average to 1 over the training images (King & Zeng 2001, Political Analysis 9:137-163, eq. 8).
    """

    def __init__(self, *, class_counts: list[int]):
        super().__init__()
        counts = torch.tensor(class_counts, dtype=torch.float32)
        self.register_buffer("class_weights", counts.sum() / (len(counts) * counts), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:
            return F.cross_entropy(logits, labels, weight=self.class_weights, reduction="none")
        return F.cross_entropy(logits, labels, reduction="none") * self.class_weights[labels]


class FocalLoss(nn.Module):
    """Compute -(1 - p)^gamma log p of the true class: Lin et al. 2017, arXiv:1708.02002, eq. 4 (without alpha)."""

    def __init__(self, *, gamma: float):
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise UserError(f"loss.gamma={gamma}: use a number from 0")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        mixed = labels.ndim == 2
        # (B,) for the true class, or (B, K) for all classes
        cross_entropy = -F.log_softmax(logits, 1) if mixed else F.cross_entropy(logits, labels, reduction="none")
        wrong = (-torch.expm1(-cross_entropy)).clamp_min(1e-7)  # 1 - p; roots (gamma < 1) have no finite slope at 0
        losses = wrong**self.gamma * cross_entropy
        return (labels * losses).sum(1) if mixed else losses


class DistillationLoss(nn.Module):
    """Mix the loss against the labels with the divergence from a teacher's outputs for the same images.

    (1 - w) loss + w T^2 KL(teacher || network), both softened by the temperature T: Hinton, Vinyals & Dean 2015,
    arXiv:1503.02531, section 2.
    """

    def __init__(self, *, temperature: float, weight: float):
        super().__init__()
        if not 0 < temperature < math.inf:
            raise UserError(f"callbacks.distillation.temperature={temperature}: use a number above 0")
        if not 0 <= weight <= 1:
            raise UserError(f"callbacks.distillation.weight={weight}: use a share from 0 to 1")
        self.temperature = temperature
        self.weight = weight

    def forward(self, losses: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Mix losses (B,) with the divergence of logits (B, K) from the teacher's; return (B,)."""
        teacher = F.log_softmax(teacher_logits / self.temperature, 1)
        own = F.log_softmax(logits / self.temperature, 1)
        divergence = F.kl_div(own, teacher, reduction="none", log_target=True).sum(1)
        return torch.lerp(losses, self.temperature**2 * divergence, self.weight)
