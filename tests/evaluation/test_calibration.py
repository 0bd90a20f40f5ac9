import functools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, softmax
from scipy.stats import beta, binom
from torchmetrics.classification import MulticlassCalibrationError

from common.run_record import EceByChance, Selective
from evaluation import calibration
from evaluation.calibration import (
    brier,
    confidence_for_accuracy,
    ece,
    ece_by_chance,
    fit_temperature,
    images_needed,
    logarithm,
    reliability,
    risk_coverage,
    selective_accuracy,
    with_temperature,
)
from evaluation.intervals import design_effect, proportion


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
    targets = np.zeros((80, 3))  # Platt's: 81/82 for the true class, 1/82 for the others by their probabilities
    for row, (label, p) in enumerate(zip(labels, softmax(logits, axis=1), strict=True)):
        others = [k for k in range(3) if k != label]
        targets[row, label] = 81 / 82
        targets[row, others] = p[others] / p[others].sum() / 82
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    losses = [-(targets * log_softmax(logits / t, axis=1)).sum(axis=1).mean() for t in grid]
    assert fit_temperature(labels, log_softmax(logits, axis=1)) == pytest.approx(grid[np.argmin(losses)], rel=0.002)


def test_the_temperature_of_two_classes_by_hand():
    """Margins of 1, of 10 images 9 right: sigmoid(1/T) is (9 * 11/12 + 1/12) / 10, whatever the scale of the logits."""
    labels, logits = np.array([0] * 9 + [1]), np.tile([0.5, -0.5], (10, 1))
    wanted = (9 * 11 / 12 + 1 / 12) / 10
    for scale in (1.0, 3.0):
        expected = scale / np.log(wanted / (1 - wanted))
        assert fit_temperature(labels, scale * logits) == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(1 - labels[:1].repeat(5), logits[:5]) == pytest.approx(20, rel=0.001)  # all wrong: the bound


def test_images_that_are_all_right_leave_probabilities_as_they_are():
    probabilities = np.linspace(0.55, 0.95, 40)[:, None] * [1, -1] + [0, 1]
    assert fit_temperature(np.zeros(40, int), logarithm(probabilities)) == 1
    wrong = np.zeros(40, int)
    wrong[0] = 1  # the least confident one: calibrated probabilities stay away from 1
    temperature = fit_temperature(wrong, logarithm(probabilities))
    assert with_temperature(np.array([[0.75, 0.25]]), temperature)[0, 0] < 0.99


@functools.cache
def scale(accuracy):
    """Return the standard deviation of the logit margins of a calibrated network for two classes with this accuracy."""
    z = np.abs(np.random.default_rng(0).normal(size=200_000))
    return brentq(lambda scale: expit(scale * z).mean() - accuracy, 0.01, 100)


def margins(accuracy, size, generator):
    """Draw the size of logit margins, and which images are right."""
    margin = np.abs(scale(accuracy) * generator.normal(size=size))
    return margin, generator.random(size) < expit(margin)


@pytest.mark.parametrize(("accuracy", "n", "most"), [(0.932, 20, 0.211), (0.966, 20, 0.174), (0.966, 100, 0.103)])
def test_a_temperature_of_few_images_costs_little_on_new_ones(accuracy, n, most):
    """Mean test loss over networks; without smoothing it is 0.425, 0.343 and 0.108."""
    generator, losses = np.random.default_rng(1), []
    new, _ = margins(accuracy, 4000, generator)
    for _ in range(200):
        margin, right = margins(accuracy, n, generator)
        temperature = fit_temperature((~right).astype(int), np.stack([margin, np.zeros(n)], axis=1))
        p = expit(new)
        scaled = new / temperature
        losses.append((p * np.logaddexp(0, -scaled) + (1 - p) * np.logaddexp(0, scaled)).mean())
    assert np.mean(losses) < most + 2 * np.std(losses) / np.sqrt(len(losses))


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
    smoothed = (18 * 21 / 22 + 2 * 1 / 22) / 20
    assert with_temperature(probabilities, temperature)[0, 0] == pytest.approx(smoothed, abs=1e-4)


