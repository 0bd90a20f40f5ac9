"""Metrics from labels, probabilities and logits, in float64; evaluation/estimates.py adds their intervals.

n images, K classes, B resamples, G distinct scores. Labels are (n,) class indices, probabilities (n, K). A confusion matrix has
the true classes as rows.
Classes without images do not count in means over classes, except in macro F1 if they were predicted.
"""

import numpy as np
from scipy.special import logsumexp

from common.run_record import ClassScores, Confused
from evaluation.intervals import proportion

SMALLEST = np.nextafter(0.0, 1.0)  # replaces 0, whose logarithm is infinite
MOST_IN_MATRIX = 100  # classes of a matrix in a record; with a thousand it would take megabytes
MOST_CONFUSED = 50  # pairs of classes in a record
LOG_HALF = np.log(0.5)


def count_confusion(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Count the images of each true (rows) and predicted (columns) class: (n,), (n,) indices -> (K, K)."""
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes (Brodersen et al. 2010, ICPR): (..., K, K) counts -> (...)."""
    confusion = np.asarray(confusion, dtype=np.float64)
    return mean_ratio(_diagonal(confusion), confusion.sum(axis=-1))


def macro_f1(confusion: np.ndarray, together: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over the classes of 2 TP / (2 TP + FP + FN): (..., K, K) counts -> (...).

    A class without images that was predicted has an F1 of 0.

    Args:
        together: (K,) bool: classes that all get the F1 of their images together. With few images each F1 is too low on
            average: a false positive costs a class with one image that is right more than one whose image is wrong.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    right, both = 2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2)
    if together is not None:
        for each in (right, both):
            each[..., together] = each[..., together].mean(axis=-1, keepdims=True)
    return mean_ratio(right, both)


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
    return float(weighted_auroc(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray, logits: np.ndarray | None = None) -> float:
    """Return the mean over the classes of the one-against-rest AUROC; with two classes both are the same.

    Args:
        logits: (n, K), for `ranking_scores`; None: only the probabilities are known.

    Raises:
        ValueError: all images are of one class, or the shapes do not match.
    """
    labels, probabilities = checked(labels, probabilities)
    scores = ranking_scores(probabilities, logits)
    scored = scored_classes(labels, probabilities) or [int(labels[0])]
    return float(np.mean([auroc(labels == k, scores[:, k]) for k in scored]))


def ranking_scores(probabilities: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
    """Return log odds of each class against the rest, (n, K) float64, which rank images for AUROC and average precision.

    From logits z: z_k - logsumexp of the others, which still differ where float32 probabilities are all 1, from a difference of
    17 on. Without logits: log p - log(1 - p); with two classes 1 - p is the probability of the other one.

    Raises:
        ValueError: logits of another shape, NaN or infinite.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if logits is None:
        logs = np.log(np.maximum(p, SMALLEST))
        return logs - (logs[:, ::-1] if p.shape[1] == 2 else np.log(np.maximum(1 - p, SMALLEST)))
    z = np.asarray(logits, dtype=np.float64)
    if z.shape != p.shape:
        raise ValueError(f"logits need the shape of the probabilities, {p.shape}, not {z.shape}")
    _refuse_not_finite(z, "logits")
    if p.shape[1] == 2:
        return z - z[:, ::-1]
    total, largest = logsumexp(z, axis=1, keepdims=True), z.argmax(axis=1)[:, None]
    without = z.copy()
    np.put_along_axis(without, largest, -np.inf, axis=1)
    # a class that is not the largest has a probability of at most 1/2, so 1 - p loses no digits
    below = total + np.log1p(-np.exp(np.minimum(without - total, LOG_HALF)))
    np.put_along_axis(below, largest, logsumexp(without, axis=1, keepdims=True), axis=1)
    return z - below


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum over thresholds of the gain in recall times the precision, uninterpolated; ties are one threshold.

    Zhu 2004, Recall, Precision and Average Precision (Waterloo); shapes and errors as of `auroc`.
    """
    positive, scores = two_classes(labels, scores)
    return float(weighted_average_precision(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def per_class(
    confusion: np.ndarray,
    classes: list[str],
    of_recall: np.ndarray | None = None,
    of_precision: np.ndarray | None = None,
) -> list[ClassScores]:
    """Score each class against the rest.

    Args:
        of_recall: `class_effects` of images in groups, for the true classes; None: each image is its own.
        of_precision: the same for the predicted classes.
    """
    scores = []
    effects = (np.ones(len(classes)) if each is None else each for each in (of_recall, of_precision))
    columns = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), *effects
    for name, hits, n, predicted, wider, wider_precision in zip(classes, *(c.tolist() for c in columns), strict=True):
        scores.append(
            ClassScores(
                name=name,
                n=n,
                recall=proportion(hits, n, wider) if n else None,
                precision=proportion(hits, predicted, wider_precision) if predicted else None,
                f1=2 * hits / (n + predicted) if n + predicted else None,
            )
        )
    return scores


def most_confused(confusion: np.ndarray, classes: list[str], most: int = MOST_CONFUSED) -> list[Confused]:
    """Return the most frequent confusions of (K, K) counts; ties keep the order of the matrix."""
    others = np.array(confusion)
    np.fill_diagonal(others, 0)
    rows, columns = np.nonzero(others)
    first = np.argsort(-others[rows, columns], kind="stable")[:most]
    return [
        Confused(label=classes[i], predicted=classes[j], n=int(others[i, j]))
        for i, j in zip(rows[first], columns[first], strict=True)
    ]


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and float64 probabilities (n, K), checked to match.

    Raises:
        ValueError: they do not match, or probabilities are NaN or infinite.
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
    """Return labels as bool (True: positive) and scores as float64, (n,) each, checked to match.

    Raises:
        ValueError: they do not match, one of the classes is absent, or scores are NaN or infinite.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"one label and one score per image are needed, not {positive.shape} and {scores.shape}")
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} positive of {len(positive)} images: give images of both classes")
    _refuse_not_finite(scores, "scores")
    return positive, scores


def _refuse_not_finite(values: np.ndarray, name: str) -> None:
    wrong = int((~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).sum())
    if wrong:
        raise ValueError(f"{name} must be finite, but are NaN or infinite for {wrong:,} of {len(values):,} images")


def scored_classes(labels: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Return the classes whose AUROC is resampled: those with images, if several have some; of two classes the second."""
    present = np.unique(labels).tolist()
    if len(present) < 2:
        return []
    return [1] if probabilities.shape[1] == 2 else present


def mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return the mean of parts / wholes over the last axis, excluding those with a whole of 0."""
    ratios = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    return ratios.sum(axis=-1) / (wholes > 0).sum(axis=-1)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of each line of weights: (B, n) -> (B,)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # (G,) the first of equal scores
    weights, positive = weights[:, order], positive[order]
    above = _sum_equal(weights * positive, starts)  # (B, G) positives at each score
    below = _sum_equal(weights * ~positive, starts)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    of = above.sum(axis=1) * below.sum(axis=1)
    return np.divide(pairs, of, out=np.full(len(pairs), np.nan), where=of > 0)


def _sum_equal(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sums over equal scores, (B, n) -> (B, G)."""
    return weights if len(starts) == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of each line of weights: (B, n) -> (B,)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    weights, positive = weights[:, order], positive[order]
    gained = _sum_equal(weights * positive, starts)  # (B, G)
    hits = np.cumsum(gained, axis=1)
    called = np.cumsum(_sum_equal(weights, starts), axis=1)
    total, positives = (gained * hits / np.maximum(called, 1)).sum(axis=1), hits[:, -1]
    return np.divide(total, positives, out=np.full(len(total), np.nan), where=positives > 0)
