"""Intervals for accuracies: pure functions, each with its source.

S seeds, n images. Outcomes are (S, n), one line for each seed; `groups` are (n,) group numbers, None: each image is its own.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, expit, logit, stdtr, stdtrit

from common.run_record import Proportion
from common.text import format_interval

ONE_SIDED = 0.025  # level of the lower end of a 95% interval


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Seeds(NamedTuple):
    """A metric over the seeds of one setting; standard deviation and interval are None for a single seed."""

    mean: float
    standard_deviation: float | None
    low: float | None
    high: float | None
    n: int


class StudentT(NamedTuple):
    """The t distribution of an estimated mean; an error of 0 is certainty."""

    mean: float
    error: float  # standard error
    degrees_of_freedom: float  # inf: normal

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the two-sided interval; its lower end is a one-sided bound with confidence (1 + confidence) / 2."""
        half = float(stdtrit(self.degrees_of_freedom, 0.5 + confidence / 2)) * self.error
        return Interval(self.mean - half, self.mean + half)

    def p_above(self, value: float) -> float:
        """Return the one-sided p-value for a true mean of `value` or less."""
        if self.error == 0:
            return float(self.mean <= value)
        return float(stdtr(self.degrees_of_freedom, (value - self.mean) / self.error))

    def p_value(self) -> float:
        """Return the two-sided p-value for a true mean of 0."""
        return min(1.0, 2 * min(self.p_above(0.0), StudentT(-self.mean, *self[1:]).p_above(0.0)))


def wilson(correct: float, n: float, confidence: float = 0.95) -> Interval:
    """Return the interval of a proportion: Wilson 1927, JASA 22:209-212, without continuity correction.

    `correct` and `n` may be fractions, such as the effective numbers of images in groups.

    Raises:
        ValueError: no observations, or `correct` is not within 0 to `n`.
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


def guessing_probability(correct: float, n: float, share: float) -> float:
    """Return the probability that guessing, which is right with probability `share`, gets at least `correct` of n images right.

    This is the exact binomial test of Clopper & Pearson 1934 (Biometrika 26:404-413). With few images, Wilson's lower end is
    above the true value more often than in one case of 40 (in 0.06 of cases with 5 images of which guessing gets one right).
    """
    return 1.0 if correct == 0 else float(betainc(correct, n - correct + 1, share))


def proportion(correct: int, n: int, effect: float = 1.0) -> Proportion:
    """Return a proportion in the form that records keep; errors as of `wilson`.

    Args:
        effect: `design_effect` of images in groups; the interval is that of n / effect images.
    """
    low, high = wilson(correct / effect, n / effect)
    return Proportion(value=correct / n, low=low, high=high, correct=correct, n=n)


def format_accuracy(found: Proportion, digits: int = 4) -> str:
    """Return `0.9266 (101 of 109, 95% interval 0.861 to 0.963)`."""
    return f"{found.value:.{digits}f} ({found.correct:,} of {found.n:,}, 95% interval {format_interval(found.low, found.high)})"


def mean_over_seeds(values: Sequence[float]) -> Seeds:
    """Return the mean of a metric over seeds with Student's t interval (Student 1908, Biometrika 6:1-25).

    Only the seeds are a sample here; the images are fixed. `over_seeds_and_images` treats both as samples.

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("a mean over seeds needs at least one value; give the metric of every finished run")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Seeds(mean, None, None, None, 1)
    deviation = float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return Seeds(mean, deviation, mean - half, mean + half, len(values))


class MeanSquares(NamedTuple):
    """The analysis of variance of S seeds by columns, which are images or groups of them."""

    mean: float
    seeds: float
    images: float
    residual: float
    n_seeds: int
    n_images: float  # weighted number of columns
    n_equal: float  # number of equally large columns with as much information

    def student(self) -> StudentT:
        """Return the mean with S n Var(mean) = MS_s + MS_p - MS_e, but at least the largest single mean square."""
        s, n = self.n_seeds - 1, self.n_equal - 1
        parts = [(self.seeds, s), (self.images, n), (self.residual, s * n)]
        combined, largest = self.seeds + self.images - self.residual, max(square for square, _ in parts)
        # A component is estimated as 0; on ties take the fewest degrees of freedom
        if combined <= largest * (1 + 1e-9):
            combined, freedom = largest, min(f for square, f in parts if square >= largest * (1 - 1e-9))
        else:
            freedom = combined**2 / sum(square**2 / f for square, f in parts)
        return StudentT(self.mean, math.sqrt(combined / (self.n_seeds * self.n_images)), float(freedom))


