import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torchmetrics.classification import MulticlassCalibrationError

from common.run_record import Selective
from evaluation.calibration import (
    brier,
    confidence_for_accuracy,
    ece,
    fit_temperature,
    logarithm,
    reliability,
    risk_coverage,
    selective_accuracy,
    with_temperature,
)
from evaluation.intervals import proportion


def made_up(n, classes, temperature=1.0, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature): that is what calibrates them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, classes))
    chances = softmax(logits / temperature, axis=1)
    labels = (generator.random((n, 1)) > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
    return labels, logits


@pytest.mark.parametrize("classes", [2, 4])
def test_ece_equals_torchmetrics(classes):
    labels, logits = made_up(400, classes, 3.0)
    probabilities = softmax(logits, axis=1)
    probabilities[:60] = np.eye(classes)[probabilities[:60].argmax(axis=1)]  # certain: a bin of its own there
    theirs = MulticlassCalibrationError(classes, n_bins=15, norm="l1")(
        torch.tensor(probabilities), torch.tensor(labels)
    )
    assert ece(labels, probabilities) == pytest.approx(theirs.item(), abs=1e-6)
    assert ece(labels, probabilities) > 0.1 and ece(labels, probabilities) != ece(labels, probabilities, bins=5)


def test_ece_at_the_ends_of_bins():
    labels, p = np.array([0, 1, 1, 0]), np.array([0.75, 0.625, 1.0, 0.8125])  # right, wrong, wrong, right
    probabilities = np.stack([p, 1 - p], axis=1)
    theirs = MulticlassCalibrationError(2, n_bins=4, norm="l1")(torch.tensor(probabilities), torch.tensor(labels))
    by_hand = (0.625 + (2 - 0.75 - 0.8125) + 1) / 4  # [0.5, 0.75), [0.75, 1), and 1
    assert ece(labels, probabilities, bins=4) == pytest.approx(by_hand) == pytest.approx(theirs.item(), abs=1e-6)


def test_ece_is_the_gap_of_the_bins():
    labels, logits = made_up(400, 3, 3.0)
    bins = reliability(labels, softmax(logits, axis=1))
    gap = sum(b.n * abs(b.accuracy - b.confidence) for b in bins if b.n) / 400
    assert gap == pytest.approx(ece(labels, softmax(logits, axis=1)))


def test_reliability_by_hand():
    labels = np.array([0, 0, 1, 1, 0])
    p = np.array([0.9, 1.0, 0.3, 0.6, 0.55])
    bins = reliability(labels, np.stack([p, 1 - p], axis=1), bins=4)
    assert [(b.low, b.high, b.n) for b in bins] == [(0, 0.25, 0), (0.25, 0.5, 0), (0.5, 0.75, 3), (0.75, 1, 2)]
    assert bins[0].confidence is None and bins[0].accuracy is None
    assert bins[2].confidence == pytest.approx((0.7 + 0.6 + 0.55) / 3) and bins[2].accuracy == pytest.approx(2 / 3)
    assert bins[3].confidence == pytest.approx(0.95) and bins[3].accuracy == 1


def test_brier_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    assert brier(np.array([0, 1]), p) == pytest.approx((0.09 + 0.04 + 0.01 + 0.01 + 0.49 + 0.36) / 2)
    assert brier(np.array([0]), np.array([[0.0, 1.0]])) == 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    labels, logits = made_up(20_000, 3, temperature)
    assert fit_temperature(labels, logits) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_the_best_of_a_grid():
    labels, logits = made_up(80, 3, 2.0, seed=1)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    losses = [-log_softmax(logits / t, axis=1)[np.arange(80), labels].mean() for t in grid]
    assert fit_temperature(labels, log_softmax(logits, axis=1)) == pytest.approx(grid[np.argmin(losses)], rel=0.002)
    right = np.array([[0.3, 0.0], [0.0, 0.2]])
    assert fit_temperature(np.array([0, 1]), right) == pytest.approx(0.05, rel=0.001)  # the bounds hold
    assert fit_temperature(np.array([1, 0]), right) == pytest.approx(20, rel=0.001)


def test_with_temperature():
    _, logits = made_up(50, 4)
    probabilities = softmax(logits, axis=1)
    assert with_temperature(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-12)
    assert with_temperature(probabilities, 2.5) == pytest.approx(softmax(logits / 2.5, axis=1), abs=1e-12)
    certain = with_temperature(np.array([[1.0, 0.0], [0.25, 0.75]], dtype=np.float32), 2.0)
    assert certain.dtype == np.float64 and np.isfinite(certain).all() and certain.sum(axis=1) == pytest.approx(1)
    assert certain[0, 0] == pytest.approx(1 / (1 + np.sqrt(5e-7)))  # a rounded zero is softened as well
    assert np.isfinite(with_temperature(np.array([[1.0, 0.0]]), 0.05)).all()


def test_probabilities_rounded_to_zero_do_not_hinder_the_fit():
    probabilities = np.array([[1.0, 0.0]] * 20)
    labels = np.array([0] * 18 + [1] * 2)
    temperature = fit_temperature(labels, logarithm(probabilities))
    assert with_temperature(probabilities, temperature)[0, 0] == pytest.approx(0.9, abs=1e-4)


def test_risk_coverage_by_hand():
    labels = np.array([0, 0, 1, 1, 0])
    p = np.array([0.9, 0.2, 0.4, 0.2, 0.6])  # confidence 0.9 right, 0.8 wrong, 0.6 right, 0.8 right, 0.6 right
    probabilities = np.stack([p, 1 - p], axis=1)
    coverage, accuracy = risk_coverage(labels, probabilities)
    assert coverage == pytest.approx([0.2, 0.6, 0.6, 1, 1]) and accuracy == pytest.approx([1, 2 / 3, 2 / 3, 0.8, 0.8])
    at = {0.6: Selective(0.6, 1.0, 5, proportion(4, 5)), 0.8: Selective(0.8, 0.6, 3, proportion(2, 3)),
          0.9: Selective(0.9, 0.2, 1, proportion(1, 1)), 0.95: Selective(0.95, 0.0, 0, None)}  # fmt: skip
    assert {limit: selective_accuracy(labels, probabilities, limit) for limit in at} == at
    assert [coverage_at_accuracy(labels, probabilities, target) for target in (0.8, 0.9)] == [at[0.6], at[0.9]]


def test_there_is_no_coverage_where_the_most_confident_is_wrong():
    assert coverage_at_accuracy(np.array([1, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), 0.5) is None


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ece(np.array([0]), np.ones((1, 2)) / 2, bins=0), "bins=0"),
    (lambda: with_temperature(np.ones((1, 2)) / 2, 0.0), r"temperature=0\.0"),
    (lambda: fit_temperature(np.array([0]), np.array([[-np.inf, 0.0]])), "finite"),
    (lambda: brier(np.array([0, 1]), np.ones((1, 2)) / 2), "labels"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