def test_risk_coverage_by_hand():
    labels = np.array([0, 0, 1, 1, 0])
    p = np.array([0.9, 0.2, 0.4, 0.2, 0.6])  # confidence 0.9 right, 0.8 wrong, 0.6 right, 0.8 right, 0.6 right
    probabilities = np.stack([p, 1 - p], axis=1)
    coverage, accuracy = risk_coverage(labels, probabilities)
    assert coverage == pytest.approx([0.2, 0.6, 0.6, 1, 1]) and accuracy == pytest.approx([1, 2 / 3, 2 / 3, 0.8, 0.8])
    at = {0.6: Selective(0.6, 1.0, 5, proportion(4, 5)), 0.8: Selective(0.8, 0.6, 3, proportion(2, 3)),
          0.9: Selective(0.9, 0.2, 1, proportion(1, 1)), 0.95: Selective(0.95, 0.0, 0, None)}  # fmt: skip
    assert {limit: selective_accuracy(labels, probabilities, limit) for limit in at} == at
    groups = np.array([0, 1, 1, 1, 2])
    grouped = selective_accuracy(labels, probabilities, 0.6, groups).accuracy
    assert grouped.value == 0.8 and grouped.low < at[0.6].accuracy.low


def two(confidence, right):
    """Labels 0 where right, and probabilities with these confidences in class 0."""
    return (~np.asarray(right)).astype(int), np.stack([confidence, 1 - np.asarray(confidence)], axis=1)


def promised_by_hand(confidence, right, target, delta):
    """The rule image by image, with scipy's binomial distribution."""
    found = None
    for m in range(1, len(confidence) + 1):
        kept = np.argsort(-confidence)[:m]
        if (
            target**m > delta
            or (confidence == confidence[kept[-1]]).sum() > (confidence[kept] == confidence[kept[-1]]).sum()
        ):
            continue  # cannot be rejected at all, or not all of equal confidence are in
        if binom.cdf((~right[kept]).sum(), m, 1 - target) > delta:
            return found
        found = confidence[kept[-1]]
    return found


@pytest.mark.parametrize("digits", [12, 2])
def test_the_promised_confidence_equals_the_rule_image_by_image(digits):
    generator, found = np.random.default_rng(0), []
    for target in (0.7, 0.8, 0.9, 0.95):
        for _ in range(15):
            margin, right = margins(0.87, 120, generator)
            confidence = expit(margin).round(digits)
            found.append(confidence_for_accuracy(*two(confidence, right), target, 0.1))
            assert found[-1] == promised_by_hand(confidence, right, target, 0.1)
    assert 10 < sum(confidence is not None for confidence in found) < 60


def test_how_many_images_promise_an_accuracy():
    assert images_needed(0.95, 0.1) == 45 and 0.95**45 <= 0.1 < 0.95**44  # 0.0994, 0.1047
    assert images_needed(0.99, 0.1) == 230 and images_needed(0.95, 0.1, effect=2.0) == 90
    assert images_needed(1.0, 0.1) == np.inf
    for n, promised in ((44, None), (45, pytest.approx(0.6))):
        confidence = np.linspace(0.6, 0.9, n)
        assert confidence_for_accuracy(*two(confidence, np.ones(n, bool)), 0.95, 0.1) == promised
    assert confidence_for_accuracy(*two(np.full(45, 0.9), np.arange(45) > 0), 0.95, 0.1) is None  # an error among them
    assert confidence_for_accuracy(*two(np.full(45, 0.9), np.ones(45, bool)), 1.0, 0.1) is None
    assert confidence_for_accuracy(*two(np.full(2, 0.75), np.ones(2, bool)), 0.5, 0.25) == 0.75  # 0.5 ** 2 is enough
    assert confidence_for_accuracy(*two(np.full(60, 0.9), np.zeros(60, bool)), 0.95, 0.1) is None


