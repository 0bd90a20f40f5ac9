"""How well a cut does as it is: logistic regression on its pooled features.

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

STRENGTHS = 10.0 ** np.arange(-3, 2.5, 0.5)  # scikit-learn's C, the inverse of the strength: the strongest one first
PATIENCE = 2  # of them in a row without a smaller loss end the path
INNER_FOLDS = 3  # of the training images, to choose the strength
MUCH = 2e7  # N x C x K, from which on every second strength and one inner fold have to do, as in a cross-validation
ITERATIONS = 300


class Part(NamedTuple):
    """Say which images a probe is fitted to and which it predicts, by their places among all."""

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
    """Return what probes that are fitted to the training images of each part give on its others, all parts together.

    The strength of the regression is chosen within the training images. For balanced accuracy each class weighs the same.

    Args:
        features: (N, C).
        labels: (N,) from 0 to `classes` - 1.
        parts: train and val; or the folds of a cross-validation, of which each predicts its own.
        classes: K.
        metric: of all that was predicted.
        groups: (N,) numbers; a group is never divided where the strength is chosen, and widens the interval. None: each image
            is its own.
    """
    balanced = metric == "balanced_accuracy"
    val = np.concatenate([part.val for part in parts])
    thorough = len(parts) == 1
    # Steps this small gain nothing by a second thread of BLAS, and on a busy machine wait for it: 0.3 s became 6 to 24
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
    """Return the classes that a probe of the training images gives to the others."""
    x, y = _standardized(features, part), labels[part.train]
    if len(np.unique(y)) < 2:
        return np.full(len(part.val), y[0])
    x, others = x[: len(y)], x[len(y) :]
    inner = assign_folds(y, INNER_FOLDS, 0, None if groups is None else groups[part.train])
    strength = _choose_strength(x, y, inner, balanced, thorough)
    return _fit(_model(balanced, strength), x, y).predict(others)


def _standardized(features: np.ndarray, part: Part) -> np.ndarray:
    """Return the features of train, then of val, each with mean 0 and deviation 1 in train.

    More features than training images are rotated to as many as there are images, which changes nothing: with an L2 penalty
    the weights lie in the space of the images.
    """
    x = features[np.concatenate([part.train, part.val])].astype(np.float64)
    of_train = x[: len(part.train)]
    deviation = of_train.std(0)
    x = (x - of_train.mean(0)) / np.where(deviation > 1e-6 * np.abs(of_train).max(0), deviation, np.inf)
    if x.shape[1] > len(part.train):
        x = x @ np.linalg.svd(x[: len(part.train)], full_matrices=False)[2].T
    return x


def _choose_strength(x: np.ndarray, y: np.ndarray, inner: np.ndarray, balanced: bool, thorough: bool) -> float:
    """Return the strength with the smallest log loss of images that a fold's probe has not seen; a tie: the stronger one."""
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
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is not quite done predicts all the same
        warnings.filterwarnings("ignore", "The number of unique classes")  # many classes of few images
        return model.fit(x, y)


def _log_loss(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (N,) -log p of the true classes; of classes that the model does not know as if it gave them 1e-6."""
    scores = model.decision_function(x)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    places = np.searchsorted(model.classes_, y).clip(max=len(model.classes_) - 1)
    known = model.classes_[places] == y
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), places]
    return np.where(known, losses, -np.log(1e-6))
