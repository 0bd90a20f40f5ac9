"""Metrics from labels and probabilities in float64, and their bootstrap intervals.

n images, K classes, B resamples, G distinct scores. A confusion matrix has the true classes as rows.
Classes without images do not count: a mean over classes is over the others.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.run_record import ClassScores
from evaluation.intervals import Interval, proportion

CELLS = 4_000_000  # resamples x images held at a time, some tens of MB
DRAWS = 40_000_000  # resamples x images x classes scored, two seconds
FEWEST_RESAMPLES = 200
FURTHER_RESAMPLES = 400  # of a metric that takes one resample at a time

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
        ValueError: a class is absent, or the lengths differ.
    """
    positive, scores = two_classes(labels, scores)
    return float(_weighted_auroc(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean over the classes of the AUROC of one against the rest.

    The two of two classes differ only where float32 rounds many probabilities of one class to 1.

    Args:
        labels: (n,) class indices of two classes at least.
        probabilities: (n, K).

    Raises:
        ValueError: all images are of one class, or the shapes do not fit.
    """
    labels, probabilities = checked(labels, probabilities)
    return float(np.mean([auroc(labels == k, probabilities[:, k]) for k in np.unique(labels)]))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum over thresholds of the gain in recall times the precision, uninterpolated; ties are one threshold.

    Zhu 2004, Recall, Precision and Average Precision (Waterloo); shapes and errors as of `auroc`.
    """
    positive, scores = two_classes(labels, scores)
    return float(_weighted_average_precision(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def bootstrap_intervals(
    labels: np.ndarray, probabilities: np.ndarray, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Draw percentile intervals of `balanced_accuracy`, `f1` and `auroc` (both macro), stratified by class.

    With two classes also of `average_precision`, class 1 being the positive one. Where all images are of one class
    there are none of `auroc` and `average_precision`.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13. Of many images or classes fewer resamples are
    drawn (`DRAWS` in all, never under 200 resamples). A class of one image does not vary.

    Args:
        labels: (n,) class indices.
        probabilities: (n, K).
        resamples: at most.
        seed: of the draws.
        confidence: of each interval.

    Raises:
        ValueError: the shapes do not fit.
    """
    labels, probabilities = checked(labels, probabilities)
    n, classes = probabilities.shape
    cells = labels * classes + probabilities.argmax(axis=1)
    order = np.argsort(cells, kind="stable")  # by true class, then by predicted
    labels, probabilities, cells = labels[order], probabilities[order], cells[order]
    present, starts = np.unique(cells, return_index=True)
    counts = np.bincount(labels, minlength=classes)
    scored = _scored(labels, probabilities)
    resamples = min(resamples, max(FEWEST_RESAMPLES, DRAWS // (n * max(1, len(scored)))))
    at_once = max(1, CELLS // max(n, classes * classes))
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {"balanced_accuracy": [], "f1": []}
    drawn |= {"auroc": []} if scored else {}
    drawn |= {"average_precision": []} if scored and classes == 2 else {}
    for start in range(0, resamples, at_once):
        weights = draw(generator, min(at_once, resamples - start), counts)  # (B, n)
        confusion = np.zeros((len(weights), classes * classes))
        confusion[:, present] = np.add.reduceat(weights, starts, axis=1)
        confusion = confusion.reshape(-1, classes, classes)
        drawn["balanced_accuracy"].append(balanced_accuracy(confusion))
        drawn["f1"].append(macro_f1(confusion))
        if "auroc" in drawn:
            each = [_weighted_auroc(labels == k, probabilities[:, k], weights) for k in scored]
            drawn["auroc"].append(np.mean(each, axis=0))
        if "average_precision" in drawn:
            drawn["average_precision"].append(_weighted_average_precision(labels == 1, probabilities[:, 1], weights))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: Interval(*np.quantile(np.concatenate(parts), tails).tolist()) for name, parts in drawn.items()}


class FurtherMetric(NamedTuple):
    """Hold a metric of the user's own; None where it is NaN or infinite."""

    value: float | None
    interval: Interval | None


def further_metric(metric: Metric, labels: np.ndarray, probabilities: np.ndarray) -> FurtherMetric:
    """Compute a metric of the user's own with a percentile interval, stratified by class.

    Args:
        metric: labels (n,), probabilities (n, K) -> number.
        labels: (n,) class indices.
        probabilities: (n, K).
    """
    labels, probabilities = checked(labels, probabilities)
    value = float(metric(labels, probabilities))
    generator, drawn = np.random.default_rng(0), []
    of_class = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    for _ in range(FURTHER_RESAMPLES):
        rows = np.concatenate([generator.choice(rows, len(rows)) for rows in of_class])
        drawn.append(float(metric(labels[rows], probabilities[rows])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return FurtherMetric(
        value if np.isfinite(value) else None,
        Interval(float(low), float(high)) if np.isfinite([low, high]).all() else None,
    )


def per_class(confusion: np.ndarray, classes: list[str]) -> list[ClassScores]:
    """Score each class against the rest.

    Args:
        confusion: (K, K) counts.
        classes: K names.
    """
    scores = []
    for k, name in enumerate(classes):
        hits, n, predicted = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        scores.append(
            ClassScores(
                name=name,
                n=n,
                recall=proportion(hits, n) if n else None,
                precision=proportion(hits, predicted) if predicted else None,
                f1=2 * hits / (n + predicted) if n + predicted else None,
            )
        )
    return scores


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and probabilities (n, K) in float64 that fit together.

    Raises:
        ValueError: they do not.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"labels (n,) and probabilities (n, classes) are needed, not {labels.shape}, {probabilities.shape}"
        )
    if not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError(f"labels lie in 0 to {probabilities.shape[1] - 1}, not {labels.min()} to {labels.max()}")
    return labels, probabilities


def two_classes(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether positive (bool) and scores (float64), (n,) each, that fit together.

    Raises:
        ValueError: they do not, or one of the classes is absent.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"labels and scores are needed one an image, not {positive.shape} and {scores.shape}")
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} positive of {len(positive)} images: give images of both classes")
    return positive, scores


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
    above = np.add.reduceat(weights * positive, starts, axis=1)  # (B, G) positives at each score
    below = np.add.reduceat(weights * ~positive, starts, axis=1)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    return pairs / (above.sum(axis=1) * below.sum(axis=1))


def _weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of each line of weights: (B, n) -> (B,)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    weights, positive = weights[:, order], positive[order]
    gained = np.add.reduceat(weights * positive, starts, axis=1)  # (B, G)
    hits = np.cumsum(gained, axis=1)
    called = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
    return (gained * hits / np.maximum(called, 1)).sum(axis=1) / hits[:, -1]
