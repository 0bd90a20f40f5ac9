"""How many images or seeds would decide a comparison, from the variances of a pair's differences."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, logit, stdtrit

from evaluation.intervals import columns_of, effective_groups

DRAWS = 4000  # of mean squares
MOST_IMAGES = 10_000_000
MOST_SEEDS = 30
POWER = 0.8


class Spread(NamedTuple):
    """The variances of a pair's differences, or of one side's outcomes: between seeds, between images, and the rest."""

    seeds: float
    units: float  # between images, or groups of them
    residual: float
    n_seeds: int
    images_per_unit: float
    target: float | None = None  # for outcomes tested against a target as in `choice`, also on the scale of log odds
    at_limit: float | None = None  # for one network without t test: variance at the limit over that here
    less: float = 0.0  # images by which the test lowers the count of right ones
    equal: float = 1.0  # ratio of the number of equally large units with as much information to the number of units
    further: float = 0.0  # squares that pseudo-images add to those of all groups
    weight: float = 1.0  # number of images that a pseudo-image of the target counts as
    below: Callable[[float, float], float] | None = None  # (n, alpha) -> how far below the difference its bound is, too

    @classmethod
    def of(
        cls, differences: np.ndarray, groups: np.ndarray | None = None, alike: float = 0.0, square: float = 1.0
    ) -> "Spread":
        """Estimate the variances from differences (S, n) of -1, 0 or 1; the two pseudo-images count as images.

        With groups, a pseudo-image is a part of a group that depends on how alike the images of groups are, and keeps its
        weight for other numbers of groups (`further`).

        Few seeds say little about the variance between seeds, so the upper end of its one-sided 80% interval is taken: a plan
        made with it suffices in four of five cases (Browne 1995, Statistics in Medicine 14:1933-1940).

        Args:
            differences: of accuracies, or `balance`d.
            groups: (n,) group numbers; None: each image is its own.
            alike: as of `columns_of`.
            square: mean over the classes of the squared weight of a pseudo-image.
        """
        columns = columns_of(differences, groups, alike)
        y, per_unit = columns.y, float(columns.sizes.mean())
        n_seeds, n = y.shape
        by_unit = y.mean(axis=0)
        squares = float(((by_unit - y.mean()) ** 2).sum())
        if groups is None:
            equal, further, between = 1.0, 2 * (square - 1), (squares + 2) / (n + 1)
        else:
            equal, further = effective_groups(groups) / n, 2 * square * columns.number * columns.reach**2
            between = max(squares / max(n - 1, 1), 2 / per_unit / (n + 1))
        if n_seeds == 1:
            return cls(0.0, between, 0.0, 1, per_unit, equal=equal, further=further)
        rest = y - by_unit - y.mean(axis=1, keepdims=True) + y.mean()
        residual = float((rest**2).sum()) / ((n_seeds - 1) * (n - 1)) if n > 1 else 0.0
        at_most = float(y.mean(axis=1).var(ddof=1)) * (n_seeds - 1) / float(chdtri(n_seeds - 1, 0.8))
        seeds = max(0.0, at_most - residual / n)
        of_units = max(0.0, between - residual / n_seeds)
        return cls(seeds, of_units, residual, n_seeds, per_unit, equal=equal, further=further)

    def power(self, gap: float, n: float, n_seeds: int, alpha: float = 0.05) -> float:
        """Return the power to show, one-sided at `alpha`, a true difference, or a value, that is `gap` above its limit.

        The tests are those of `compare_pair`, and of `choice` for a target. A score test uses the variance at the limit (Nam
        1997, Biometrics 53:1422-1430), which is far above that of the difference if networks hardly disagree. With several
        seeds, the mean squares of n images are drawn from their distributions (4,000 draws, always the same).
        """
        units = n / self.images_per_unit
        free = max(1.0, units * self.equal - 1)
        if self.target is not None:
            gap = _least_gap(self.target, gap, n / self.weight)
        per_unit = self.units + self.further / units
        variance = self.seeds / n_seeds + per_unit / units + self.residual / (n_seeds * units)
        if n_seeds == 1:
            freedom, ratio = (free, 1.0) if self.at_limit is None else (math.inf, self.at_limit)
            critical = float(stdtrit(freedom, alpha)) * math.sqrt(ratio)
            below = self.less / n - critical * math.sqrt(variance)
            if self.below is not None:
                below = max(below, self.below(n, alpha))
            return NormalDist().cdf((gap - below) / math.sqrt(variance))
        generator = np.random.default_rng(0)
        mean = gap - self.less / n + math.sqrt(variance) * generator.standard_normal(DRAWS)
        s, r = n_seeds - 1, (n_seeds - 1) * free

        def square(expected: float, freedom: float) -> np.ndarray:
            return expected * generator.chisquare(freedom, DRAWS) / freedom

        of_seeds = square(units * self.seeds + self.residual, s)
        of_units = square(n_seeds * per_unit + self.residual, free)
        rest = square(self.residual, r)
        combined = of_seeds + of_units - rest
        freedom = combined**2 / (of_seeds**2 / s + of_units**2 / free + rest**2 / r)
        shown = mean > stdtrit(np.maximum(freedom, 1), 1 - alpha) * np.sqrt(np.maximum(combined, 0) / (n_seeds * units))
        shown &= mean > stdtrit(s, 1 - alpha) * np.sqrt(of_seeds / (n_seeds * units))
        if self.below is not None:
            here, there = (self.units + self.residual / count for count in (self.n_seeds, n_seeds))
            shown &= mean > self.below(n * here / there, alpha)
        return float(shown.mean())


def _least_gap(target: float, gap: float, n: float) -> float:
    """Return how far a value is above its target with four pseudo-images: the smaller of its own scale and that of log odds."""
    value = (n * (target + gap) + 2) / (n + 4)
    if value <= target:
        return value - target
    return min(value - target, float(logit(value) - logit(target)) * value * (1 - value))


def images_needed(spread: Spread, gap: float, n_seeds: int, alpha: float = 0.05) -> int | None:
    """Return how many images show a true difference `gap` above its limit with POWER; None: not even MOST_IMAGES do.

    If the variance between seeds is too large, more images cannot help.
    """
    if gap <= 0 or spread.power(gap, MOST_IMAGES, n_seeds, alpha) < POWER:
        return None
    low, high = 1.0, float(MOST_IMAGES)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spread.power(gap, middle, n_seeds, alpha) >= POWER else (middle, high)
    return math.ceil(high)


def seeds_needed(spread: Spread, gap: float, n: int, alpha: float = 0.05) -> int | None:
    """Return how many seeds show it on n images; None: not even MOST_SEEDS do."""
    enough = (count for count in range(2, MOST_SEEDS + 1) if spread.power(gap, n, count, alpha) >= POWER)
    return next(enough, None) if gap > 0 else None
