"""Score intervals against statsmodels, a published table, a constrained optimum found by scipy, and arithmetic."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from statsmodels.stats.proportion import proportion_confint

from evaluation.estimates import estimate_metrics
from evaluation.intervals import Interval, wilson
from evaluation.score_intervals import (
    auroc_model,
    confusion_interval,
    f1_derivatives,
    pooled_interval,
    recall_derivatives,
    scaled_interval,
    unite,
)
from evaluation.scores import balanced_accuracy, macro_f1

Z = 1.959963984540054


@pytest.mark.parametrize(("right", "n"), [(18, 20), (20, 20), (0, 5), (1, 1), (371, 445)])
def test_of_one_class_it_is_wilsons(right, n):
    confusion = np.array([[right, n - right], [0, 0]])
    found = confusion_interval(confusion, recall_derivatives)
    assert found == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-7)


@pytest.mark.parametrize(("a", "b", "published"), [
    ((56, 70), (48, 80), (0.0533, 0.3377)),
    ((9, 10), (3, 10), (0.1821, 0.8370)),
    ((5, 56), (0, 29), (-0.0313, 0.1926)),
    ((10, 10), (0, 20), (0.7225, 1.0)),
    ((10, 10), (0, 10), (0.6777, 1.0)),
])  # fmt: skip
def test_of_two_classes_it_is_mees_interval_of_a_difference(a, b, published):
    """Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 5: of a's share less that of b."""
    confusion = np.array([[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]])  # where b's share is that of its wrong images
    low, high = confusion_interval(confusion, recall_derivatives)
    assert (2 * low - 1, 2 * high - 1) == pytest.approx(published, abs=5e-5)


def test_of_three_classes_its_ends_are_what_the_estimate_just_does_not_contradict():
    right, n = np.array([7, 18, 36]), np.array([10, 20, 40])
    confusion = np.diag(right) + np.array([[0, 3, 0], [1, 0, 1], [2, 2, 0]])
    estimate = (right / n).mean()
    for end in confusion_interval(confusion, recall_derivatives):
        likely = minimize(  # the most likely recalls whose mean is the end
            lambda p: -(right * np.log(p) + (n - right) * np.log(1 - p)).sum(), right / n,
            bounds=[(1e-6, 1 - 1e-6)] * 3, constraints={"type": "eq", "fun": lambda p, end=end: p.mean() - end},
            method="SLSQP", options={"ftol": 1e-12},
        ).x  # fmt: skip
        deviation = np.sqrt((likely * (1 - likely) / n).sum()) / 3
        assert abs(estimate - end) / deviation == pytest.approx(Z, abs=1e-3)


def test_of_macro_f1_its_ends_are_what_the_estimate_just_does_not_contradict():
    """The wrong images of a class lie where they were found, and half an image more is spread evenly over the others."""
    counts = np.array([[9.0, 3, 0], [1, 16, 3], [0, 2, 38]])
    n, right = counts.sum(axis=1), counts.diagonal()
    wrong = counts + np.where(np.eye(3), -counts, 0.25)
    wrong /= wrong.sum(axis=1, keepdims=True)

    def supposed(p):
        return n[:, None] * (np.diag(p) + (1 - p)[:, None] * wrong)

    def deviation(p):  # of a product of multinomials, by differences of the metric
        moved = supposed(p) + 1e-6 * np.eye(9).reshape(9, 3, 3)
        slopes = (macro_f1(moved) - macro_f1(supposed(p))).reshape(3, 3) / 1e-6
        shares = supposed(p) / n[:, None]
        return np.sqrt((n * ((shares * slopes**2).sum(axis=1) - (shares * slopes).sum(axis=1) ** 2)).sum())

    for end in confusion_interval(counts, f1_derivatives):
        likely = minimize(  # the most likely recalls of which macro F1 is the end
            lambda p: -(right * np.log(p) + (n - right) * np.log(1 - p)).sum(), right / n, bounds=[(1e-6, 1 - 1e-6)] * 3,
            constraints={"type": "eq", "fun": lambda p, end=end: macro_f1(supposed(p)) - end}, method="SLSQP",
            options={"ftol": 1e-12},
        ).x  # fmt: skip
        assert abs(macro_f1(counts) - end) / deviation(likely) == pytest.approx(Z, abs=2e-3)


