"""The choice of the smallest network on validation images and its proof on test images: pure functions.

A finalist's rows are what its seeds (or folds) get right of the same n images. Nothing is chosen on test.
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
ROUNDED = 12  # digits of differences: 0.80 - 0.82 and 0.90 - 0.92 are one number, not last bits apart


class Rule(NamedTuple):
    """When a network is good enough: at most `margin` below the reference, or above `target` where that is given."""

    margin: float
    target: float | None = None
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy"


class Finalist(NamedTuple):
    """A candidate's outcomes on one split."""

    cost: float | tuple[float, int]  # what orders candidates: of equal costs MACs
    right: np.ndarray  # (S, n) bool
    seeds: list[int]  # of the rows, or their folds; out-of-fold predictions are one row


class Evidence(NamedTuple):
    """What images of one split say of a candidate: against the reference, or of its own value against a target."""

    value: float  # its metric minus that of the reference
    own: float  # its metric
    at_least: float  # one-sided bound, of 1 - level, of the difference; with a target of its own value
    p_value: float  # one-sided: of `limit` or less
    level: float
    limit: float  # -margin or target: what the bound has to lie above
    n: int
    n_seeds: int
    of_settings: bool  # of other seeds of the same settings as well; else of these trained networks
    absolute: bool  # whether it is about a target
    spread: Spread

    @property
    def shown(self) -> bool:
        return self.p_value < self.level

    @property
    def smallest_margin(self) -> float:
        """The smallest margin that these images show, or the largest target."""
        return self.at_least if self.absolute else max(0.0, -self.at_least)

    @property
    def gap(self) -> float:
        """How far the value is above the limit; a difference above 0 counts as 0, since that may be luck."""
        return round((self.own if self.absolute else min(self.value, 0.0)) - self.limit, ROUNDED)


class Choice(NamedTuple):
    """What validation chose."""

    index: int | None  # into the finalists; None: the reference
    within: bool  # whether validation shows that it is good enough; else it is the one nearest to that
    evidence: Evidence
    finalists: list[Evidence]  # of each
    reference: Evidence


class Proof(NamedTuple):
    """What test shows of the chosen one."""

    verdict: Literal["shown", "shown_as_trained", "not_shown"]
    evidence: (
        Evidence  # of the verdict; where nothing is shown that of the trained networks, for which the least is needed
    )
    of_settings: Evidence | None  # None with fewer than FEWEST_SEEDS seeds that count
    as_trained: Evidence
    seed: int  # of the two trained networks, the first common one: the network that is handed out


def choose(
    reference: Finalist,
    finalists: Sequence[Finalist],
    rule: Rule,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Choice:
    """Choose on validation the cheapest candidate that is shown to be good enough there, at 5% each.

    Where there is none, that with the best bound. With a target the reference is a candidate as well; without one it is
    chosen only where there is no other, since it is at no distance from itself.

    Args:
        reference: the most accurate one.
        finalists: the candidates; seeds are paired with those of the reference.
        rule: when one is good enough.
        labels: (n,) classes, for the balanced accuracy.
        groups: (n,) group numbers; None: each image is its own.

    Raises:
        ValueError: other images, no seed in common, or no labels for the balanced accuracy.
    """
    found = [measure(each, reference, rule, labels, groups) for each in finalists]
    own = measure(reference, reference, rule, labels, groups)
    of_all = [(index, finalists[index].cost, each) for index, each in enumerate(found)]
    if rule.target is not None or not finalists:
        of_all.append((None, reference.cost, own))
    if within := [each for each in of_all if each[2].shown]:
        index, _, evidence = min(within, key=lambda each: (each[1], -each[2].at_least))
    else:
        index, _, evidence = min(of_all, key=lambda each: (-each[2].at_least, each[1]))
    return Choice(index, evidence.shown, evidence, found, own)


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
    """Test on test images what validation chose.

    Of settings from FEWEST_SEEDS seeds on, at 5% over the number of finalists: validation and test share the trained networks,
    so that a row chosen for its lucky seeds is as lucky on test. Seeds by which the finalists came through the race do not
    count: they are the luckiest of all that were raced. Else of the trained networks of the first common seed: chosen before
    test was opened, so that nothing is to be corrected.

    Args:
        chosen: the candidate.
        reference: the reference, which may be the chosen one.
        rule: as in `choose`.
        labels: (n,) classes.
        groups: (n,) group numbers.
        n_finalists: candidates besides the reference that could have been chosen; with a target the reference could as well.
        raced: seeds, or folds, whose networks decided in the race who is a finalist.

    Raises:
        ValueError: as of `choose`.
    """
    seeds, settings = _common(chosen, reference), None

    def of(some: Sequence[int], level: float) -> Evidence:
        other = _only(reference, some)
        return measure(other if chosen is reference else _only(chosen, some), other, rule, labels, groups, level)

    as_trained = of(seeds[:1], LEVEL)
    fresh = [seed for seed in seeds if seed not in raced]
    if len(fresh) >= FEWEST_SEEDS:
        settings = of(fresh, LEVEL / max(1, n_finalists + (rule.target is not None)))
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
    """Measure a candidate against the reference, over the seeds that both have, or against the target, over its own."""
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
    """Return the mean accuracy of networks, balanced over the classes where labels are given."""
    return float((right if labels is None else balance(right, labels, [])[0]).mean())


def metric_interval(
    right: np.ndarray, rule: Rule, labels: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the mean of the rule's metric over seeds with its 95% interval, which holds it."""
    if rule.metric == "accuracy":
        return mean_metric(right, None), *accuracy_interval(right, groups)
    value = mean_metric(right, labels)
    low, high = (_above(outcomes, 0.5, labels, groups, 0.025)[0] for outcomes in (right, ~right))
    return value, min(low, value), max(1 - high, value)


def _above(
    right: np.ndarray, target: float, labels: np.ndarray | None, groups: np.ndarray | None, level: float
) -> tuple[float, float, Spread]:
    """Return the one-sided bound of the value of networks, or of their settings, the p-value of the target, and the spread.

    One network: the exact bound of Clopper & Pearson 1934 (Biometrika 26:404-413), since Wilson's promises too much to one
    side near 1; with groups of n / design effect images. Several seeds, or a balanced accuracy: the t distributions of
    `accuracy_interval`, each also on the scale of log odds, since few of the seeds near 1 are much worse than the others.
    """
    outcomes, pseudo = right, [(1.0, 2.0), (0.0, 2.0)]
    if labels is not None:
        outcomes, pseudo = balance(right, labels, pseudo)
    weights = class_weights(labels)
    square = float((weights**2).mean())
    spread = Spread.of(outcomes, groups, square=square)
    if len(right) == 1 and labels is None:
        n, variance = right.size, target * (1 - target)  # as the spread: with two pseudo-images
        here = (n * right.mean() * (1 - right.mean()) + 2) / (n + 1)
        spread = spread._replace(at_limit=variance / here, less=HALF)  # an exact test is as the normal one of less
        effect = design_effect(right, groups)
        correct, wrong = right.sum() / effect, (~right).sum() / effect
        if correct == 0:
            return 0.0, 1.0, spread
        at_least = float(betaincinv(correct, wrong + 1, level))
        return at_least, float(betainc(correct, wrong + 1, target)), spread  # P(X >= correct)
    found, weight = student(outcomes, pseudo, groups), float(weights.mean())
    spread = spread._replace(target=target, weight=weight)
    if right.all():  # then only pseudo-images vary, of which there are as many among more images
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
    """Return the seeds that both have, in the order of the reference."""
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
