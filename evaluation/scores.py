"""Figures from labels and probabilities in float64, and their bootstrap intervals.

n images, K classes, B resamples, G distinct scores. A confusion matrix has the true classes as rows.
"""

import numpy as np

from evaluation.intervals import Interval, accuracy_entry

CELLS = 4_000_000  # resamples x images held at a time, some tens of MB
DRAWS = 40_000_000  # resamples x images x classes scored, two seconds
FEWEST_RESAMPLES = 200


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall of the classes, of (..., K, K) counts with every class present (Brodersen et al. 2010, ICPR)."""
    confusion = np.asarray(confusion, dtype=np.float64)
    return (_diagonal(confusion) / confusion.sum(axis=-1)).mean(axis=-1)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean over the classes of 2 TP / (2 TP + FP + FN), of (..., K, K) counts with every class present."""
    confusion = np.asarray(confusion, dtype=np.float64)
    return (2 * _diagonal(confusion) / (confusion.sum(axis=-1) + confusion.sum(axis=-2))).mean(axis=-1)


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive image scores above a negative one, ties counting one half.

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
    """Mean over the classes of the AUROC of one against the rest; with two classes that of class 1.

    Args:
        labels: (n,) class indices.
        probabilities: (n, K).

    Raises:
        ValueError: a class is absent, or the shapes do not fit.
    """
    labels, probabilities = checked(labels, probabilities)
    return float(np.mean([auroc(labels == k, probabilities[:, k]) for k in _scored(probabilities)]))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Sum over thresholds of the gain in recall times the precision, without interpolation; ties are one threshold.

    Zhu 2004, Recall, Precision and Average Precision (Waterloo); shapes and errors as of `auroc`.
    """
    positive, scores = two_classes(labels, scores)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # (G,) the last of equal scores
    hits = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1])


def bootstrap_intervals(
    labels: np.ndarray, probabilities: np.ndarray, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of `balanced_accuracy`, `f1` and `auroc` (both macro), drawn within each class.

    Of two classes also of `average_precision`, with class 1 as the positive one.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13. Of many images or classes fewer resamples are
    drawn (`DRAWS` in all, never under 200 resamples). A class of one image does not vary.

    Args:
        labels: (n,) class indices.
        probabilities: (n, K).
        resamples: most of them.
        seed: of the draws.
        confidence: of each interval.

    Raises:
        ValueError: a class is absent, or the shapes do not fit.
    """
    labels, probabilities = checked(labels, probabilities)
    n, classes = probabilities.shape
    cells = labels * classes + probabilities.argmax(axis=1)
    order = np.argsort(cells, kind="stable")  # by true class, then by predicted
    labels, probabilities, cells = labels[order], probabilities[order], cells[order]
    present, starts = np.unique(cells, return_index=True)
    counts = np.bincount(labels, minlength=classes)
    if counts.min() == 0:
        raise ValueError(f"class {counts.argmin()} has no image; give images of every class")
    resamples = min(resamples, max(FEWEST_RESAMPLES, DRAWS // (n * len(_scored(probabilities)))))
    at_once = max(1, CELLS // max(n, classes * classes))
    generator = np.random.default_rng(seed)
    found = {"balanced_accuracy": [], "f1": [], "auroc": []} | ({"average_precision": []} if classes == 2 else {})
    for start in range(0, resamples, at_once):
        weights = _draw(generator, min(at_once, resamples - start), counts)  # (B, n)
        confusion = np.zeros((len(weights), classes * classes))
        confusion[:, present] = np.add.reduceat(weights, starts, axis=1)
        confusion = confusion.reshape(-1, classes, classes)
        found["balanced_accuracy"].append(balanced_accuracy(confusion))
        found["f1"].append(macro_f1(confusion))
        each = [_weighted_auroc(labels == k, probabilities[:, k], weights) for k in _scored(probabilities)]
        found["auroc"].append(np.mean(each, axis=0))
        if classes == 2:
            found["average_precision"].append(_weighted_average_precision(labels == 1, probabilities[:, 1], weights))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: Interval(*np.quantile(np.concatenate(parts), tails).tolist()) for name, parts in found.items()}


def per_class(confusion: np.ndarray, classes: list[str]) -> list[dict]:
    """Recall and precision of each class with Wilson's interval and counts, and its F1.

    None where there is nothing to measure: recall of a class without images, precision of one never predicted.

    Args:
        confusion: (K, K) counts.
        classes: K names.
    """
    confusion = np.asarray(confusion)
    lines = []
    for k, name in enumerate(classes):
        hits, n, called = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        lines.append(
            {
                "class": name,
                "n": n,
                "recall": accuracy_entry(hits, n) if n else None,
                "precision": accuracy_entry(hits, called) if called else None,
                "f1": 2 * hits / (n + called) if n + called else None,
            }
        )
    return lines


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and probabilities (n, K) in float64 that fit together.

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
    """Whether positive (bool) and scores (float64), (n,) each, that fit together.

    Raises:
        ValueError: they do not, or one of the classes is absent.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"labels and scores are needed one an image, not {positive.shape} and {scores.shape}")
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} positive of {len(positive)} images: give images of both classes")
    return positive, scores


def _scored(probabilities: np.ndarray) -> list[int]:
    """Classes of which the AUROC is taken: of two, both have the same."""
    return [1] if probabilities.shape[1] == 2 else list(range(probabilities.shape[1]))


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _draw(generator: np.random.Generator, resamples: int, counts: np.ndarray) -> np.ndarray:
    """How often each image is drawn, (B, n): as many of each class as it has; images sorted by class."""
    lines = np.arange(resamples)[:, None]
    parts = [
        np.bincount((generator.integers(n, size=(resamples, n)) + n * lines).ravel(), minlength=resamples * n)
        for n in counts
    ]
    return np.concatenate([part.reshape(resamples, n) for part, n in zip(parts, counts, strict=True)], axis=1)


def _weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of each line of weights, (B, n)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # (G,) the first of equal scores
    weights, positive = weights[:, order], positive[order]
    above = np.add.reduceat(weights * positive, starts, axis=1)  # (B, G) positives at each score
    below = np.add.reduceat(weights * ~positive, starts, axis=1)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    return pairs / (above.sum(axis=1) * below.sum(axis=1))


def _weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of each line of weights, (B, n)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    weights, positive = weights[:, order], positive[order]
    gained = np.add.reduceat(weights * positive, starts, axis=1)  # (B, G)
    hits = np.cumsum(gained, axis=1)
    called = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
    return (gained * hits / np.maximum(called, 1)).sum(axis=1) / hits[:, -1]
