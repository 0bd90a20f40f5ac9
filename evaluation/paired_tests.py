"""Compare networks on the same images: tests, intervals, and the best of many.

S seeds, n images. `only_a` is the number of images on which only network A is right, `only_b` the number of those on which
only B is. `groups` are (n,) group numbers; None: each image is its own.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.optimize where it is first used: late, so that a training starts sooner
from scipy.special import betainc

from evaluation.estimates import CELLS, draw
from evaluation.intervals import StudentT, intraclass_correlation, over_images, over_seeds_and_images
from evaluation.planning import Spread

# Images by which a one-sided bound for trained networks is lowered. Without them, Tango's test at 5% passes networks at the
# margin in up to 5.6% of cases (exact sums, 20 to 2,000 images, margins of 0.005 to 0.3), with them in at most 4.9%. Over
# several seeds on images in groups, they are multiplied by the `variance_ratio`; without them, seeds that are the same network
# passed in up to 9.9% (balanced accuracy, ten groups of four images of a rare class).
HALF = 0.5
# Mean size of groups up to which bounds of single images are also used; in larger groups they would cost too much power
ALMOST_SINGLE = 1.5


class Difference(NamedTuple):
    """The accuracy of A minus that of B, with its interval."""

    value: float
    low: float
    high: float


class BiasCorrectedBest(NamedTuple):
    """The best of many runs: its index, its accuracy as measured and as corrected for the selection, and the bias."""

    index: int
    value: float
    corrected: float
    selection_bias: float


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value for equal accuracies (McNemar 1947, Psychometrika 12:153-157; binomial, p = 1/2).

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


def holm_against_best(p_values: Sequence[float]) -> list[float]:
    """Return p-values of the best of K rows against the K - 1 others, if the same measurements chose the best.

    Any row can come out as the best, so all K (K - 1) / 2 pairs count: the result is Holm's values times K / 2. If rows are
    truly equal in sets of b, an error needs p * (b - 1) * K / 2 below the level for one of the b (b - 1) / 2 pairs of a set;
    summed over the sets, its probability is at most the level (Bonferroni). Without this correction, the best of 12 equal
    networks was called better than another one in 0.11 to 0.13 of simulated worlds.

    Raises:
        ValueError: a p-value outside of 0 to 1.
    """
    return [min(1.0, p * (len(p_values) + 1) / 2) for p in holm(p_values)]


def paired_difference(only_a: int, only_b: int, n: int) -> Difference:
    """Return the difference of two accuracies on the same n images, with the 95% score interval.

    Tango 1998, Statistics in Medicine 17:891-908: the interval contains the differences that its score test does not reject. It
    has a width even if the networks agree on all images, and its lower end is a one-sided 97.5% bound.

    Raises:
        ValueError: counts that n images cannot give, or no images.
    """
    _check_counts(only_a, only_b, n)
    if n < 1:
        raise ValueError("a difference of accuracies needs at least one image")
    z, value = NormalDist().inv_cdf(0.975), (only_a - only_b) / n

    def excess(difference: float, side: float) -> float:
        return side * tango_score(only_a, only_b, n, difference) - z

    inner = 1e-12
    low = -1.0 if value <= inner - 1 else scipy.optimize.brentq(excess, inner - 1, value, args=(1.0,), xtol=1e-12)
    high = 1.0 if value >= 1 - inner else scipy.optimize.brentq(excess, value, 1 - inner, args=(-1.0,), xtol=1e-12)
    return Difference(value, low, high)


def lower_bound(only_a: float, only_b: float, n: float, level: float, less: float = HALF) -> float:
    """Return the one-sided bound, with confidence 1 - level, on the difference, by `tango_score` with `less` images less."""
    z, inner = NormalDist().inv_cdf(1 - level), 1e-12
    value = (only_a - only_b) / n
    if only_a - only_b + n <= max(less, inner):  # nothing is left after the subtraction
        return -1.0
    return scipy.optimize.brentq(lambda d: tango_score(only_a, only_b, n, d, less) - z, inner - 1, value, xtol=1e-12)


def below_difference(counts: np.ndarray, level: float, less: float = HALF) -> float:
    """Return how far below the difference of two (balanced) accuracies its one-sided bound is, from the bounds of the classes.

    It is sqrt(sum (d_c - l_c)^2) / K, with `lower_bound` of each of K classes (MOVER: Zou & Donner 2008, Statistics in Medicine
    27:1693-1702). If networks differ on few images of a rare class, all in one direction, the t test at 5% passes networks at
    the margin in up to 12% of cases, because few such images also mean a small variance, and this bound in at most 4.3% (exact
    sums, 2 to 5 classes, 5 to 160 images of the rare one).

    Args:
        counts: (K, 3) images of each class on which only A is right, on which only B is, and all.
        less: as in `lower_bound`.
    """
    return math.hypot(*((a - b) / n - lower_bound(a, b, n, level, less) for a, b, n in counts)) / len(counts)


def effective_counts(
    differences: np.ndarray, groups: np.ndarray | None = None, alike: float = 0.0
) -> tuple[float, float, float]:
    """Return the images on which only A is right, on which only B is, and all, as one pair of networks would have them.

    The counts are means over S pairs, divided by their `variance_ratio`. Images in groups count as fewer (Kish 1965, Survey
    Sampling, ch. 5).

    Args:
        differences: (S, n) of -1, 0 or 1.
        alike: as of `columns_of`.
    """
    seeds, n = differences.shape
    ratio = variance_ratio(differences)
    if groups is not None:
        ratio *= 1 + (mean_group(groups) - 1) * max(alike, intraclass_correlation(differences, groups))
    only_a, only_b = ((differences == sign).sum() / (seeds * ratio) for sign in (1, -1))
    return float(only_a), float(only_b), n / float(ratio)


def variance_ratio(differences: np.ndarray) -> float:
    """Return the variance of an image's mean difference over that of a single one.

    It is 1 if the S pairs are the same networks, 1 / S if their differences are independent. Half an image on which all pairs
    differ is added to both variances, because a few images hardly show the ratio; without them it is 1.

    Args:
        differences: (S, n) of -1, 0 or 1, or `balance`d.
    """
    n = differences.shape[1]
    return float((n * differences.mean(axis=0).var() + HALF) / (n * differences.var() + HALF))


def mean_group(groups: np.ndarray | None) -> float:
    """Return the mean size of the group that an image is in."""
    return 1.0 if groups is None else float((np.unique(groups, return_counts=True)[1] ** 2).sum()) / len(groups)


def _p_value_of_bound(counts: np.ndarray, margin: float, least: float) -> float:
    """Return the level, from `least` to 0.5, at which `below_difference` reaches from the difference down to -margin."""
    most = 0.5
    if len(counts) == 1:  # the bound is the difference at which the score has this level
        return max(least, min(most, NormalDist().cdf(-tango_score(*counts[0], -margin, HALF))))
    above = sum((a - b) / n for a, b, n in counts) / len(counts) + margin
    if least >= most or below_difference(counts, most) >= above:
        return max(least, most)
    least = max(least, 1e-9)
    if below_difference(counts, least) <= above:
        return least
    return scipy.optimize.brentq(lambda level: above - below_difference(counts, level), least, most, xtol=1e-12)


def tango_score(only_a: float, only_b: float, n: float, difference: float, less: float = 0.0) -> float:
    """Return the standard normal score for a true difference of the accuracies (A minus B): Tango 1998, eq. 12.

    Args:
        difference: above -1 and below 1.
        less: images to subtract from the count of A.
    """
    variance = n * _tango_variance(only_a / n, only_b / n, difference)
    distance = only_a - only_b - n * difference - less
    if variance <= 0:  # no difference and no disagreement
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _tango_variance(only_a: float, only_b: float, difference: float) -> float:
    """Return the variance of one image's difference if the true difference is `difference`.

    Args:
        only_a: share of images on which only A is right.
        only_b: share of images on which only B is right.
        difference: of the accuracies, A minus B.
    """
    b = -only_a - only_b + (2 - only_a + only_b) * difference
    c = -only_b * difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b - 8 * c)) - b) / 4  # share of `only_b` under this difference
    return 2 * q + difference * (1 - difference)


def _variance_at(limit: float, difference: float, variance: float) -> float:
    """Return the variance that `tango_score` uses at `limit` if an image's difference has this mean and variance."""
    disagree = min(1.0, variance + difference**2)
    return _tango_variance((disagree + difference) / 2, (disagree - difference) / 2, limit)