@pytest.mark.parametrize(("accuracy", "n", "target", "least"), [
    (0.674, 444, 0.95, 0.0), (0.777, 444, 0.95, 0.03), (0.871, 444, 0.95, 0.45), (0.871, 2000, 0.95, 0.6),
    (0.871, 2000, 0.99, 0.1), (0.95, 49, 0.95, 0.2),
])  # fmt: skip
def test_a_promised_accuracy_is_kept(accuracy, n, target, least):
    """Of 300 calibrated networks at most 10% (and three standard errors) break the promise on new images.

    The largest share whose observed accuracy reaches the target breaks it in half of them and more.
    """
    generator = np.random.default_rng(2)
    new = np.sort(expit(margins(accuracy, 200_000, generator)[0]))
    above = np.cumsum(new[::-1])[::-1] / np.arange(len(new), 0, -1)  # the true accuracy of those from each one on
    broken, shares = 0, []
    for _ in range(300):
        margin, right = margins(accuracy, n, generator)
        confidence = confidence_for_accuracy(*two(expit(margin), right), target, 0.1)
        first = len(new) if confidence is None else min(np.searchsorted(new, confidence), len(new) - 1)
        shares.append(1 - first / len(new))
        broken += first < len(new) and above[first] < target
    assert broken / 300 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)
    assert np.mean(shares) >= least


@pytest.mark.thorough
def test_a_promise_from_repeated_images_is_kept():
    """Images of a patient that are alike, right or wrong together: 60 patients with 8 images each."""
    generator, promised = np.random.default_rng(3), {"each": 0, "grouped": 0}
    groups = np.repeat(np.arange(60), 8)
    for _ in range(200):
        right = generator.random(60)[groups] < 0.89  # at every confidence: each promise of 0.9 is broken
        images = two(generator.uniform(0.5, 0.99, 60)[groups] + generator.uniform(0, 0.01, 480), right)
        for name, of in (("each", None), ("grouped", groups)):
            promised[name] += confidence_for_accuracy(*images, 0.9, 0.1, of) is not None
    assert promised["grouped"] / 200 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200) < promised["each"] / 200


def test_a_promise_from_confident_images_of_few_groups_is_kept():
    """Five groups of 20 confident images, each right or wrong as a whole, and 400 unsure images by themselves."""
    generator, promised = np.random.default_rng(4), 0
    groups = np.concatenate([np.repeat(np.arange(5), 20), np.arange(5, 405)])
    for _ in range(100):
        right = np.concatenate([(generator.random(5) < 0.89).repeat(20), generator.random(400) < 0.7])
        confidence = np.concatenate([generator.uniform(0.95, 1, 100), generator.uniform(0.5, 0.8, 400)])
        promised += confidence_for_accuracy(*two(confidence, right), 0.9, 0.1, groups) is not None
    assert promised / 100 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 100)


@pytest.mark.parametrize("target", [0.6, 0.7])
def test_the_promised_confidence_in_groups_equals_the_rule_image_by_image(target):
    """Of the m most confident images, m rising, each counts as 1 / design effect of these m; so does the least number."""
    generator, found = np.random.default_rng(6), []
    groups = np.repeat(np.arange(20), [1, 2, 1, 4] * 5)  # 40 images, all of whose numbers are tested
    for _ in range(20):
        easy = generator.normal(size=20)[groups]
        margin = np.abs(1.5 + easy + generator.normal(size=40))
        right, confidence = generator.random(40) < expit(margin), expit(margin)
        order, expected = np.argsort(-confidence), None
        for m in range(1, 41):
            sure, of = order[:m], groups[order[:m]]
            if target ** (m / design_effect(np.ones(m, bool), of)) > 0.1:
                continue  # so few promise nothing, even without an error
            effect, errors = design_effect(right[sure], of), int((~right[sure]).sum())
            if errors == m or beta.cdf(target, (m - errors) / effect, errors / effect + 1) > 0.1:
                break  # P(Binomial <= errors) by its beta distribution, which takes fractions
            expected = confidence[order[m - 1]]
        found.append(expected)
        assert confidence_for_accuracy(*two(confidence, right), target, 0.1, groups) == expected
    assert sum(each is not None for each in found) > 5


def test_a_promise_from_groups_of_one_image_is_that_of_single_images():
    generator = np.random.default_rng(5)
    confidence = np.sort(generator.uniform(0.5, 1, 150))
    images = two(confidence, generator.random(150) < confidence + 0.1)
    assert confidence_for_accuracy(*images, 0.9, 0.1, np.arange(150)) == confidence_for_accuracy(*images, 0.9, 0.1)


