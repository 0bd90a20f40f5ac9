"""Measure how good a cut is without training it: logistic regression on its pooled features.

Linear probes: Alain & Bengio 2016, arXiv:1610.01644.

Shapes: N images, C features, K classes.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from common.smallest_record import Measured, Metric
from datamodules.splits import assign_folds
from evaluation.intervals import design_effect, wilson
from evaluation.scores import balanced_accuracy, count_confusion

STRENGTHS = 10.0 ** np.arange(-3, 2.5, 0.5)  # scikit-learn's C, the inverse of the strength: strongest first
PATIENCE = 2  # strengths in a row without a smaller loss, after which the search ends
INNER_FOLDS = 3  # of the training images, to choose the strength
MUCH = 2e7  # N x C x K from which only every second strength and one inner fold are tried, as in a cross-validation
ITERATIONS = 300


class Part(NamedTuple):
    """The images that a probe is fitted to and those that it predicts, as indices into all images."""

    train: np.ndarray
    val: np.ndarray


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    parts: Sequence[Part],
    *,
    classes: int,
    metric: Metric,
    groups: np.ndarray | None = None,
) -> Measured:
    """Fit a probe to the training images of each part, predict the part's other images, and return the metric over all parts.

    The strength of the regularization is chosen within the training images. For balanced accuracy, each class has equal weight.

    Args:
        features: (N, C).
        labels: (N,) from 0 to `classes` - 1.
        parts: one part, train and val; or the folds of a cross-validation, each of which predicts its own images.
        classes: K.
        metric: computed over all predictions.
        groups: (N,) numbers; a group is never divided to choose the strength, and groups widen the interval. None: each image
            is a group.
    """
    balanced = metric == "balanced_accuracy"
    val = np.concatenate([part.val for part in parts])
    thorough = len(parts) == 1
    # Steps this small gain nothing from a second BLAS thread, and on a busy machine they wait for it: 0.3 s became 6 to 24
    with threadpool_limits(1, user_api="blas"):
        predicted = np.concatenate([_predict(features, labels, part, balanced, groups, thorough) for part in parts])
    correct = predicted == labels[val]
    if balanced:
        value = float(balanced_accuracy(count_confusion(labels[val], predicted, classes)))
        return Measured(value=value, n=len(val))
    effect = design_effect(correct, None if groups is None else groups[val])
    low, high = wilson(correct.sum() / effect, len(val) / effect)
    return Measured(value=float(correct.mean()), low=low, high=high, n=len(val))


def _predict(
    features: np.ndarray, labels: np.ndarray, part: Part, balanced: bool, groups: np.ndarray | None, thorough: bool
) -> np.ndarray:
    """Fit a probe to the training images of a part; return the classes it predicts for the other images."""
    x, y = _standardized(features, part), labels[part.train]
    if len(np.unique(y)) < 2:
        return np.full(len(part.val), y[0])
    x, others = x[: len(y)], x[len(y) :]
    inner = assign_folds(y, INNER_FOLDS, 0, None if groups is None else groups[part.train])
    strength = _choose_strength(x, y, inner, balanced, thorough)
    return _fit(_model(balanced, strength), x, y).predict(others)


def _standardized(features: np.ndarray, part: Part) -> np.ndarray:
    """Return the features of train, then val, standardized to mean 0 and deviation 1 over train.

    Where there are more features than training images, a rotation reduces them to the number of images. This does not change
    the result: with an L2 penalty, the weights lie in the space that the images span.
    """
    x = features[np.concatenate([part.train, part.val])].astype(np.float64)
    of_train = x[: len(part.train)]
    deviation = of_train.std(0)
    x = (x - of_train.mean(0)) / np.where(deviation > 1e-6 * np.abs(of_train).max(0), deviation, np.inf)
    if x.shape[1] > len(part.train):
        x = x @ np.linalg.svd(x[: len(part.train)], full_matrices=False)[2].T
    return x


def _choose_strength(x: np.ndarray, y: np.ndarray, inner: np.ndarray, balanced: bool, thorough: bool) -> float:
    """Return the strength with the smallest log loss on images that an inner probe has not seen; the stronger in a tie."""
    thorough &= x.size * len(np.unique(y)) <= MUCH
    folds = [inner == fold for fold in range(INNER_FOLDS if thorough else 1)]
    folds = [fold for fold in folds if fold.any() and len(np.unique(y[~fold])) > 1]
    models = [_model(balanced) for _ in folds]
    strengths = STRENGTHS[:: 1 if thorough else 2]
    weights = (1 / np.bincount(y).clip(1))[y] if balanced else np.ones(len(y))
    best, chosen, since = np.inf, strengths[len(strengths) // 2], 0
    for strength in strengths if folds else ():
        loss = 0.0
        for fold, model in zip(folds, models, strict=True):
            model.C = strength
            loss += float(weights[fold] @ _log_loss(_fit(model, x[~fold], y[~fold]), x[fold], y[fold]))
        since = 0 if loss < best else since + 1
        if since == 0:
            best, chosen = loss, strength
        elif since == PATIENCE:
            break
    return float(chosen)


def _model(balanced: bool, strength: float = 1.0) -> LogisticRegression:
    weight = "balanced" if balanced else None
    return LogisticRegression(C=strength, warm_start=True, max_iter=ITERATIONS, class_weight=weight)


def _fit(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that has not quite converged still predicts
        warnings.filterwarnings("ignore", "The number of unique classes")  # many classes with few images
        return model.fit(x, y)


def _log_loss(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return -log p of the true classes, (N,); a class unknown to the model counts as p = 1e-6."""
    scores = model.decision_function(x)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    places = np.searchsorted(model.classes_, y).clip(max=len(model.classes_) - 1)
    known = model.classes_[places] == y
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), places]
    return np.where(known, losses, -np.log(1e-6))