def _mean_squares(y: np.ndarray, weights: np.ndarray, by: np.ndarray, equal: float) -> MeanSquares:
    """Return the mean squares of outcomes y (S, n).

    Args:
        weights: (n,) weights of the columns in the mean.
        by: (n,) weights of the squared distances of columns from the mean.
        equal: ratio of the number of equally large columns with as much information to the number of columns.
    """
    seeds, n = len(y), float(weights.sum())
    by_seed = y @ weights / n
    mean = float(by_seed.mean())
    by_image = y.mean(axis=0)
    rest = y - by_seed[:, None] - by_image + mean
    return MeanSquares(
        mean,
        n * float(((by_seed - mean) ** 2).sum()) / (seeds - 1),
        seeds * float((by * (by_image - mean) ** 2).sum()) / n,
        float((by * rest**2).sum()) / ((seeds - 1) * n),
        seeds,
        n,
        n * equal,
    )


def over_seeds_and_images(
    outcomes: np.ndarray, pseudo: Sequence[tuple[float, float]], groups: np.ndarray | None = None, alike: float = 0.0
) -> tuple[StudentT, StudentT]:
    """Return two t distributions of the mean over S >= 2 seeds and n images, both treated as samples; intervals unite the two.

    The first comes from two-way random effects without replication, y_ij = mu + s_i + p_j + e_ij (Searle, Casella & McCulloch
    1992, Variance Components, ch. 4; degrees of freedom: Satterthwaite 1946, Biometrics Bulletin 2:110-114), with
    pseudo-images added as by Agresti & Coull 1998 (Am. Stat. 52:119-126) and Bonett & Price 2012 (J. Educ. Behav. Stat.
    37:479-488) for one seed: without them the interval has no width if no outcome varies, and too little near an accuracy of 1.
    The second is Student's for the S means: the interval is never narrower than the seeds themselves allow. With groups, a
    group of images is the unit (ratio estimate, Cochran 1977, ch. 6); degrees of freedom are those of the number of equally
    large groups with as much information.

    Args:
        outcomes: (S, n) 0 or 1, or differences -1, 0 or 1.
        pseudo: outcome and number of pseudo-images.
        alike: as of `columns_of`.
    """
    columns = columns_of(outcomes, groups, alike)
    values, weights, by = columns.with_pseudo(pseudo)
    equal = 1.0 if groups is None else effective_groups(groups) / len(columns.sizes)
    means = columns.y.mean(axis=1)
    of_means = StudentT(float(means.mean()), float(means.std(ddof=1)) / math.sqrt(len(means)), len(means) - 1.0)
    return _mean_squares(values, weights, by, equal).student(), of_means


def over_images(
    outcomes: np.ndarray, pseudo: Sequence[tuple[float, float]], groups: np.ndarray, alike: float = 0.0
) -> StudentT:
    """Return the t distribution of the mean of one network's outcomes (n,) in groups; see `over_seeds_and_images`."""
    (values,), weights, by = columns_of(outcomes[None], groups, alike).with_pseudo(pseudo)
    n = float(weights.sum())
    mean = float(weights @ values) / n
    error = math.sqrt(float(by @ (values - mean) ** 2)) / n
    return StudentT(mean, error, max(1.0, effective_groups(groups) - 1))