@pytest.mark.parametrize(("n", "mean", "p95"), [(445, 0.04, 0.065), (109, 0.08, None), (40, 0.14, None)])
def test_a_perfectly_calibrated_network_has_an_ece(n, mean, p95):
    """What one of accuracy 0.75 shows; the bound is a tenth of it and the rounding of these figures."""
    generator, means, percentiles, seen = np.random.default_rng(4), [], [], []
    for _ in range(100):
        margin, right = margins(0.75, n, generator)
        labels, probabilities = two(expit(margin), right)
        chance = ece_by_chance(probabilities, draws=200)
        means.append(chance.mean)
        percentiles.append(chance.p95)
        seen.append(ece(labels, probabilities) > chance.p95)
    assert np.mean(means) == pytest.approx(mean, abs=0.1 * mean + 0.005)
    assert p95 is None or np.mean(percentiles) == pytest.approx(p95, abs=0.1 * p95)
    assert abs(np.mean(seen) - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / 100)


def test_the_ece_by_chance_is_that_of_drawn_labels():
    _, logits = made_up(60, 3)
    probabilities = softmax(logits, axis=1)
    predicted, confidence, generator = probabilities.argmax(axis=1), probabilities.max(axis=1), np.random.default_rng(5)
    drawn = [
        ece(np.where(generator.random(60) < confidence, predicted, (predicted + 1) % 3), probabilities)
        for _ in range(2000)
    ]
    found = ece_by_chance(probabilities)
    assert found.mean == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(1000))
    assert found.p95 == pytest.approx(np.quantile(drawn, 0.95), rel=0.05)
    assert found == ece_by_chance(probabilities) != ece_by_chance(probabilities, seed=1)
    assert ece_by_chance(probabilities, effect=4.0).mean == pytest.approx(2 * found.mean)
    assert ece_by_chance(np.array([[1.0, 0.0]] * 9)) == EceByChance(0.0, 0.0)


def test_the_draws_of_the_ece_by_chance_do_not_depend_on_how_many_fit_into_memory(monkeypatch):
    """There are fewer of many images, but at least 200."""
    probabilities = softmax(made_up(60, 3)[1], axis=1)
    at_once, least = ece_by_chance(probabilities), ece_by_chance(probabilities, draws=200)
    monkeypatch.setattr(calibration, "CELLS", 60 * 300)  # the last of four parts is smaller
    assert ece_by_chance(probabilities) == at_once
    for most, draws in ((60 * 400, 400), (60 * 100, 200), (59, 200)):
        monkeypatch.setattr(calibration, "DRAWS", most)
        assert ece_by_chance(probabilities) == ece_by_chance(probabilities, draws=draws)
    assert ece_by_chance(probabilities) == least != at_once


def test_only_a_probability_of_zero_is_replaced_before_its_logarithm():
    assert logarithm(np.array([0.0, 1e-12, 1.0])) == pytest.approx([math.log(5e-7), -12 * math.log(10), 0])


NAN = np.array([0, 1, 0]), np.array([[0.9, 0.1], [np.nan, np.nan], [0.6, 0.4]])


@pytest.mark.parametrize("function", [
    brier, ece, reliability, risk_coverage, fit_temperature, lambda _, p: ece_by_chance(p), lambda _, p: logarithm(p),
    lambda *images: confidence_for_accuracy(*images, 0.9, 0.1), lambda *images: selective_accuracy(*images, 0.5),
])  # fmt: skip
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="NaN"):
        function(*NAN)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: with_temperature(np.ones((1, 2)) / 2, 0.0), r"temperature=0\.0"),
    (lambda: fit_temperature(np.array([0]), np.array([[-np.inf, 0.0]])), "finite"),
    (lambda: brier(np.array([0, 1]), np.ones((1, 2)) / 2), "labels"),
    (lambda: with_temperature(np.array([[0.5, 0.5]]), math.inf), "temperature=inf"),
    (lambda: with_temperature(np.array([[np.nan, 0.5]]), 1.0), "NaN"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_calibration_error_by_chance_is_above_one():
    """Two groups of ten images each, one all right and the other all wrong, tell next to nothing."""
    right, groups = np.arange(20) < 10, np.arange(20) // 10
    found = ece_by_chance(np.tile([0.3, 0.7], (20, 1)), effect=design_effect(right, groups))
    assert 0 < found.mean <= found.p95 <= 1
