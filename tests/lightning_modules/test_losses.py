import numpy as np
import pytest
import torch

from lightning_modules.losses import CrossEntropy, FocalLoss, WeightedCrossEntropy

LOGITS = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 1.0, 4.0]])
LABELS = np.array([0, 2, 1])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
TRUE = P[np.arange(3), LABELS]


def values(loss):
    return loss(torch.tensor(LOGITS), torch.tensor(LABELS)).numpy()


def test_losses_by_hand():
    assert values(CrossEntropy()) == pytest.approx(-np.log(TRUE))
    weights = np.array([100 / (3 * 50), 100 / (3 * 10), 100 / (3 * 40)])  # of classes 0, 2 and 1
    weighted = WeightedCrossEntropy(class_counts=[50, 40, 10])
    assert values(weighted) == pytest.approx(-np.log(TRUE) * weights, rel=1e-6)
    assert values(FocalLoss(gamma=2.0)) == pytest.approx(-((1 - TRUE) ** 2) * np.log(TRUE))
    assert values(FocalLoss(gamma=0.0)) == pytest.approx(-np.log(TRUE))


@pytest.mark.parametrize("loss", [
    CrossEntropy(), CrossEntropy(label_smoothing=0.1), WeightedCrossEntropy(class_counts=[50, 40, 10]), FocalLoss(gamma=2.0),
    FocalLoss(gamma=0.5),
], ids=lambda loss: type(loss).__name__)  # fmt: skip
def test_shares_of_classes_give_the_mix_of_their_losses(loss):
    logits, others = torch.tensor(LOGITS), torch.tensor([1, 2, 0])
    hard = torch.nn.functional.one_hot(torch.tensor(LABELS), 3).double()
    shares = 0.7 * hard + 0.3 * torch.nn.functional.one_hot(others, 3)
    expected = 0.7 * loss(logits, torch.tensor(LABELS)) + 0.3 * loss(logits, others)
    assert loss(logits, shares).numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    assert loss(logits, hard).numpy() == pytest.approx(values(loss), rel=1e-5)


def test_cross_entropy_of_shares_is_torch_s():
    shares = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0, 0], [0, 0.9, 0.1]], dtype=torch.float64)
    expected = -(shares.numpy() * np.log(P)).sum(axis=1)
    assert CrossEntropy()(torch.tensor(LOGITS), shares).numpy() == pytest.approx(expected)
    theirs = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)(torch.tensor(LOGITS), shares)
    assert torch.equal(CrossEntropy(label_smoothing=0.1)(torch.tensor(LOGITS), shares), theirs)


def test_class_weights_average_to_one_over_the_training_images():
    counts = [50, 40, 10]
    weights = WeightedCrossEntropy(class_counts=counts).class_weights.numpy()
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1)


def test_focal_loss_has_gradients_where_the_network_is_certain():
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    FocalLoss(gamma=0.5)(logits, torch.tensor([0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf")])
def test_a_gamma_that_is_negative_infinite_or_nan_is_refused(gamma):
    with pytest.raises(ValueError, match=rf"loss\.gamma={gamma}: use a number from 0"):
        FocalLoss(gamma=gamma)


def test_label_smoothing_spreads_a_share_of_the_truth():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    log_p = (logits.exp() / logits.exp().sum()).log()[0]
    expected = -(0.9 + 0.1 / 3) * log_p[0] - 0.1 / 3 * (log_p[1] + log_p[2])
    assert CrossEntropy(label_smoothing=0.1)(logits, labels).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"loss\.label_smoothing=1"):
        CrossEntropy(label_smoothing=1)
