"""The choice of the smallest network on validation images and its proof on test images: pure functions.

A finalist has one row per seed (or fold), which says which of the same n images it gets right. Nothing is chosen on test.
Labels are (n,) classes, for the balanced accuracy; `groups` are (n,) group numbers, None: each image is its own.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betainc, betaincinv, expit, logit

from common.checks import FEWEST_SEEDS
from evaluation.intervals import accuracy_interval, columns_of, design_effect, log_odds
from evaluation.paired_tests import HALF, balance, class_weights, compare_pair, student
from evaluation.planning import Spread

LEVEL = 0.05
ROUNDED = 12  # digits of differences, so that 0.80 - 0.82 and 0.90 - 0.92 are equal


class Rule(NamedTuple):
    """When a network is good enough: at most `margin` below the reference, or above `target` if that is given."""

    margin: float
    target: float | None = None
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy"


class Finalist(NamedTuple):
    """A candidate's outcomes on one split."""

    cost: float | tuple[float, int]  # orders candidates; a tuple's second entry, MACs, breaks ties
    right: np.ndarray  # (S, n) bool
    seeds: list[int]  # seed or fold of each row; out-of-fold predictions are one row


class Evidence(NamedTuple):
    """What the images of one split show about a candidate: against the reference, or its own value against a target."""

    value: float  # its metric minus that of the reference
    own: float  # its metric
    at_least: float  # one-sided bound, with confidence 1 - level, on the difference; with a target on its own value
    p_value: float  # one-sided, for `limit` or less
    level: float
    limit: float  # -margin or target: the bound has to lie above it
    n: int
    n_seeds: int
    of_settings: bool  # it also holds for other seeds of the same settings; else only for these trained networks
    absolute: bool  # whether it is about a target
    spread: Spread

    @property
    def shown(self) -> bool:
        return self.p_value < self.level

    @property
    def smallest_margin(self) -> float:
        """The smallest margin, or with a target the largest target, that these images show."""
        return self.at_least if self.absolute else max(0.0, -self.at_least)

    @property
    def gap(self) -> float:
        """How far the value is above the limit; a difference above 0 counts as 0, because it may be luck."""
        return round((self.own if self.absolute else min(self.value, 0.0)) - self.limit, ROUNDED)


class Choice(NamedTuple):
    """The choice of validation."""

    index: int | None  # into the finalists; None: the reference
    within: bool  # whether validation shows that it is good enough; else it is the one nearest to that
    evidence: Evidence


class Proof(NamedTuple):
    """What test shows about the chosen candidate."""

    verdict: Literal["shown", "shown_as_trained", "not_shown"]
    # For the verdict; if nothing is shown, that for the trained networks, for which the least is needed
    evidence: Evidence
    of_settings: Evidence | None  # None with fewer than FEWEST_SEEDS seeds that count
    as_trained: Evidence
    seed: int  # of the two trained networks: the first common seed, whose network is handed out


