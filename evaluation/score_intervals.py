"""Score intervals of metrics that are no plain proportion: they have a width where nothing is wrong, too.

A score interval holds every true value t that the estimate does not contradict, |estimate - t| <= z SD(t), with the standard
deviation that the estimate would have if t were true; that of one proportion is Wilson's. K classes. Counts may be
fractions: images in groups count n / design effect.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import scipy

from evaluation.intervals import Interval, wilson

UNSEEN = 0.5  # images of each class that count as confused evenly, beside those that were: where other errors would lie
ROUNDS = 3
MODEL = 10.0  # images that the variance of a model counts for, beside those that show the variance


class Derivatives(NamedTuple):
    """A metric of a confusion matrix c and its derivatives by c_ij: -column[j], and hit[i] more on the diagonal."""

    value: float
    hit: np.ndarray  # (K,)
    column: np.ndarray  # (K,)


Metric = Callable[
    [np.ndarray, np.ndarray, np.ndarray], Derivatives
]  # right, n and predicted, (K,) images of each class


def recall_derivatives(right: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> Derivatives:
    """Differentiate the mean of right / n over the classes that have images; their n is given."""
    share = _inverse(n) / (n > 0).sum()
    return Derivatives(float(right @ share), share, np.zeros(len(n)))


def f1_derivatives(right: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> Derivatives:
    """Differentiate the mean of 2 right / (n + predicted) over all K classes."""
    both = _inverse(n + predicted)
    return Derivatives(float(2 * right @ both) / len(n), 2 * both / len(n), 2 * right * both**2 / len(n))


def confusion_interval(confusion: np.ndarray, metric: Metric, confidence: float = 0.95) -> Interval:
    """Return the score interval of a metric of a confusion matrix whose rows are independent samples.

    Martin Andres, Alvarez Hernandez & Herranz Tejedor 2011 (Stat. Methods Med. Res. 20:251-267), for a linear combination of
    proportions, here the recalls: where a true value is supposed, they are what is most likely under it. Macro F1, which is
    not linear, has its derivatives there in place of coefficients, found in a few rounds. Of one class it is Wilson's
    interval of the recall.

    Args:
        confusion: (K, K) counts, the true classes as rows. Classes neither true nor predicted do not count.
        metric: one of those above.
        confidence: of the interval.
    """
    counted = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    counts = np.asarray(confusion, dtype=np.float64)[np.ix_(counted, counted)]
    n, right, others = counts.sum(axis=1), counts.diagonal(), max(1, len(counted) - 1)
    wrong = counts + UNSEEN / others  # (K, K) of the wrong images of a class, how many lie where
    np.fill_diagonal(wrong, 0)
    wrong *= _inverse(wrong.sum(axis=1))[:, None]
    estimate, hit, column = metric(right, n, counts.sum(axis=0))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def supposed(recall: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Return the metric, its variance and its derivatives by the recalls, at these recalls (K,)."""
        value, hit, column = metric(n * recall, n, n * recall + (n * (1 - recall)) @ wrong)
        elsewhere = wrong @ column
        mean = recall * (hit - column) - (1 - recall) * elsewhere
        square = recall * (hit - column) ** 2 + (1 - recall) * (wrong @ column**2)
        return value, float(n @ np.maximum(square - mean**2, 0.0)), n * (hit - column + elsewhere)

    def end(sign: int) -> float:
        """Return the lower (1) or upper (-1) end; the multiplier of Lagrange's condition is what is searched."""
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


def pooled_interval(value: float, n: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a mean over classes that all have one recall: of K^2 / sum(1 / n) images.

    Of classes of very few images the recalls that were found vary less about their own values than the true ones allow: of one
    image each not at all. One recall for all of them has the largest variance that classes of this mean can have.

    Args:
        value: balanced accuracy, or macro F1, which of many alike classes is about as accurate.
        n: (K,) images of each class; one without any does not count.
        confidence: of the interval.
    """
    n = n[n > 0]
    images = len(n) ** 2 / float((1 / n).sum())
    return wilson(value * images, images, confidence)


def scaled_interval(
    value: float, variance: float, model: float, informative: float, confidence: float = 0.95
) -> Interval:
    """Return Wilson's interval of as many images as give a value in 0 to 1 its variance.

    The variance is taken as proportional to value (1 - value). A variance that was observed is none where nothing is wrong and
    too small where few images are, so that it counts for the images that show it, and a model's for `MODEL` images.

    Args:
        value: the estimate.
        variance: of the estimate, as observed.
        model: variance of the estimate over value (1 - value), by a model.
        informative: images that show the variance.
        confidence: of the interval.
    """
    unit = value * (1 - value)
    observed = variance / unit if unit > 0 else model
    scaled = (informative * observed + MODEL * model) / (informative + MODEL)
    return wilson(value / scaled, 1 / scaled, confidence)


def auroc_model(value: float, counts: np.ndarray, share: np.ndarray | float = 1.0) -> float:
    """Return the model variance of the mean of K AUROCs, one against the rest, over value (1 - value).

    Of one AUROC as Newcombe 2006 (Statistics in Medicine 25:559-573, method 5) has it, after Hanley & McNeil 1982. Of two
    classes both AUROCs are the same number; between any two of K the correlation is taken as 1 / (K - 1)^2.

    Args:
        value: mean AUROC.
        counts: (K,) images of each class, K >= 2.
        share: (K,) of the variance of each class that counts.
    """
    m, n = counts, counts.sum() - counts
    others = np.maximum((m + n) / 2 - 1, 0.0)
    each = (1 + others * ((1 - value) / (2 - value) + value / (1 + value))) / (m * n)
    return float((share * each).sum()) / (len(counts) * (len(counts) - 1))


def unite(value: float, *intervals: Interval) -> Interval:
    """Return the least interval within 0 to 1 that holds the value and all of the intervals."""
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
