"""Intervals of accuracies: pure functions, each with its source."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from common.run_record import Proportion


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Seeds(NamedTuple):
    """A metric over the seeds of one run; spread and interval are None for a single seed."""

    mean: float
    standard_deviation: float | None
    low: float | None
    high: float | None
    n: int


class TwoWayMean(NamedTuple):
    """A mean over seeds and images, of which both are a sample; its spreads and the test of mean 0."""

    mean: float
    seeds_standard_deviation: float | None  # of one seed's true mean; None for a single seed
    images_standard_error: float  # the images' part of the mean's standard error
    low: float
    high: float
    p_value: float
    degrees_of_freedom: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the interval of a proportion: Wilson 1927, JASA 22:209-212, without continuity correction.

    Raises:
        ValueError: no observations, or more correct ones than there are.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= correct <= n and n > 0, not {correct} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    scale = 1 / (1 + z * z / n)
    center = scale * (share + z * z / (2 * n))
    half = scale * z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, center - half)
    high = 1.0 if correct == n else min(1.0, center + half)
    return Interval(low, high)


def proportion(correct: int, n: int) -> Proportion:
    """Return a proportion as records keep it; errors as of `wilson`."""
    low, high = wilson(correct, n)
    return Proportion(value=correct / n, low=low, high=high, correct=correct, n=n)


def format_accuracy(found: Proportion) -> str:
    """Return `0.9266 (101 of 109, 95% interval 0.862 to 0.962)`."""
    return f"{found.value:.4f} ({found.correct} of {found.n}, 95% interval {found.low:.3f} to {found.high:.3f})"


def mean_over_seeds(values: Sequence[float], confidence: float = 0.95) -> Seeds:
    """Return the mean of a metric over seeds with Student's t interval (Student 1908, Biometrika 6:1-25).

    Only the seeds are a sample here, with the images as given; `two_way_random_effects` counts the images as well.

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("a mean over seeds needs at least one value; give the metric of every finished run")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Seeds(mean, None, None, None, 1)
    deviation = float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * deviation / math.sqrt(len(values))
    return Seeds(mean, deviation, mean - half, mean + half, len(values))


def two_way_random_effects(outcomes: np.ndarray, confidence: float = 0.95) -> TwoWayMean:
    """Return the mean over S seeds and n images, where other seeds and other images could have been drawn.

    Two-way random effects without replication, y_ij = mu + s_i + p_j + e_ij (Searle, Casella & McCulloch 1992,
    Variance Components, ch. 4): Var(mean) = (MS_s + MS_p - MS_e) / (S n), never below what one of the mean squares
    gives by itself. Degrees of freedom: Satterthwaite 1946, Biometrics Bulletin 2:110-114. With one seed only the
    images vary: the t test on n images. Outcomes that never vary give an interval of no width, and p = 1 where
    all are 0, else p = 0. The interval is not cut to what the outcomes can be.

    Args:
        outcomes: (S, n) correct or not, 0 or 1; or differences of two runs, -1, 0 or 1.
        confidence: of the interval.

    Raises:
        ValueError: not a table of at least one seed and two images.
    """
    y = np.asarray(outcomes, dtype=np.float64)
    if y.ndim != 2 or y.shape[0] < 1 or y.shape[1] < 2:
        raise ValueError(f"outcomes need a row a seed and a column an image, two images or more, not {y.shape}")
    seeds, images = y.shape
    mean = float(y.mean())
    by_seed, by_image = y.mean(axis=1, keepdims=True), y.mean(axis=0, keepdims=True)
    images_ms = seeds * float(((by_image - mean) ** 2).sum()) / (images - 1)
    if seeds == 1:
        deviation, images_variance = None, images_ms / images
        variance, freedom = images_variance, images - 1.0
    else:
        seeds_ms = images * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
        residual_ms = float(((y - by_seed - by_image + mean) ** 2).sum()) / ((seeds - 1) * (images - 1))
        deviation = math.sqrt(max(0.0, seeds_ms - residual_ms) / images)
        images_variance = max(0.0, images_ms - residual_ms) / y.size
        combined, freedom = _combined(seeds_ms, images_ms, residual_ms, seeds, images)
        variance = combined / y.size
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * error
    p_value = min(1.0, 2 * float(stdtr(freedom, -abs(mean) / error))) if error else float(mean == 0)
    return TwoWayMean(mean, deviation, math.sqrt(images_variance), mean - half, mean + half, p_value, freedom)


def accuracy_interval(correct: np.ndarray) -> Interval:
    """Return the interval of the mean accuracy of S seeds on the same n images, over both, within 0 to 1.

    Where no outcome varies it is Wilson's interval of n images.

    Args:
        correct: (S, n) bool.
    """
    found = two_way_random_effects(correct)
    if found.low == found.high:
        return wilson(int(correct[0].sum()), correct.shape[1])
    return Interval(max(0.0, found.low), min(1.0, found.high))


def two_way_difference(right_a: np.ndarray, right_b: np.ndarray) -> TwoWayMean:
    """Return the accuracy of A minus that of B on the same seeds and images, (S, n) bool each, within -1 to 1."""
    found = two_way_random_effects(right_a.astype(np.int8) - right_b.astype(np.int8))
    return found._replace(low=max(-1.0, found.low), high=min(1.0, found.high))


def _combined(seeds_ms: float, images_ms: float, residual_ms: float, seeds: int, images: int) -> tuple:
    """Return S n Var(mean) and its degrees of freedom."""
    parts = [(seeds_ms, seeds - 1), (images_ms, images - 1), (residual_ms, (seeds - 1) * (images - 1))]
    combined = seeds_ms + images_ms - residual_ms
    largest, its_freedom = max(parts)
    if combined <= largest:  # a component is estimated as negative, so it is taken as none
        return largest, float(its_freedom)
    return combined, combined**2 / sum(square**2 / freedom for square, freedom in parts)