class PairedComparison(NamedTuple):
    """The accuracy of A minus that of B on the same n images and S seeds; every sentence on the pair uses these numbers."""

    difference: float
    low: float  # 95% interval
    high: float
    p_value: float  # for equal accuracy, two-sided
    at_least: float  # one-sided bound on the difference, with confidence 95% or 1 - `level`
    margin: float
    margin_p_value: float  # for a difference of -margin or less, one-sided
    n: int
    n_seeds: int
    spread: Spread


def compare_pair(
    right_a: np.ndarray,
    right_b: np.ndarray,
    margin: float,
    groups: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    level: float = 0.05,
) -> PairedComparison:
    """Compare two networks, or two settings over seeds, on the same images.

    One seed: McNemar's exact test and Tango's score interval, for these two trained networks. Several seeds:
    `over_seeds_and_images` with one pseudo-image that only A gets right and one that only B does. Images in groups: t tests on
    the groups. Balanced accuracies: the same t tests, with images weighted by their class. Unless groups have several images,
    t tests are joined with `below_difference`.

    Args:
        right_a: (S, n) bool.
        right_b: (S, n) bool; line i has the same seed as in `right_a`.
        margin: how far A may be below B and still be good enough, above 0.
        labels: (n,) classes over which the accuracies are balanced; None: all images have the same weight.
        level: of the one-sided bound.

    Raises:
        ValueError: the shapes differ, or there are no images.
    """
    if right_a.shape != right_b.shape or right_a.ndim != 2 or right_a.size == 0:
        raise ValueError(f"two tables of the same seeds and images are needed, not {right_a.shape} and {right_b.shape}")
    differences = right_a.astype(np.int8) - right_b.astype(np.int8)
    (seeds, n), pseudo = differences.shape, [(1.0, 1.0), (-1.0, 1.0)]
    less = HALF / n
    # Groups on which the networks agree still show how alike their images are
    alike = 0.0 if groups is None else max(intraclass_correlation(each, groups) for each in (right_a, right_b))
    weights = class_weights(labels)
    if labels is not None:
        less *= math.sqrt(float((weights**2).sum()))
        differences, pseudo = balance(differences, labels, pseudo)
    if seeds > 1:  # without groups, `below_difference` has it
        less *= 0.0 if groups is None else variance_ratio(differences)
    spread = Spread.of(differences, groups, alike, float((weights**2).mean()))._replace(less=less * n)
    if seeds == 1 and groups is None and labels is None:
        only_a, only_b = int((differences > 0).sum()), int((differences < 0).sum())
        value, low, high = paired_difference(only_a, only_b, n)
        p_value, at_least = mcnemar(only_a, only_b), lower_bound(only_a, only_b, n, level)
        margin_p = NormalDist().cdf(-tango_score(only_a, only_b, n, -margin, HALF))
        spread = spread._replace(at_limit=_variance_at(-margin, min(value, 0.0), spread.units) / spread.units)
    else:
        found = student(differences, pseudo, groups, alike)
        value = float(differences.mean())
        low, high = (extreme(each.interval()[i] for each in found) for i, extreme in ((0, min), (1, max)))
        p_value = max(each.p_value() for each in found)
        at_least = min(each.interval(1 - 2 * level).low for each in found) - less
        margin_p = max(each.p_above(less - margin) for each in found)
        if mean_group(groups) <= ALMOST_SINGLE:
            sign = right_a.astype(np.int8) - right_b
            of_class = [np.ones(n, bool)] if labels is None else [labels == each for each in np.unique(labels)]
            counts = np.array(
                [effective_counts(sign[:, c], None if groups is None else groups[c], alike) for c in of_class]
            )
            swapped = counts[:, [1, 0, 2]]
            of_end = 0.0 if labels is None else HALF  # 0 as in `paired_difference`
            low = min(low, value - below_difference(counts, 0.025, of_end))
            high = max(high, value + below_difference(swapped, 0.025, of_end))
            p_value = 2 * _p_value_of_bound(counts if value > 0 else swapped, 0.0, p_value / 2)
            at_least = min(at_least, value - below_difference(counts, level))
            margin_p = _p_value_of_bound(counts, margin, margin_p)
            spread = spread._replace(below=lambda many, alpha: below_difference(counts * (many / n), alpha))
    if p_value >= 0.05:  # in 1 to 5% of tables the exact test is stricter; the interval then follows it
        low, high = min(low, 0.0), max(high, 0.0)
    low, high = min(low, value), max(high, value)
    return PairedComparison(
        value, max(-1.0, low), min(1.0, high), p_value, max(-1.0, at_least), margin, margin_p, n, seeds, spread
    )