def test_classes_of_equal_size_that_are_all_right_are_one_sample():
    for counts in ([10, 10], [5] * 20):
        found = confusion_interval(np.diag(counts), recall_derivatives)
        assert found == pytest.approx(wilson(sum(counts), sum(counts)), abs=1e-6)
    small = confusion_interval(
        np.diag([19, 1]), recall_derivatives
    )  # the single image may be wrong in four of five cases
    assert small == pytest.approx(((1 + wilson(1, 1).low) / 2, 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("derivatives", "metric"), [(recall_derivatives, balanced_accuracy), (f1_derivatives, macro_f1)]
)
def test_derivatives_equal_differences(derivatives, metric):
    confusion = np.array([[20.0, 3, 1], [2, 9, 0], [1, 4, 30]])
    n = confusion.sum(axis=1)
    value, hit, column = derivatives(confusion.diagonal(), n, confusion.sum(axis=0))
    assert value == pytest.approx(float(metric(confusion)))
    for i in range(3):
        for j in range(3):  # an image of class i moves from column j to the next; its row keeps its sum
            moved, after = confusion.copy(), (j + 1) % 3
            moved[i, j] -= 1e-6
            moved[i, after] += 1e-6
            slope = -column[after] + column[j] + hit[i] * ((i == after) - (i == j))
            assert (metric(moved) - value) / 1e-6 == pytest.approx(slope, abs=1e-6)


def test_macro_f1_of_equal_classes_near_one_is_as_accurate_as_accuracy():
    """With two classes of equal size every error costs macro F1 what it costs accuracy, to first order."""
    found = confusion_interval(np.array([[99, 1], [1, 99]]), f1_derivatives)
    assert found == pytest.approx(wilson(198, 200), abs=0.001)


def test_macro_f1_of_a_small_class_holds_what_few_false_alarms_hide():
    """Of 190 and 10 images 3% are wrong, which is 5.7 false alarms of the small class; 2 of them are not rare."""
    truth = float(macro_f1(np.array([[190 - 5.7, 5.7], [0.3, 9.7]])))
    low, high = confusion_interval(np.array([[188, 2], [0, 10]]), f1_derivatives)
    assert low < truth < high
    plain = confusion_interval(np.array([[188, 2], [0, 10]]), recall_derivatives)
    assert high - low < plain.high - plain.low  # which the ten images decide


def test_the_model_of_auroc_is_hanley_and_mcneils():
    area, m, n = 0.893, 51, 51
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    assert auroc_model(area, np.array([m, n])) * area * (1 - area) == pytest.approx(variance)


def test_of_two_classes_all_in_order_auroc_is_about_newcombes():
    m, n = 45, 5
    others = (m + n) / 2 - 1

    def excess(t):  # method 5: the variance at the supposed value t, with (m + n) / 2 for both numbers
        return (1 - t) ** 2 - Z**2 * t * (1 - t) / (m * n) * (1 + others * ((1 - t) / (2 - t) + t / (1 + t)))

    low = brentq(excess, 0.01, 1 - 1e-9)
    found = scaled_interval(1.0, 0.0, auroc_model(1.0, np.array([m, n])), informative=0)
    assert found.high == 1 and found.low == pytest.approx(low, abs=0.04)


def test_the_variance_is_the_models_where_nothing_shows_it_and_the_observed_one_of_many():
    assert scaled_interval(1.0, 0.0, 1 / 20, informative=0) == wilson(20, 20)
    assert scaled_interval(0.8, 0.8 * 0.2 / 50, 1 / 20, informative=1e9) == pytest.approx(wilson(40, 50), abs=1e-6)
    between = scaled_interval(0.8, 0.8 * 0.2 / 50, 1 / 20, informative=10)
    assert wilson(16, 20).low < between.low < wilson(40, 50).low


def test_united_intervals_hold_the_value_and_stay_within_0_and_1():
    assert unite(0.9, Interval(0.5, 0.8), Interval(0.6, 1.1)) == (0.5, 1.0)
    assert unite(0.9, Interval(0.95, 0.96)) == (0.9, 0.96)


def test_the_pooled_interval_is_wilsons_of_all_images_of_equal_classes():
    assert pooled_interval(0.7, np.array([3.0] * 20)) == pytest.approx(wilson(42, 60))
    # of classes of 1 and of 9 images, which weigh the same, the error is that of 2^2 / (1 + 1 / 9) images; 0 does not count
    assert pooled_interval(0.5, np.array([1.0, 9.0, 0.0])) == pytest.approx(wilson(1.8, 3.6))


@pytest.mark.thorough
@pytest.mark.parametrize("counts", [
    (1,) * 40, *(pytest.param(each, marks=pytest.mark.thorough) for each in ((1,) * 20 + (12,) * 20, (2,) * 30)),
])  # fmt: skip
def test_a_balanced_accuracy_of_many_classes_of_few_images_covers(counts):
    """Recalls from 0.5 to 0.9; without the pooled interval 0.78 to 0.84."""
    generator, recalls, covered = np.random.default_rng(0), np.linspace(0.5, 0.9, len(counts)), []
    labels = np.repeat(np.arange(len(counts)), counts)
    for _ in range(150):
        right = generator.random(len(labels)) < recalls[labels]
        predicted = np.where(right, labels, (labels + 1) % len(counts))
        found = estimate_metrics(labels, np.eye(len(counts))[predicted] * 0.5 + 0.01, resamples=200)
        low, high = found["balanced_accuracy"].interval
        covered.append(low <= recalls.mean() <= high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 150)


def classes_of_few_images(recall: float, counts: tuple[int, ...], generator: np.random.Generator):
    """Return labels and probabilities of one network; a wrong prediction is any other class, each as likely."""
    labels, k = np.repeat(np.arange(len(counts)), counts), len(counts)
    wrong = generator.random(len(labels)) >= recall
    predicted = np.where(wrong, (labels + generator.integers(1, k, len(labels))) % k, labels)
    return labels, np.eye(k)[predicted] * 0.5 + 0.01


@pytest.mark.thorough
@pytest.mark.parametrize("counts", [
    (1,) * 40, *(pytest.param(each, marks=pytest.mark.thorough) for each in ((1,) * 100, (2,) * 40)),
])  # fmt: skip
def test_a_macro_f1_of_many_classes_of_few_images_covers(counts):
    """Each class has a recall and a precision of 0.7, and so an F1 of 0.7; without one F1 of all the first two fail."""
    generator, covered = np.random.default_rng(0), []
    for _ in range(150):
        low, high = estimate_metrics(*classes_of_few_images(0.7, counts, generator), resamples=200)["f1"].interval
        covered.append(low <= 0.7 <= high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 150)


def test_an_interval_of_macro_f1_stays_by_its_estimate_where_few_images_are_mistaken_for_a_frequent_class():
    """5 classes of 3 images beside one of 1,000, 2% of which are predicted as each of them: F1 of 6 / (3 + 23) there."""
    labels = np.repeat(np.arange(6), (1000, 3, 3, 3, 3, 3))
    predicted = labels.copy()
    predicted[:100] = 1 + np.arange(100) % 5
    found = estimate_metrics(labels, np.eye(6)[predicted] * 0.5 + 0.01, resamples=200)["f1"]
    assert found.value == pytest.approx((5 * 6 / 26 + 1800 / 1900) / 6)
    assert found.interval.high < 0.7  # the recalls are 1, 1, 1, 1, 1 and 0.9
