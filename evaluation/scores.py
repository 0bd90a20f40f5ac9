"""Metrics from labels, probabilities and logits in float64, and their intervals.

n images, K classes, B resamples, G distinct scores. A confusion matrix has the true classes as rows.
Classes without images do not count: a mean over classes is over the others.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from common.run_record import ClassScores
from common.text import join_words
from evaluation.intervals import Interval, design_effect, proportion
from evaluation.score_intervals import (
    auroc_model,
    confusion_interval,
    f1_derivatives,
    recall_derivatives,
    scaled_interval,
    unite,
)

CELLS = 4_000_000  # resamples x images held at a time, some tens of MB
DRAWS = 40_000_000  # resamples x images x classes scored, two seconds
FEWEST_RESAMPLES = 200
FEW_IMAGES = 4
ENOUGH_FOR_PERCENTILES = 1000
LOG_HALF = np.log(0.5)
SMALLEST = np.nextafter(0.0, 1.0)  # in place of 0, whose logarithm is infinite
FURTHER_RESAMPLES = 1000  # of a metric that takes one resample at a time

Metric = Callable[[np.ndarray, np.ndarray], float]  # labels (n,), probabilities (n, K)


def count_confusion(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Count the images of each true (rows) and predicted (columns) class: (n,), (n,) indices -> (K, K)."""
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes (Brodersen et al. 2010, ICPR): (..., K, K) counts -> (...)."""
    confusion = np.asarray(confusion, dtype=np.float64)
    return _mean_ratio(_diagonal(confusion), confusion.sum(axis=-1))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the mean over the classes of 2 TP / (2 TP + FP + FN): (..., K, K) counts -> (...).

    A class without images that was predicted has an F1 of 0.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    return _mean_ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the probability that a positive image scores above a negative one, ties counting one half.

    Mann & Whitney 1947, Ann. Math. Stat. 18:50-60; Hanley & McNeil 1982, Radiology 143:29-36.

    Args:
        labels: (n,) 1 positive, 0 negative.
        scores: (n,) higher means more positive.

    Raises:
        ValueError: a class is absent, the lengths differ, or scores are NaN or infinite.
    """
    positive, scores = two_classes(labels, scores)
    return float(_weighted_auroc(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray, logits: np.ndarray | None = None) -> float:
    """Return the mean over the classes of the AUROC of one against the rest; of two classes both are the same.

    Args:
        labels: (n,) class indices of two classes at least.
        probabilities: (n, K).
        logits: (n, K), of which `ranking_scores` are made; None where only the probabilities are known.

    Raises:
        ValueError: all images are of one class, or the shapes do not fit.
    """
    labels, probabilities = checked(labels, probabilities)
    scores = ranking_scores(probabilities, logits)
    scored = _scored(labels, probabilities) or [int(labels[0])]
    return float(np.mean([auroc(labels == k, scores[:, k]) for k in scored]))


def ranking_scores(probabilities: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
    """Return log odds of each class against the rest, (n, K) float64, by which AUROC and average precision rank images.

    Of logits z: z_k - logsumexp of the others, where probabilities in float32 are all 1 from a difference of 17 on. Without
    logits log p - log(1 - p), of two classes with the probability of the other one for 1 - p.

    Args:
        probabilities: (n, K).
        logits: (n, K) or None.

    Raises:
        ValueError: logits of another shape, NaN or infinite.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if logits is None:
        logs = np.log(np.maximum(p, SMALLEST))
        return logs - (logs[:, ::-1] if p.shape[1] == 2 else np.log(np.maximum(1 - p, SMALLEST)))
    z = np.asarray(logits, dtype=np.float64)
    if z.shape != p.shape:
        raise ValueError(f"logits are needed as probabilities are, {p.shape}, not {z.shape}")
    _refuse_not_finite(z, "logits")
    if p.shape[1] == 2:
        return z - z[:, ::-1]
    total, largest = logsumexp(z, axis=1, keepdims=True), z.argmax(axis=1)[:, None]
    without = z.copy()
    np.put_along_axis(without, largest, -np.inf, axis=1)
    below = total + np.log1p(
        -np.exp(np.minimum(without - total, LOG_HALF))
    )  # a class that is not the largest has 1/2 at most
    np.put_along_axis(below, largest, logsumexp(without, axis=1, keepdims=True), axis=1)
    return z - below


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum over thresholds of the gain in recall times the precision, uninterpolated; ties are one threshold.

    Zhu 2004, Recall, Precision and Average Precision (Waterloo); shapes and errors as of `auroc`.
    """
    positive, scores = two_classes(labels, scores)
    return float(_weighted_average_precision(positive, scores, np.ones((1, len(scores)), np.int64))[0])


class Estimate(NamedTuple):
    """A metric and its interval, which holds it."""

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
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Estimate `balanced_accuracy`, `f1` and `auroc` (both macro), with two classes also `average_precision` of class 1.

    An interval holds the value, a score interval (evaluation/score_intervals.py) and the percentiles of a bootstrap stratified
    by class (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13): near a value of 1 or with few images of
    a class the bootstrap is too narrow, and in between a score interval is at times. Where all images are of one class
    there are no `auroc` and `average_precision`.

    Of many images or classes fewer resamples are drawn (`DRAWS` in all, never under 200 resamples); fewer than 1,000 give
    their mean and standard deviation to a normal distribution in place of percentiles.

    Args:
        labels: (n,) class indices.
        probabilities: (n, K).
        logits: (n, K), or None where they are not known; see `ranking_scores`.
        groups: (n,) group numbers: whole groups are drawn, and a score interval is that of n / design effect images. None
            where each image is its own.
        resamples: at most.
        seed: of the draws.
        confidence: of each interval.

    Raises:
        ValueError: the shapes do not fit, or values are NaN or infinite.
    """
    labels, probabilities = checked(labels, probabilities)
    scores, scored = ranking_scores(probabilities, logits), _scored(labels, probabilities)
    predicted, k = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = count_confusion(labels, predicted, k)
    effect = design_effect(predicted == labels, groups)
    drawn = resample_metrics(labels, predicted, scores, groups, resamples, seed)
    closed = {
        "balanced_accuracy": (
            balanced_accuracy(confusion),
            confusion_interval(confusion / effect, recall_derivatives, confidence),
        ),
        "f1": (macro_f1(confusion), confusion_interval(confusion / effect, f1_derivatives, confidence)),
    }
    if scored:
        sides = [(labels == j, scores[:, j]) for j in scored]
        informative = sum(_overlapping(*side) for side in sides) / effect
        counts = np.unique(labels, return_counts=True)[1] / effect
        ranked = {"auroc": macro_auroc(labels, probabilities, logits)}
        models = {"auroc": auroc_model(ranked["auroc"], counts)}
        if k == 2:
            ranked["average_precision"] = average_precision(*sides[0])
            models["average_precision"] = 1 / counts[1]  # Boyd, Eng & Page 2013, ECML PKDD, sec. 3.2
        closed |= {
            name: (value, scaled_interval(value, float(drawn[name].var()), models[name], informative, confidence))
            for name, value in ranked.items()
        }
    return {
        name: Estimate(float(value), unite(float(value), interval, _of_draws(drawn[name], confidence)))
        for name, (value, interval) in closed.items()
    }


def resample_metrics(
    labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray, groups: np.ndarray | None, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw resamples of the images of each class, or of its groups, and compute every metric of each.

    Args:
        labels: (n,) class indices.
        predicted: (n,) class indices.
        scores: (n, K) `ranking_scores`.
        groups: (n,) group numbers or None.
        resamples: at most.
        seed: of the draws.

    Returns:
        The metrics of `estimate_metrics` by name, (B,) each.
    """
    n, classes = scores.shape
    cells = labels * classes + predicted
    order = np.argsort(cells, kind="stable")  # by true class, then by predicted
    labels, scores, cells = labels[order], scores[order], cells[order]
    present, starts = np.unique(cells, return_index=True)
    scored = _scored(labels, scores)
    resamples = min(resamples, max(FEWEST_RESAMPLES, DRAWS // (n * max(1, len(scored)))))
    at_once = max(1, CELLS // max(n, classes * classes))
    generator = np.random.default_rng(seed)
    units, unit = np.arange(n), slice(None)
    if groups is not None:  # the part of a group that is in one class; sorted by class
        units, unit = np.unique(np.stack([labels, np.asarray(groups)[order]]), axis=1, return_inverse=True)
        units, unit = units[0], unit.ravel()
    counts = np.bincount(labels if groups is None else units, minlength=classes)
    drawn: dict[str, list[np.ndarray]] = {"balanced_accuracy": [], "f1": []}
    drawn |= {"auroc": []} if scored else {}
    drawn |= {"average_precision": []} if scored and classes == 2 else {}
    for start in range(0, resamples, at_once):
        weights = draw(generator, min(at_once, resamples - start), counts)[:, unit]  # (B, n)
        confusion = np.zeros((len(weights), classes * classes))
        confusion[:, present] = np.add.reduceat(weights, starts, axis=1)
        confusion = confusion.reshape(-1, classes, classes)
        drawn["balanced_accuracy"].append(balanced_accuracy(confusion))
        drawn["f1"].append(macro_f1(confusion))
        if "auroc" in drawn:
            each = [_weighted_auroc(labels == k, scores[:, k], weights) for k in scored]
            drawn["auroc"].append(np.mean(each, axis=0))
        if "average_precision" in drawn:
            drawn["average_precision"].append(_weighted_average_precision(labels == 1, scores[:, 1], weights))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _of_draws(drawn: np.ndarray, confidence: float) -> Interval:
    """Return the percentile interval of the draws (B,) of a metric; of few, whose percentiles are rough, the normal one."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    if len(drawn) < ENOUGH_FOR_PERCENTILES:
        return Interval(*(float(drawn.mean() + drawn.std() * NormalDist().inv_cdf(tail)) for tail in tails))
    return Interval(*np.quantile(drawn, tails).tolist())


def _overlapping(positive: np.ndarray, scores: np.ndarray) -> int:
    """Return how many images the classes overlap by: positives not above all negatives, or negatives so, the fewer."""
    above, below = scores[positive], scores[~positive]
    return int(min((above <= below.max()).sum(), (below >= above.min()).sum()))


class FurtherMetric(NamedTuple):
    """Hold a metric of the user's own."""

    value: float | None  # None where it is NaN or infinite
    interval: Interval | None  # None where resamples give none
    reason: str | None = None  # why one of the two is None


def further_metric(
    metric: Metric, labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None
) -> FurtherMetric:
    """Compute a metric of the user's own with a percentile interval, stratified by class, that holds its value.

    Args:
        metric: labels (n,), probabilities (n, K) -> number.
        labels: (n,) class indices.
        probabilities: (n, K).
        groups: (n,) group numbers, of which whole ones are drawn; None where each image is its own.
    """
    labels, probabilities = checked(labels, probabilities)
    value = float(metric(labels, probabilities))
    if not np.isfinite(value):
        return FurtherMetric(None, None, "is NaN or infinite")
    generator, drawn = np.random.default_rng(0), []
    of_class = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    for _ in range(FURTHER_RESAMPLES):
        rows = np.concatenate([_draw_rows(generator, rows, groups) for rows in of_class])
        drawn.append(float(metric(labels[rows], probabilities[rows])))
    if not np.isfinite(drawn).all():
        return FurtherMetric(value, None, "is NaN or infinite on a resample, so that it has no interval")
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    if low == high:
        return FurtherMetric(value, None, f"is {low:g} on every resample, so that it has no interval")
    return FurtherMetric(value, Interval(min(low, value), max(high, value)))


def _draw_rows(generator: np.random.Generator, rows: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Draw as many rows as there are, or as many of their groups."""
    if groups is None:
        return generator.choice(rows, len(rows))
    numbers, group = np.unique(groups[rows], return_inverse=True)
    return np.concatenate([rows[group == g] for g in generator.integers(len(numbers), size=len(numbers))])


def few_images(confusion: np.ndarray, classes: list[str]) -> str | None:
    """Return a sentence about classes of so few images that no interval of theirs is sure to cover, or None.

    Args:
        confusion: (K, K) counts.
        classes: K names.
    """
    n = np.asarray(confusion).sum(axis=1)
    few = [f"{name} ({count})" for name, count in zip(classes, n.tolist(), strict=True) if 0 < count < FEW_IMAGES]
    if not few:
        return None
    return f"few images of {join_words(few)}: intervals of macro F1 and average precision may cover less than 93%"


def per_class(confusion: np.ndarray, classes: list[str], effect: float = 1.0) -> list[ClassScores]:
    """Score each class against the rest.

    Args:
        confusion: (K, K) counts.
        classes: K names.
        effect: `design_effect` of images in groups.
    """
    scores = []
    for k, name in enumerate(classes):
        hits, n, predicted = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        scores.append(
            ClassScores(
                name=name,
                n=n,
                recall=proportion(hits, n, effect) if n else None,
                precision=proportion(hits, predicted, effect) if predicted else None,
                f1=2 * hits / (n + predicted) if n + predicted else None,
            )
        )
    return scores


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and probabilities (n, K) in float64 that fit together.

    Raises:
        ValueError: they do not, or probabilities are NaN or infinite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"labels (n,) and probabilities (n, classes) are needed, not {labels.shape}, {probabilities.shape}"
        )
    if not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError(f"labels lie in 0 to {probabilities.shape[1] - 1}, not {labels.min()} to {labels.max()}")
    _refuse_not_finite(probabilities, "probabilities")
    return labels, probabilities


def two_classes(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether positive (bool) and scores (float64), (n,) each, that fit together.

    Raises:
        ValueError: they do not, one of the classes is absent, or scores are NaN or infinite.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"labels and scores are needed one an image, not {positive.shape} and {scores.shape}")
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} positive of {len(positive)} images: give images of both classes")
    _refuse_not_finite(scores, "scores")
    return positive, scores


def _refuse_not_finite(values: np.ndarray, name: str) -> None:
    wrong = int((~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).sum())
    if wrong:
        raise ValueError(f"{name} have to be finite, and are NaN or infinite of {wrong:,} of {len(values):,} images")


def _scored(labels: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Return the classes whose AUROC is resampled: those with images where others have some too; of two the second."""
    present = np.unique(labels).tolist()
    if len(present) < 2:
        return []
    return [1] if probabilities.shape[1] == 2 else present


def _mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return the mean of parts / wholes over the last axis, without those whose whole is 0."""
    ratios = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    return ratios.sum(axis=-1) / (wholes > 0).sum(axis=-1)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def draw(generator: np.random.Generator, resamples: int, counts: np.ndarray) -> np.ndarray:
    """Return how often each image is drawn, (B, n): as many of each class as it has; images sorted by class."""
    lines, counts = np.arange(resamples)[:, None], counts[counts > 0]
    parts = [
        np.bincount((generator.integers(n, size=(resamples, n)) + n * lines).ravel(), minlength=resamples * n)
        for n in counts
    ]
    return np.concatenate([part.reshape(resamples, n) for part, n in zip(parts, counts, strict=True)], axis=1)


def _weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of each line of weights: (B, n) -> (B,)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # (G,) the first of equal scores
    weights, positive = weights[:, order], positive[order]
    above = _sum_equal(weights * positive, starts)  # (B, G) positives at each score
    below = _sum_equal(weights * ~positive, starts)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    return pairs / (above.sum(axis=1) * below.sum(axis=1))


def _sum_equal(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sums over equal scores, (B, n) -> (B, G)."""
    return weights if len(starts) == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)


def _weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of each line of weights: (B, n) -> (B,)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    weights, positive = weights[:, order], positive[order]
    gained = _sum_equal(weights * positive, starts)  # (B, G)
    hits = np.cumsum(gained, axis=1)
    called = np.cumsum(_sum_equal(weights, starts), axis=1)
    return (gained * hits / np.maximum(called, 1)).sum(axis=1) / hits[:, -1]
