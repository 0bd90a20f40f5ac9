"""Metrics with their intervals: score intervals united with a bootstrap stratified by class; also for the user's own metrics.

n images, K classes, B resamples. Labels are (n,) class indices, probabilities (n, K) as the network gives them. `groups` are
(n,) group numbers; whole groups are drawn; None: each image is its own.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from common.text import join_words, short_name
from evaluation.intervals import Interval, class_effects, design_effect
from evaluation.score_intervals import (
    auroc_model,
    confusion_interval,
    f1_derivatives,
    pooled_interval,
    recall_derivatives,
    scaled_interval,
    unite,
)
from evaluation.scores import (
    average_precision,
    balanced_accuracy,
    checked,
    count_confusion,
    macro_auroc,
    macro_f1,
    mean_ratio,
    ranking_scores,
    scored_classes,
    weighted_auroc,
    weighted_average_precision,
)

CELLS = 4_000_000  # resamples x images held at a time, some tens of MB
DRAWS = 40_000_000  # resamples x images x classes scored, two seconds
MOST_SCORED = 400_000_000  # above this the AUROC is not resampled
FEWEST_RESAMPLES = 200
ENOUGH_FOR_PERCENTILES = 1000
FURTHER_RESAMPLES = 1000  # for a metric that takes one resample at a time
MANY_CLASSES = 3  # classes with few images; with this many, recalls on few images each hide how much they vary
FEW_IMAGES = 10  # of a class; with fewer no interval is sure to cover, whatever the scores are

Metric = Callable[[np.ndarray, np.ndarray], float]  # labels (n,), probabilities (n, K)


class Estimate(NamedTuple):
    """A metric and its interval, which contains the value."""

    value: float
    interval: Interval


def estimate_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    logits: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate `balanced_accuracy`, `f1` and `auroc` (both macro), with two classes also `average_precision` of class 1.

    Each 95% interval unites the value, a score interval (evaluation/score_intervals.py) and the percentiles of a bootstrap
    stratified by class (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13): near a value of 1, or with few
    images of a class, the bootstrap is too narrow, and in between the score interval sometimes is. If many classes have few
    images, balanced accuracy and macro F1 also have a `pooled_interval`, and F1 a second one for which these classes share one
    F1. If all images are of one class, there are no `auroc` and `average_precision`.

    With many images or classes fewer resamples are drawn (`DRAWS` in all, but at least 200 resamples). Fewer than 1,000 are
    summarized by a normal distribution with their mean and standard deviation instead of percentiles. If even 200 would take
    minutes (`MOST_SCORED`: 2,000 images of 1,000 classes), the AUROC has only the score interval.

    Args:
        logits: (n, K); None: unknown; see `ranking_scores`.
        groups: with groups, a score interval is that of n / design effect images.
        resamples: at most.

    Raises:
        ValueError: the shapes do not fit, or values are NaN or infinite.
    """
    labels, probabilities = checked(labels, probabilities)
    scores, scored = ranking_scores(probabilities, logits), scored_classes(labels, probabilities)
    predicted, k = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = count_confusion(labels, predicted, k)
    right = predicted == labels
    # For each class, which may have other or fewer groups; and over all, as groups with images of several make classes alike
    effects = np.maximum(class_effects(right, labels, k, groups), design_effect(right, groups))
    counted = confusion / effects[:, None]
    drawn = resample_metrics(labels, predicted, scores, groups, resamples, seed)
    closed = {
        "balanced_accuracy": (balanced_accuracy(confusion), confusion_interval(counted, recall_derivatives)),
        "f1": (macro_f1(confusion), confusion_interval(counted, f1_derivatives)),
    }
    n = counted.sum(axis=1)
    few = (n > 0) & (n < FEW_IMAGES)
    if few.sum() >= MANY_CLASSES:
        for name, (value, interval) in closed.items():
            centers = [value, macro_f1(confusion, few)] if name == "f1" else [value]
            pooled = [pooled_interval(float(center), n) for center in centers]
            closed[name] = value, unite(float(value), interval, *pooled)
    if scored:
        sides = [(labels == j, scores[:, j]) for j in scored]
        present = np.unique(labels)
        informative = sum(_overlapping(*side) for side in sides) / effects[present].max()
        counts = np.bincount(labels)[present] / effects[present]
        ranked = {"auroc": macro_auroc(labels, probabilities, logits)}
        models = {"auroc": auroc_model(ranked["auroc"], counts)}
        # Draws of m images have (m - 1) / m of their variance, draws of one image have none; with two classes `informative`
        # counts only the fewer
        hidden = auroc_model(ranked["auroc"], counts, 1 / np.maximum(counts, 1)) if len(sides) > 1 else 0.0
        if k == 2:
            ranked["average_precision"] = average_precision(*sides[0])
            models["average_precision"] = 1 / counts[1]  # Boyd, Eng & Page 2013, ECML PKDD, sec. 3.2
        for name, value in ranked.items():
            # With few positives the average precision is too high on average, and that of its resamples even higher
            draws = drawn.get(name, np.array([value]))
            center = max(0.0, value - max(0.0, float(draws.mean()) - value))
            unit = value * (1 - value)
            variance = float(draws.var()) + hidden * unit if name in drawn else models[name] * unit
            closed[name] = value, scaled_interval(center, variance, models[name], informative)
    return {
        name: Estimate(float(value), unite(float(value), interval, *_of_draws(drawn.get(name))))
        for name, (value, interval) in closed.items()
    }