class Columns(NamedTuple):
    """Outcomes of images, or of groups with the same means, and how much a pseudo-image counts beside them."""

    y: np.ndarray  # (S, n), or (S, G) of G groups
    sizes: np.ndarray  # images in each column
    number: float  # number of columns that a pseudo-image counts as
    reach: float  # size of each of these in units of the columns' mean size, 1 or more

    def with_pseudo(self, pseudo: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the values (S, C) of all columns, their weights (C,) in the mean, and the weights (C,) of their squares.

        The mean lies closer to a large column than to a small one, so the square of a column's distance from it is too small
        by the column's share of all images; the weights of squares correct that (Bell & McCaffrey 2002, Survey Methodology
        28:169-181).
        """
        values = np.hstack([self.y, np.broadcast_to([value for value, _ in pseudo], (len(self.y), len(pseudo)))])
        reach = np.append(np.ones(len(self.sizes)), np.full(len(pseudo), self.reach))
        weights = np.append(np.ones(len(self.sizes)), [number * self.number * self.reach for _, number in pseudo])
        relative = np.append(self.sizes / self.sizes.mean(), np.full(len(pseudo), self.reach))
        return values, weights, weights * reach / (1 - relative / float(weights.sum()))


def columns_of(outcomes: np.ndarray, groups: np.ndarray | None, alike: float = 0.0) -> Columns:
    """Return outcomes (S, n) as columns; in groups a pseudo-image counts as the images that are right or wrong together.

    With a few large groups among many small ones, the large ones decide; if by chance none of them differs, the observed
    variation says nothing about them. So the number of images of a pseudo-image is that of the groups in which the variance
    lies, not of a group of mean size: with the latter, networks at the margin passed in 0.24 to 0.35 of cases
    (docs/intervals.md).

    Args:
        alike: lower limit of the `intraclass_correlation`, from other outcomes on the same images.
    """
    y = np.asarray(outcomes, dtype=np.float64)
    if groups is None:
        return Columns(y, np.ones(y.shape[1]), 1.0, 1.0)
    alike = max(alike, intraclass_correlation(y, groups))
    _, groups = np.unique(groups, return_inverse=True)
    sizes, mean = np.bincount(groups).astype(np.float64), y.mean()
    sums = np.stack([np.bincount(groups, weights=line) for line in y])
    of_groups = (sums - mean * sizes) / sizes.mean() + mean  # (S, G) with the same means as y
    variances = sizes * (1 + (sizes - 1) * alike)
    together = 1 + (float(sizes @ variances / variances.sum()) - 1) * alike
    relative = together / float(sizes.mean())
    return Columns(of_groups, sizes, min(1.0, relative), max(1.0, relative))


def intraclass_correlation(outcomes: np.ndarray, groups: np.ndarray) -> float:
    """Return how alike the images of a group are, 0 to 1: (design effect - 1) / (group size - 1) (Kish 1965, ch. 5)."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    size = float((sizes**2).sum() / sizes.sum())
    return (_clustering(np.atleast_2d(outcomes), groups) - 1) / (size - 1) if size > 1 else 0.0


def effective_groups(groups: np.ndarray) -> float:
    """Return the number of equally large groups with as much information as these."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def accuracy_interval(correct: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """Return the 95% interval of the mean accuracy of S seeds on the same n images, over seeds and images, within 0 to 1.

    One seed: Wilson's interval, for that trained network. Several seeds: `over_seeds_and_images` with two pseudo-images that
    all get right and two that all get wrong; the first of its two distributions is also used on the scale of log odds, because
    accuracies of seeds near 1 are skewed: most a little above the mean, few far below. The interval always contains the mean.
    """
    if len(correct) == 1:
        effect = design_effect(correct, groups)
        return wilson(int(correct.sum()) / effect, correct.size / effect)
    both, of_means = over_seeds_and_images(correct, [(1.0, 2.0), (0.0, 2.0)], groups)
    odds = Interval(*(float(expit(end)) for end in log_odds(both).interval()))
    intervals = [both.interval(), of_means.interval(), odds]
    return Interval(max(0.0, min(each.low for each in intervals)), min(1.0, max(each.high for each in intervals)))


def log_odds(found: StudentT) -> StudentT:
    """Return the t distribution of the log odds of a mean between 0 and 1."""
    return StudentT(float(logit(found.mean)), found.error / (found.mean * (1 - found.mean)), found.degrees_of_freedom)


def group_numbers(names: Sequence[str]) -> np.ndarray | None:
    """Return the number of each image's group, (n,); an image named "" is its own group. None if no group has two images."""
    keys = [name or index for index, name in enumerate(names)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys]) if len(numbers) < len(keys) else None