def choose(
    reference: Finalist,
    finalists: Sequence[Finalist],
    rule: Rule,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Choice:
    """Choose on validation the cheapest candidate that is shown there to be good enough, each tested at 5%.

    If there is none, choose the one with the best bound. With a target the reference is a candidate too; without one it is
    chosen only if there is no other, since its difference from itself is 0.

    Args:
        reference: the most accurate candidate.
        finalists: the other candidates; their seeds are paired with those of the reference.

    Raises:
        ValueError: the images differ, no seed is in common, or the balanced accuracy has no labels.
    """
    candidates = list(enumerate(finalists))
    if rule.target is not None or not finalists:
        candidates.append((None, reference))
    of_all = [(index, each.cost, measure(each, reference, rule, labels, groups)) for index, each in candidates]
    if within := [each for each in of_all if each[2].shown]:
        index, _, evidence = min(within, key=lambda each: (each[1], -each[2].at_least))
    else:
        index, _, evidence = min(of_all, key=lambda each: (-each[2].at_least, each[1]))
    return Choice(index, evidence.shown, evidence)


def prove(
    chosen: Finalist,
    reference: Finalist,
    rule: Rule,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_finalists: int = 1,
    *,
    raced: Sequence[int],
) -> Proof:
    """Test the choice of validation on test images.

    The trained networks of the first common seed are tested at 5%: they were chosen before test was opened. With at least
    FEWEST_SEEDS seeds, settings are tested, too, at 5% divided by the number of finalists: validation and test share the
    trained networks, so a row chosen for its lucky seeds is as lucky on test. Seeds with which the finalists came through the
    race do not count, because they are the luckiest of all that raced. Either test may give the answer, so 5% is divided by at
    least two unless both pass; of a single finalist at the margin, one or the other passed in 0.070 of searches without this,
    and in 0.053 with it (docs/experiments.md).

    Args:
        reference: which may be the chosen candidate.
        n_finalists: candidates besides the reference that could have been chosen; with a target, so could the reference.
        raced: seeds, or folds, whose networks decided in the race which candidates are finalists.

    Raises:
        ValueError: as in `choose`.
    """
    seeds, settings = _common(chosen, reference), None

    def of(some: Sequence[int], level: float) -> Evidence:
        other = _only(reference, some)
        return measure(other if chosen is reference else _only(chosen, some), other, rule, labels, groups, level)

    as_trained = of(seeds[:1], LEVEL)
    fresh = [seed for seed in seeds if seed not in raced]
    if len(fresh) >= FEWEST_SEEDS:
        at_least = 1 if as_trained.shown else 2
        settings = of(fresh, LEVEL / max(at_least, n_finalists + (rule.target is not None)))
    if settings and settings.shown:
        return Proof("shown", settings, settings, as_trained, seeds[0])
    return Proof("shown_as_trained" if as_trained.shown else "not_shown", as_trained, settings, as_trained, seeds[0])


def measure(
    candidate: Finalist,
    reference: Finalist,
    rule: Rule,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    level: float = LEVEL,
) -> Evidence:
    """Measure a candidate over the seeds that it shares with the reference, against the reference or the target."""
    if rule.metric == "balanced_accuracy" and labels is None:
        raise ValueError("the balanced accuracy needs the labels")
    labels = labels if rule.metric == "balanced_accuracy" else None
    seeds = _common(candidate, reference)
    a, b = (_only(each, seeds).right for each in (candidate, reference))
    own = mean_metric(a, labels)
    if candidate is reference and rule.target is None:
        spread = Spread(0.0, 0.0, 0.0, len(seeds), 1.0)
        at_least, p_value, limit = 0.0, 0.0, -rule.margin
    elif rule.target is None:
        pair = compare_pair(a, b, rule.margin, groups, labels, level)
        at_least, p_value, limit, spread = pair.at_least, pair.margin_p_value, -rule.margin, pair.spread
    else:
        at_least, p_value, spread = _above(a, rule.target, labels, groups, level)
        limit = rule.target
    return Evidence(
        round(own - mean_metric(b, labels), ROUNDED), own, at_least, p_value, level, limit, a.shape[1], len(seeds),
        len(seeds) >= FEWEST_SEEDS, rule.target is not None, spread,
    )  # fmt: skip


def mean_metric(right: np.ndarray, labels: np.ndarray | None) -> float:
    """Return the mean accuracy of networks, balanced over the classes if labels are given."""
    return float((right if labels is None else balance(right, labels, [])[0]).mean())


def metric_interval(
    right: np.ndarray, rule: Rule, labels: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the mean of the rule's metric over seeds and its 95% interval, which contains the mean."""
    if rule.metric == "accuracy":
        return mean_metric(right, None), *accuracy_interval(right, groups)
    value = mean_metric(right, labels)
    low, high = (_above(outcomes, 0.5, labels, groups, 0.025)[0] for outcomes in (right, ~right))
    return value, min(low, value), max(1 - high, value)


def _above(
    right: np.ndarray, target: float, labels: np.ndarray | None, groups: np.ndarray | None, level: float
) -> tuple[float, float, Spread]:
    """Return the one-sided bound on the value of networks or their settings, the p-value for the target, and the spread.

    One network: the exact bound of Clopper & Pearson 1934 (Biometrika 26:404-413), because Wilson's one-sided bound promises
    too much near 1; with groups, for n / design effect images. Several seeds, or a balanced accuracy: the t distributions of
    `accuracy_interval`, each also on the scale of log odds, because near 1 a few seeds are much worse than the others.
    """
    outcomes, pseudo = right, [(1.0, 2.0), (0.0, 2.0)]
    if labels is not None:
        outcomes, pseudo = balance(right, labels, pseudo)
    weights = class_weights(labels)
    square = float((weights**2).mean())
    spread = Spread.of(outcomes, groups, square=square)
    if len(right) == 1 and labels is None:
        n, variance = right.size, target * (1 - target)  # with two pseudo-images, like the spread
        here = (n * right.mean() * (1 - right.mean()) + 2) / (n + 1)
        spread = spread._replace(at_limit=variance / here, less=HALF)  # an exact test acts like a normal one with fewer
        effect = design_effect(right, groups)
        correct, wrong = right.sum() / effect, (~right).sum() / effect
        if correct == 0:
            return 0.0, 1.0, spread
        at_least = float(betaincinv(correct, wrong + 1, level))
        return at_least, float(betainc(correct, wrong + 1, target)), spread  # P(X >= correct)
    found, weight = student(outcomes, pseudo, groups), float(weights.mean())
    spread = spread._replace(target=target, weight=weight)
    if right.all():  # only the pseudo-images vary; more images do not add any
        _, sizes, number, reach = columns_of(outcomes, groups)
        weight *= number * reach * float(sizes.mean())
        spread = spread._replace(units=0.0, further=2 * square * number * reach**2, weight=weight)
    at_least = max(0.0, min(each.interval(1 - 2 * level).low for each in found))
    p_value = max(each.p_above(target) for each in found)
    for odds in (log_odds(each) for each in found if 0 < each.mean < 1):
        at_least = min(at_least, float(expit(odds.interval(1 - 2 * level).low)))
        p_value = max(p_value, odds.p_above(float(logit(target))))
    return at_least, p_value, spread


def _common(candidate: Finalist, reference: Finalist) -> list[int]:
    """Return the seeds that both have, in the reference's order."""
    for each in (candidate, reference):
        if each.right.ndim != 2 or each.right.size == 0 or len(each.right) != len(each.seeds):
            raise ValueError(f"one row a seed and at least one image are needed, not {each.right.shape}, {each.seeds}")
    if candidate.right.shape[1] != reference.right.shape[1]:
        raise ValueError(f"other images: {candidate.right.shape[1]} and {reference.right.shape[1]}")
    seeds = [seed for seed in reference.seeds if seed in candidate.seeds]
    if not seeds:
        raise ValueError(f"no seed in common: {candidate.seeds} and {reference.seeds}")
    return seeds


def _only(finalist: Finalist, seeds: Sequence[int]) -> Finalist:
    """Return the rows of these seeds, in this order."""
    rows = [finalist.seeds.index(seed) for seed in seeds]
    return finalist._replace(right=finalist.right[rows], seeds=list(seeds))