def resample_metrics(
    labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray, groups: np.ndarray | None, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw resamples of each class's images, or groups, and compute every metric of each resample.

    A class that is missing in a draw of groups does not count in it; a draw whose AUROC or average precision is undefined is
    skipped for that metric.

    Args:
        predicted: (n,) class indices.
        scores: (n, K) `ranking_scores`.
        resamples: at most.

    Returns:
        The metrics of `estimate_metrics` by name, at most B values each.
    """
    n, classes = scores.shape
    cells = labels * classes + predicted
    order = np.argsort(cells, kind="stable")  # by true class, then by predicted
    labels, scores, cells = labels[order], scores[order], cells[order]
    present, starts = np.unique(cells, return_index=True)
    scored = scored_classes(labels, scores)
    if n * len(scored) * FEWEST_RESAMPLES > MOST_SCORED:
        scored = []
    resamples = min(resamples, max(FEWEST_RESAMPLES, DRAWS // (n * max(1, len(scored)))))
    at_once = max(1, CELLS // max(n, classes))
    generator = np.random.default_rng(seed)
    counts, unit = np.bincount(labels, minlength=classes), slice(None)
    if groups is not None:
        counts, unit = _units(labels, np.asarray(groups)[order])
    drawn: dict[str, list[np.ndarray]] = {"balanced_accuracy": [], "f1": []}
    drawn |= {"auroc": []} if scored else {}
    drawn |= {"average_precision": []} if scored and classes == 2 else {}
    waiting: list[np.ndarray] = []  # weights to be scored together, so that each class is sorted only once for them
    for start in range(0, resamples, at_once):
        weights = draw(generator, min(at_once, resamples - start), counts)[:, unit]  # (B, n)
        cells = np.add.reduceat(weights, starts, axis=1)  # (B, pairs of a true and a predicted class)
        n, called = (_sum_by(cells, of, classes) for of in (present // classes, present % classes))  # (B, K)
        right = _sum_by(cells * (present // classes == present % classes), present // classes, classes)
        drawn["balanced_accuracy"].append(mean_ratio(right, n))
        drawn["f1"].append(mean_ratio(2 * right, n + called))
        waiting.append(weights)
        if start + at_once < resamples and (len(waiting) + 1) * weights.size <= CELLS:
            continue
        weights, waiting = np.concatenate(waiting), []
        if "auroc" in drawn:
            each = np.stack([weighted_auroc(labels == k, scores[:, k], weights) for k in scored])
            found = np.isfinite(each)
            with np.errstate(invalid="ignore"):
                drawn["auroc"].append(np.where(found, each, 0).sum(axis=0) / found.sum(axis=0))
        if "average_precision" in drawn:
            drawn["average_precision"].append(weighted_average_precision(labels == 1, scores[:, 1], weights))
    draws = {name: np.concatenate(parts) for name, parts in drawn.items()}
    return {name: values[np.isfinite(values)] for name, values in draws.items()}


def _sum_by(cells: np.ndarray, classes_of: np.ndarray, classes: int) -> np.ndarray:
    """Return the sums over the cells of each class, (B, cells), (cells,) -> (B, K)."""
    order = np.argsort(classes_of, kind="stable")
    found, starts = np.unique(classes_of[order], return_index=True)
    sums = np.zeros((len(cells), classes))
    sums[:, found] = np.add.reduceat(cells[:, order], starts, axis=1)
    return sums


def _units(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many groups are drawn from each class, and the unit of each image (n,), numbered by class.

    A group with images of several classes counts for the rarest of them, and is drawn whole.
    """
    rank = np.argsort(np.argsort(np.bincount(labels), kind="stable"), kind="stable")  # of each class, the rarest first
    numbers, group = np.unique(groups, return_inverse=True)
    rarest = np.full(len(numbers), len(rank))
    np.minimum.at(rarest, group, rank[labels])
    place = np.argsort(np.argsort(rarest, kind="stable"), kind="stable")  # (groups,)
    return np.bincount(rarest), place[group]


def _of_draws(drawn: np.ndarray | None) -> list[Interval]:
    """Return the percentile interval of a metric's draws (B,); with few draws, whose percentiles are rough, the normal one."""
    if drawn is None:
        return []
    tails = [1 - 0.975, 0.975]
    if len(drawn) < ENOUGH_FOR_PERCENTILES:
        return [Interval(*(float(drawn.mean() + drawn.std() * NormalDist().inv_cdf(tail)) for tail in tails))]
    return [Interval(*np.quantile(drawn, tails).tolist())]


def _overlapping(positive: np.ndarray, scores: np.ndarray) -> int:
    """Return how many images overlap: positives not above all negatives, or negatives not below all positives if fewer."""
    above, below = scores[positive], scores[~positive]
    return int(min((above <= below.max()).sum(), (below >= above.min()).sum()))


class FurtherMetric(NamedTuple):
    """Hold one of the user's own metrics."""

    value: float | None  # None if it is NaN or infinite
    interval: Interval | None  # None if resamples give none
    reason: str | None = None  # why one of the two is None


def further_metric(
    metric: Metric, labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None
) -> FurtherMetric:
    """Compute one of the user's own metrics with a percentile interval, stratified by class, that contains its value.

    The interval also contains the expanded percentile interval (Hesterberg 2015, Am. Stat. 69:371-386) with the bias of the
    draws removed: draws of m images have (m - 1) / m of their variance, and lie below the value about as far as it lies below
    the truth. As in `resample_metrics`, a group is drawn whole, also if it has images of several classes, which it makes alike.
    A draw in which a class is missing is skipped, because the metric may be undefined there.
    """
    labels, probabilities = checked(labels, probabilities)
    value = float(metric(labels.copy(), probabilities.copy()))  # it may change its arguments
    if not np.isfinite(value):
        return FurtherMetric(None, None, "is NaN or infinite")
    generator, n, drawn = np.random.default_rng(0), len(labels), []
    counts, unit = _units(labels, np.arange(n) if groups is None else groups)
    if (counts == 1).any():
        return FurtherMetric(
            value, None, "has no interval: a class has one image, or group, so its draws are all alike"
        )
    present, at_once = len(np.unique(labels)), max(1, CELLS // n)
    for start in range(0, FURTHER_RESAMPLES, at_once):
        for times in draw(generator, min(at_once, FURTHER_RESAMPLES - start), counts)[:, unit]:
            rows = np.repeat(np.arange(n), times)
            if groups is None or np.count_nonzero(np.bincount(labels[rows])) == present:
                drawn.append(float(metric(labels[rows], probabilities[rows])))
    if len(drawn) < FEWEST_RESAMPLES:
        return FurtherMetric(value, None, "has no interval: few draws of groups have images of all classes")
    if not np.isfinite(drawn).all():
        return FurtherMetric(value, None, "is NaN or infinite on a resample, so it has no interval")
    ends, center = np.quantile(drawn, [0.025, 0.975]), float(np.mean(drawn))
    low, high = ends.tolist()
    if low == high:
        return FurtherMetric(value, None, f"is {low:g} on every resample, so it has no interval")
    stretch = np.sqrt(np.mean(counts[counts > 1] / (counts[counts > 1] - 1)))
    expanded = np.clip(2 * value - center + stretch * (ends - center), min(drawn), max(drawn)).tolist()
    return FurtherMetric(value, Interval(min(low, expanded[0], value), max(high, expanded[1], value)))


def few_images(counts: Sequence[int], classes: list[str], further: Sequence[str] = ()) -> str | None:
    """Return a sentence about classes with so few images that no interval on them is sure to cover, or None.

    Args:
        further: names of the user's own metrics.
    """
    by_count = sorted(zip(classes, counts, strict=True), key=lambda each: each[1])  # if many, the rarest are named
    few = [f"{short_name(name)} ({count})" for name, count in by_count if 0 < count < FEW_IMAGES]
    if not few:
        return None
    metrics = join_words(["balanced accuracy", "F1", "AUROC", "average precision", *further])
    return f"few images of {join_words(few)}: intervals of {metrics} may cover less than 93%"


def draw(generator: np.random.Generator, resamples: int, counts: np.ndarray) -> np.ndarray:
    """Return how often each image is drawn, (B, n): from each class as many as it has; images are sorted by class."""
    lines, counts = np.arange(resamples)[:, None], counts[counts > 0]
    parts = [
        np.bincount((generator.integers(n, size=(resamples, n)) + n * lines).ravel(), minlength=resamples * n)
        for n in counts
    ]
    return np.concatenate([part.reshape(resamples, n) for part, n in zip(parts, counts, strict=True)], axis=1)