def class_weights(labels: np.ndarray | None) -> np.ndarray:
    """Return the weight of an image, or pseudo-image, of each class in a balanced accuracy, (K,); [1] without labels."""
    if labels is None:
        return np.ones(1)
    sizes = np.unique(labels, return_counts=True)[1]
    return len(labels) / (len(sizes) * sizes)


def balance(
    outcomes: np.ndarray, labels: np.ndarray, pseudo: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return outcomes (S, n) whose mean is the mean over the classes, and the pseudo-images of the classes.

    They are linearized about the class means, as in a stratified sample (Cochran 1977, ch. 5). With K classes, image j of a
    class with n_c of the n images and mean m_c becomes m + n / (K n_c) (y_j - m_c), where the deviation from the class mean is
    multiplied by sqrt(n_c / (n_c - 1)) for the degrees of freedom of the means. Classes with one image show no spread; together
    they are one stratum (collapsed strata, ch. 5A.12). Each class has its share of the pseudo-images.

    Args:
        outcomes: (S, n).
        labels: (n,) class indices; a class without images does not count.
        pseudo: outcome and number of pseudo-images.
    """
    _, labels = np.unique(labels, return_inverse=True)
    sizes, y = np.bincount(labels).astype(np.float64), np.asarray(outcomes, dtype=np.float64)
    of_class = np.stack([np.bincount(labels, weights=line) for line in y]) / sizes  # (S, K)
    centers = of_class.mean(axis=0)
    weights, mean = class_weights(labels), float(centers.mean())
    within = np.sqrt(sizes / np.maximum(sizes - 1, 1))[labels] * (y - of_class[:, labels])
    if (single := sizes == 1).sum() > 1:
        within += np.where(single, centers - centers[single].mean(), 0.0)[labels]
    of_classes = [
        (mean + weight * (outcome - center), number / len(sizes))
        for weight, center in zip(weights, centers, strict=True)
        for outcome, number in pseudo
    ]
    return mean + weights[labels] * ((of_class - centers)[:, labels] + within), of_classes


def student(
    outcomes: np.ndarray, pseudo: list[tuple[float, float]], groups: np.ndarray | None, alike: float = 0.0
) -> tuple[StudentT, ...]:
    """Return t distributions of the mean: one for one network over images or groups, two for several seeds."""
    if len(outcomes) > 1:
        return over_seeds_and_images(outcomes, pseudo, groups, alike)
    return (over_images(outcomes[0], pseudo, np.arange(outcomes.shape[1]) if groups is None else groups, alike),)


def format_p(p_value: float) -> str:
    """Return `p = 0.69`; with four digits around 0.05, so that 0.0497 is not shown as 0.05."""
    digits = 4 if 0.045 < p_value < 0.055 else 2
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.{digits}g}"


def bias_corrected_best(
    correct: np.ndarray, resamples: int = 1000, seed: int = 0, groups: np.ndarray | None = None
) -> BiasCorrectedBest:
    """Estimate the accuracy of the best of N runs without the bias of choosing it on the same images.

    Bootstrap bias correction, Tsamardinos, Greasidou & Borboudakis 2018, Machine Learning 107:1895-1922, alg. 5: draw images
    with replacement, find the best run on them, measure it on the images not drawn; average over resamples. Runs that tie share
    a resample: as runs come in order of their accuracy on all images, taking the first would choose by the images not drawn.
    This corrects for the choice among the runs, not for the choice of each run's epoch.

    Args:
        correct: (N, n) bool or 0/1, runs on the same validation images.
        groups: (n,) group numbers; whole groups are drawn, because an image that is not drawn is as lucky as those of its
            group that are. None: each image is its own.

    Raises:
        ValueError: fewer than one run or two images, or no resamples.
    """
    correct = np.asarray(correct, dtype=np.float64)
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2 or resamples < 1:
        raise ValueError(
            f"the best of many needs one row per run, at least two images and a resample, not {correct.shape}, {resamples}"
        )
    n = correct.shape[1]
    generator = np.random.default_rng(seed)
    accuracies = []
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    at_once = max(1, CELLS // n)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        times = draw(generator, count, np.array([unit.max() + 1]))[:, unit]  # (resamples, n)
        drawn = times @ correct.T  # (resamples, N)
        best = drawn >= drawn.max(axis=1, keepdims=True) - 1e-9
        excluded = (times == 0).astype(np.float64)
        counts = excluded.sum(axis=1)
        hits = np.einsum("ij,ij->i", best, excluded @ correct.T) / best.sum(axis=1)
        accuracies.append(hits[counts > 0] / counts[counts > 0])  # a draw of few images may contain them all
    index = int(correct.sum(axis=1).argmax())
    value = float(correct[index].mean())
    measured = np.concatenate(accuracies)
    corrected = min(value, float(measured.mean())) if len(measured) else value  # more is noise of the draws
    return BiasCorrectedBest(index, value, corrected, value - corrected)


def _check_counts(only_a: int, only_b: int, n: int) -> None:
    if only_a < 0 or only_b < 0 or only_a + only_b > n:
        raise ValueError(f"{n} images cannot have {only_a} that only A gets right and {only_b} that only B does")
