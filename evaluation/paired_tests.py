"""Compare networks on the same images: tests, intervals, sample sizes, the best of many."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import betainc

from evaluation.intervals import Interval
from evaluation.scores import CELLS, draw

WANTED_DIFFERENCE = 0.02  # of accuracies, for which the images needed are computed: power 0.8, disagreement as observed


class Difference(NamedTuple):
    """Accuracy of A minus that of B, and its interval."""

    value: float
    low: float
    high: float


class BiasCorrectedBest(NamedTuple):
    """The best of many runs: which, its accuracy as measured, corrected for the selection, and the bias."""

    index: int
    value: float
    corrected: float
    selection_bias: float


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of equal accuracies (McNemar 1947, Psychometrika 12:153-157; binomial with one half).

    Args:
        only_a: images on which only A is right.
        only_b: images on which only B is right.

    Raises:
        ValueError: a negative count.
    """
    _check_counts(only_a, only_b, only_a + only_b)
    fewer, more = sorted((int(only_a), int(only_b)))
    if more - fewer <= 1:
        return 1.0  # both tails together are everything, whatever the rounding
    return min(1.0, 2 * float(betainc(more, fewer + 1, 0.5)))  # P(X <= fewer) is I_1/2(n - fewer, fewer + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction, in the order given (Holm 1979, Scand. J. Stat. 6:65-70).

    Raises:
        ValueError: a p-value outside of 0 to 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in 0 to 1, not {[value for value in p_values if not 0 <= value <= 1]}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def paired_difference(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> Difference:
    """Return the difference of two accuracies on the same n images, with the adjusted Wald interval.

    Bonett & Price 2012, J. Educ. Behav. Stat. 37:479-488: one is added to both counts and two to n for the interval;
    the value is that of the counts.

    Raises:
        ValueError: counts that n images cannot give.
    """
    _check_counts(only_a, only_b, n)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Difference((only_a - only_b) / n, max(-1.0, a - b - half), min(1.0, a - b + half))


def sample_size_for(difference: float, disagreement: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return the images that McNemar's test needs for a difference (Connor 1987, Biometrics 43:207-211).

    Two accuracies cannot differ by more than the share of images on which exactly one is right; a smaller
    `disagreement` is taken as equal to the difference, the fewest images that could do.

    Args:
        difference: of the accuracies, either sign.
        disagreement: share of the images on which exactly one is right.
        power: probability of seeing it.
        alpha: two-sided level of the test.

    Raises:
        ValueError: no difference, or shares that are none.
    """
    size = abs(difference)
    if not 0 < size <= 1:
        raise ValueError(f"difference={difference}: no sample size shows it; use e.g. 0.02")
    if not (0 <= disagreement <= 1 and 0 < power < 1 and 0 < alpha < 1):
        raise ValueError(f"disagreement={disagreement}, power={power}, alpha={alpha}: use shares from 0 to 1")
    psi = max(disagreement, size)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    root = z_alpha * math.sqrt(psi) + z_power * math.sqrt(psi - size**2)
    return math.ceil((root / size) ** 2)


def verdict(only_a: int, only_b: int, n: int) -> str:
    """Say whether the accuracies of two networks differ significantly on n images.

    Args:
        only_a: images on which only A is right.
        only_b: images on which only B is right.
        n: images.
    """
    difference, p = paired_difference(only_a, only_b, n), mcnemar(only_a, only_b)
    text = describe_comparison(p, f"{n:,} images", difference.value, Interval(difference.low, difference.high))
    if p < 0.05:
        return text
    needed = sample_size_for(WANTED_DIFFERENCE, (only_a + only_b) / n)
    enough = "would be needed" if needed > n else "are enough"
    return f"{text}; {needed:,} {enough} to see a difference of {WANTED_DIFFERENCE:g}"


def describe_comparison(p_value: float, what: str, difference: float, interval: Interval) -> str:
    """`cannot be distinguished with 109 images (difference 0.018, 95% interval -0.031 to 0.067, p = 0.69)`."""
    can = "can" if p_value < 0.05 else "cannot"
    spread = f"95% interval {interval.low:z.3f} to {interval.high:z.3f}"
    return f"{can} be distinguished with {what} (difference {difference:z.3f}, {spread}, {format_p(p_value)})"


def format_p(p_value: float) -> str:
    """Return `p = 0.69`; four digits around 0.05, so that 0.0497 does not read 0.05."""
    digits = 4 if 0.045 < p_value < 0.055 else 2
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.{digits}g}"


def bias_corrected_best(correct: np.ndarray, resamples: int = 1000, seed: int = 0) -> BiasCorrectedBest:
    """Estimate the accuracy of the best of N runs without the bias of choosing it on the same images.

    Bootstrap bias correction, Tsamardinos, Greasidou & Borboudakis 2018, Machine Learning 107:1895-1922, alg. 5: draw
    images with replacement, take the best run on them, measure it on those not drawn; the mean over resamples.
    Of equal runs the first is the best.

    Args:
        correct: (N, n) bool or 0/1, runs on the same validation images.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: not a table of at least one run and two images, or no resamples.
    """
    correct = np.asarray(correct, dtype=np.float64)
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2 or resamples < 1:
        raise ValueError(
            f"the best of many needs a row a run, two images or more and a resample, not {correct.shape}, {resamples}"
        )
    n = correct.shape[1]
    generator = np.random.default_rng(seed)
    accuracies = []
    at_once = max(1, CELLS // n)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        times = draw(generator, count, np.array([n]))  # (resamples, n)
        best = (times @ correct.T).argmax(axis=1)
        excluded = times == 0
        counts = excluded.sum(axis=1)
        hits = np.einsum("ij,ij->i", excluded, correct[best])
        accuracies.append(hits[counts > 0] / counts[counts > 0])  # a draw of few images may hold them all
    index = int(correct.sum(axis=1).argmax())
    value = float(correct[index].mean())
    drawn = np.concatenate(accuracies)
    corrected = float(drawn.mean()) if len(drawn) else value
    return BiasCorrectedBest(index, value, corrected, value - corrected)


def _check_counts(only_a: int, only_b: int, n: int) -> None:
    if only_a < 0 or only_b < 0 or only_a + only_b > n:
        raise ValueError(f"{n} images cannot have {only_a} that only A gets right and {only_b} that only B does")