def design_effect(correct: np.ndarray, groups: np.ndarray | None) -> float:
    """Return how many images in groups have as much information as one independent image: 1 without groups.

    It is the variance of the share of right images, estimated between groups, over that of as many independent images (Kish
    1965, Survey Sampling, ch. 5), with the t quantile of the effective number of groups (Dean & Pagano 2015, J. Surv. Stat.
    Methodol. 3:484-503). A few groups that are all right say little about how alike the images of a group are, so parts of an
    all-right and an all-wrong group are added: each part has the images of a quarter of a mean group, the groups are as large
    as an image's group is on average. The mean lies closer to a large group than to a small one, which is corrected by the
    group's share of the images (Bell & McCaffrey 2002, Survey Methodology 28:169-181).

    If sizes are very unequal, this variance is that of the few largest groups; if they are right by chance, images look less
    alike than they are. So it is at least the one that follows from how little images differ within groups.

    Args:
        correct: (n,) or (S, n) bool, for one network or for S.
    """
    if groups is None or len(np.unique(groups)) == len(groups):
        return 1.0
    quantile = float(stdtrit(max(1.0, effective_groups(groups) - 1), 0.975)) / NormalDist().inv_cdf(0.975)
    outcomes = np.atleast_2d(correct)
    return max(_clustering(outcomes, groups), _effect_within(outcomes, groups)) * quantile**2


def class_effects(correct: np.ndarray, of: np.ndarray, k: int, groups: np.ndarray | None) -> np.ndarray:
    """Return the design effect on the images of each of k classes, (k,): some classes may have fewer groups than others.

    Args:
        correct: (n,) bool.
        of: (n,) class of each image, true or predicted.
        k: number of classes; a class without images has the effect 1.
    """
    effects = np.ones(k)
    if groups is not None:
        for each in np.unique(of):
            effects[each] = design_effect(correct[of == each], groups[of == each])
    return effects


def _clustering(outcomes: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean design effect of groups over the lines of outcomes (S, n); at most that of groups of alike images."""
    _, groups = np.unique(groups, return_inverse=True)
    sizes = np.bincount(groups).astype(np.float64)
    size = float((sizes**2).sum() / sizes.sum())  # mean size of the group that an image is in
    low, high = (-1.0, 1.0) if outcomes.min() < 0 else (0.0, 1.0)
    pseudo = 0.25 * float(sizes.mean()) / size  # `design_effect`
    weights = np.append(np.ones(len(sizes)), [pseudo, pseudo])
    of_all, found = np.append(sizes, [size, size]), []
    for line in outcomes:
        sums = np.append(np.bincount(groups, weights=line), [size * low, size * high])
        squares = np.append(np.bincount(groups, weights=line.astype(np.float64) ** 2), [size * low**2, size * high**2])
        n = float(weights @ of_all)
        mean = float(weights @ sums) / n
        between = float(weights @ ((sums - mean * of_all) ** 2 / (1 - of_all / n))) / n**2
        single = (float(weights @ squares) / n - mean**2) / n
        found.append(between / single)
    return float(np.clip(np.mean(found), 1.0, size))


def _effect_within(outcomes: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean design effect over the lines of outcomes (S, n) by the variance within groups of two or more images.

    Fleiss & Cuzick 1979, Applied Psychological Measurement 3:537-542.
    """
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    size, several, alike = float((sizes**2).sum() / sizes.sum()), sizes[groups] > 1, []
    for line in outcomes:
        means, variance = np.bincount(groups, weights=line) / sizes, float(line[several].var())
        within = float(((line - means[groups]) ** 2).sum() / (sizes - 1).sum())  # images by themselves add 0 to both
        alike.append(1 - within / variance if variance > 0 else 0.0)
    return 1 + (size - 1) * float(np.mean(alike))


def coverage_caveat(found: Proportion) -> str | None:
    """Return a caveat if Wilson's interval covers less than its nominal 95%: near 0 and 1, and with few images.

    Exact sums over all counts, n from 25 to 1,000: with 0.17 errors expected it covers 0.837, with 0.55 0.894, with 1.0
    0.916, with more at least 0.918 (the dips of Brown, Cai & DasGupta 2001, Stat. Sci. 16:101-133, sec. 3); in the first two
    cases fewer than 3 errors are found. Elsewhere coverage falls to 0.915 with 10 to 40 images, and with more to 0.927 at
    single points.
    """
    rare, what = min((found.n - found.correct, "errors"), (found.correct, "right images"))
    if rare < 3:
        return f"with fewer than 3 {what} the 95% interval of accuracy can cover as little as 84%"
    return "with 40 images or fewer the 95% interval of accuracy can cover as little as 91%" if found.n <= 40 else None
