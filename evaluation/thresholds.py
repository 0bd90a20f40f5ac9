"""Two classes and a threshold on the probability of the positive one: its choice, and what it gives. n images."""

import numpy as np

from evaluation.intervals import accuracy_entry
from evaluation.scores import two_classes

CRITERIA = ("accuracy", "balanced_accuracy", "f1", "cost")


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict:
    """What two classes get where a score of at least `threshold` is called positive.

    Args:
        labels: (n,) 1 positive, 0 negative.
        scores: (n,) probability of the positive class.
        threshold: as from `choose_threshold`.

    Returns:
        accuracy, sensitivity, specificity and precision with Wilson's interval and counts, precision None where
        nothing is called positive; balanced_accuracy; f1 of the positive class.

    Raises:
        ValueError: a class is absent, or the lengths differ.
    """
    positive, scores = two_classes(labels, scores)
    called = scores >= threshold
    hits, called_n, positives, n = (
        int(x) for x in ((called & positive).sum(), called.sum(), positive.sum(), len(scores))
    )
    negatives = n - positives
    rejected = negatives - (called_n - hits)
    return {
        "threshold": float(threshold),
        "accuracy": accuracy_entry(hits + rejected, n),
        "sensitivity": accuracy_entry(hits, positives),
        "specificity": accuracy_entry(rejected, negatives),
        "precision": accuracy_entry(hits, called_n) if called_n else None,
        "balanced_accuracy": (hits / positives + rejected / negatives) / 2,
        "f1": 2 * hits / (positives + called_n),
    }


def choose_threshold(labels: np.ndarray, scores: np.ndarray, criterion: str, false_negative_cost: float = 1.0) -> float:
    """The threshold that is best on these images, to be measured on others; of equals the one nearest to 0.5.

    Candidates lie halfway between neighboring scores; 0 calls every image positive, the smallest number above 1
    none.

    Args:
        labels: (n,) 1 positive, 0 negative.
        scores: (n,) probability of the positive class, 0 to 1.
        criterion: accuracy, balanced_accuracy, f1 (of the positive class) or cost.
        false_negative_cost: with cost, what a missed positive costs in false alarms.

    Raises:
        ValueError: another criterion, a ratio that is not above 0, or labels and scores as of `auroc`.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r}; use {', '.join(CRITERIA)}")
    if not 0 < false_negative_cost < np.inf:
        raise ValueError(
            f"false_negative_cost={false_negative_cost}; use what a missed positive costs in false alarms, e.g. 5"
        )
    positive, scores = two_classes(labels, scores)
    distinct, group = np.unique(scores, return_inverse=True)
    middles = (distinct[:-1] + distinct[1:]) / 2
    middles = np.where(middles > distinct[:-1], middles, distinct[1:])  # of neighboring floats there is no middle
    thresholds = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])  # (G + 1,)
    below_positive = np.bincount(group, weights=positive, minlength=len(distinct))
    below_negative = np.bincount(group, weights=~positive, minlength=len(distinct))
    missed = np.append(0, np.cumsum(below_positive))  # positives below each threshold
    rejected = np.append(0, np.cumsum(below_negative))
    positives, negatives = missed[-1], rejected[-1]
    hits, alarms = positives - missed, negatives - rejected
    value = {
        "accuracy": hits + rejected,
        "balanced_accuracy": hits / positives + rejected / negatives,
        "f1": 2 * hits / (positives + hits + alarms),
        "cost": -(false_negative_cost * missed + alarms),
    }[criterion]
    best = thresholds[value >= value.max() - 1e-12 * max(1.0, abs(value.max()))]
    return float(best[np.abs(best - 0.5).argmin()])
