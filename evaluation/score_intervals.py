"""Score intervals of metrics that are not plain proportions: they have a width even if no prediction is wrong.

A score interval contains every true value t that the estimate does not contradict, |estimate - t| <= z SD(t), with the
standard deviation that the estimate would have if t were true; for one proportion it is Wilson's. K classes. Counts may be
fractions: images in groups count n / design effect.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import scipy

from evaluation.intervals import Interval, wilson

UNSEEN = 0.5  # images added to each class, confused evenly with the others: where unseen errors would lie
ROUNDS = 3
MODEL = 10.0  # images that a model's variance counts for, beside the images that show the variance


class Derivatives(NamedTuple):
    """A metric of a confusion matrix c and its derivatives by c_ij: -column[j], plus hit[i] on the diagonal."""

    value: float
    hit: np.ndarray  # (K,)
    column: np.ndarray  # (K,)


# Takes right, n and predicted, (K,) images of each class
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], Derivatives]


def recall_derivatives(right: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> Derivatives:
    """Differentiate the mean of right / n over the classes with images; n is fixed."""
    share = _inverse(n) / (n > 0).sum()
    return Derivatives(float(right @ share), share, np.zeros(len(n)))


def f1_derivatives(right: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> Derivatives:
    """Differentiate the mean of 2 right / (n + predicted) over all K classes."""
    both = _inverse(n + predicted)
    return Derivatives(float(2 * right @ both) / len(n), 2 * both / len(n), 2 * right * both**2 / len(n))


def confusion_interval(confusion: np.ndarray, metric: Metric) -> Interval:
    """Return the 95% score interval of a metric of a confusion matrix whose rows are independent samples.

    Martin Andres, Alvarez Hernandez & Herranz Tejedor 2011 (Stat. Methods Med. Res. 20:251-267), for a linear combination of
    proportions, here the recalls: for each supposed true value, the recalls are the most likely ones. Macro F1 is not linear,
    so its derivatives there serve as coefficients, found in a few rounds. With one class it is Wilson's interval of the recall.

    Args:
        confusion: (K, K) counts, the true classes as rows. Classes neither true nor predicted do not count.
    """
    counted = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    counts = np.asarray(confusion, dtype=np.float64)[np.ix_(counted, counted)]
    n, right, others = counts.sum(axis=1), counts.diagonal(), max(1, len(counted) - 1)
    wrong = counts + UNSEEN / others  # (K, K) shares of a class's wrong images by predicted class
    np.fill_diagonal(wrong, 0)
    wrong *= _inverse(wrong.sum(axis=1))[:, None]
    estimate, hit, column = metric(right, n, counts.sum(axis=0))
    z = NormalDist().inv_cdf(0.975)

    def supposed(recall: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Return the metric, its variance and its derivatives by the recalls, for these recalls (K,)."""
        value, hit, column = metric(n * recall, n, n * recall + (n * (1 - recall)) @ wrong)
        elsewhere = wrong @ column
        mean = recall * (hit - column) - (1 - recall) * elsewhere
        square = recall * (hit - column) ** 2 + (1 - recall) * (wrong @ column**2)
        return value, float(n @ np.maximum(square - mean**2, 0.0)), n * (hit - column + elsewhere)

    def end(sign: int) -> float:
        """Return the lower (1) or upper (-1) end; the search is for the multiplier of Lagrange's condition."""
        slopes = n * (hit - column + wrong @ column)
        for _ in range(ROUNDS):

            def excess(multiplier: float, slopes: np.ndarray = slopes) -> float:
                value, variance, _ = supposed(_most_likely(right, n, multiplier * slopes))
                return (estimate - value) ** 2 - z * z * variance - 1e-18  # below 0 where no recall moves yet

            near, far = 0.0, sign / slopes.max()
            while excess(far) < 0 and abs(far) < 1e12:
                near, far = far, 2 * far
            at = scipy.optimize.brentq(excess, near, far, rtol=1e-7) if excess(near) < 0 < excess(far) else far
            value, _, found = supposed(_most_likely(right, n, at * slopes))
            if np.allclose(found, slopes, rtol=1e-3):
                break
            slopes = found
        return min(1.0, max(0.0, value))

    return unite(estimate, Interval(end(1), end(-1)))


def pooled_interval(value: float, n: np.ndarray) -> Interval:
    """Return Wilson's interval of a mean over classes that share one recall, for K^2 / sum(1 / n) images.

    If classes have very few images, the variance computed from the observed recalls is smaller than the true recalls allow:
    with one image each it is 0. One recall for all classes gives the largest variance that classes with this mean can have.

    Args:
        value: balanced accuracy, or macro F1, which for many similar classes is about as precise.
        n: (K,) images of each class; a class without images does not count.
    """
    n = n[n > 0]
    images = len(n) ** 2 / float((1 / n).sum())
    return wilson(value * images, images)


def scaled_interval(value: float, variance: float, model: float, informative: float) -> Interval:
    """Return Wilson's interval for the number of images that gives a value in 0 to 1 its variance.

    The variance is taken to be proportional to value (1 - value). The observed variance is 0 if nothing is wrong, and too small
    with few images. So it is averaged with that of a model: weighted by the images that show it, the model's by `MODEL` images.

    Args:
        model: a model's variance of the estimate, divided by value (1 - value).
        informative: number of images that show the variance.
    """
    unit = value * (1 - value)
    observed = variance / unit if unit > 0 else model
    scaled = (informative * observed + MODEL * model) / (informative + MODEL)
    return wilson(value / scaled, 1 / scaled)


def auroc_model(value: float, counts: np.ndarray, share: np.ndarray | float = 1.0) -> float:
    """Return the model variance of the mean of K one-against-rest AUROCs, divided by value (1 - value).

    For one AUROC it is that of Newcombe 2006 (Statistics in Medicine 25:559-573, method 5), after Hanley & McNeil 1982. With
    two classes both AUROCs are the same number; the correlation between any two of K is taken to be 1 / (K - 1)^2.

    Args:
        counts: (K,) images of each class, K >= 2.
        share: (K,) share of each class's variance that counts.
    """
    m, n = counts, counts.sum() - counts
    others = np.maximum((m + n) / 2 - 1, 0.0)
    each = (1 + others * ((1 - value) / (2 - value) + value / (1 + value))) / (m * n)
    return float((share * each).sum()) / (len(counts) * (len(counts) - 1))


def unite(value: float, *intervals: Interval) -> Interval:
    """Return the smallest interval within 0 to 1 that contains the value and all of the intervals."""
    low, high = min(value, *(each.low for each in intervals)), max(value, *(each.high for each in intervals))
    return Interval(float(max(0.0, low)), float(min(1.0, high)))


def _inverse(x: np.ndarray) -> np.ndarray:
    return np.divide(1.0, x, out=np.zeros(len(x)), where=x > 0)


def _most_likely(right: np.ndarray, n: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Return the recalls p with right / p - (n - right) / (1 - p) = pull, (K,); 0 where a class has no images."""
    b = n + pull
    root = np.sqrt(np.maximum(b * b - 4 * pull * right, 0.0))
    positive = b > 0
    recall = np.divide(2 * right, b + root, out=np.zeros(len(n)), where=positive)
    return np.divide(b - root, 2 * pull, out=recall, where=~positive & (n > 0)).clip(0.0, 1.0)
