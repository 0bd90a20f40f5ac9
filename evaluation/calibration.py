"""How far to trust a network's probabilities: calibration, temperature, selective prediction.

n images, K classes. Labels are (n,) class indices, probabilities (n, K); `groups` are (n,) group numbers, None: each image is
its own. The confidence of an image is its largest probability. NaN is refused everywhere (ValueError).
"""

import math
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.optimize where it is first used: late, so that a training starts sooner
from scipy.special import betainc, log_softmax, logsumexp

from common.run_record import EceByChance, Selective
from evaluation.estimates import CELLS, DRAWS, FEWEST_RESAMPLES
from evaluation.intervals import design_effect, proportion
from evaluation.scores import checked

ROUNDED_TO_ZERO = 5e-7  # the largest probability that the six digits of predictions.csv show as 0
TEMPERATURES = (0.05, 20.0)  # bounds of the search
BINS = 15  # of confidence, as usual since Guo et al. 2017
GROUPED_STEPS = 100  # each needs a design effect


class ConfidenceBin(NamedTuple):
    """The images of one bin of confidence, [low, high); means are None if there are no images."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean
    accuracy: float | None


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the squared distance to the true class, summed over classes, mean over images: 0 to 2.

    Brier 1950, Monthly Weather Review 78:1-3, eq. 2.
    """
    labels, probabilities = checked(labels, probabilities)
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[ConfidenceBin]:
    """Return bins of confidence of equal width; the last one includes a confidence of 1.

    Guo et al. 2017, arXiv:1706.04599, eq. 1 and 2, fig. 1.
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    counts, sums, hits = _sums(confidence, correct, np.minimum(index, bins - 1), bins)
    edges = np.linspace(0, 1, bins + 1).tolist()
    return [
        ConfidenceBin(low, high, int(n), float(total / n) if n else None, float(right / n) if n else None)
        for low, high, n, total, right in zip(edges[:-1], edges[1:], counts, sums, hits, strict=True)
    ]


def ece(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error, Guo et al. 2017, arXiv:1706.04599, eq. 3.

    As in torchmetrics, bins are [low, high), and a confidence of exactly 1 has its own bin.
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    _, sums, hits = _sums(confidence, correct, index, bins + 1)
    return float(np.abs(hits - sums).sum() / len(confidence))


def ece_by_chance(probabilities: np.ndarray, effect: float = 1.0, draws: int = 1000, seed: int = 0) -> EceByChance:
    """Return the ECE that a perfectly calibrated network with these confidences would show; with few images it is not 0.

    In each draw an image is right with a probability equal to its confidence. Broecker & Smith 2007, Weather and Forecasting
    22:651-661 ("consistency resampling"). With more than 40,000 images fewer draws are made, but at least 200.

    Args:
        effect: `design_effect` of images in groups; the error by chance is larger by its square root.
    """
    confidence, _, index = _binned(np.argmax(probabilities, axis=1), probabilities, BINS)
    starts = np.flatnonzero(np.diff(index, prepend=-1))  # the most confident come first, so bins are contiguous
    sums, n = np.add.reduceat(confidence, starts), len(confidence)
    draws = min(draws, max(FEWEST_RESAMPLES, DRAWS // n))
    generator, found = np.random.default_rng(seed), []
    for start in range(0, draws, max(1, CELLS // n)):
        right = generator.random((min(max(1, CELLS // n), draws - start), n)) < confidence  # (B, n)
        found.append(np.abs(np.add.reduceat(right, starts, axis=1, dtype=np.float64) - sums).sum(axis=1) / n)
    errors = np.minimum(np.concatenate(found) * math.sqrt(effect), 1.0)
    return EceByChance(mean=float(errors.mean()), p95=float(np.quantile(errors, 0.95)))


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Return the natural logarithm, with 0 replaced by 5e-7, because a 0 in predictions.csv does not mean impossible.

    Raises:
        ValueError: NaN.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if np.isnan(p).any():
        raise ValueError("probabilities are NaN; a network whose weights are finite gives none")
    return np.log(np.where(p > 0, p, ROUNDED_TO_ZERO))


def fit_temperature(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """Fit the temperature T in 0.05 to 20 that minimizes the cross entropy of softmax(log p / T) with smoothed targets.

    Guo et al. 2017, arXiv:1706.04599, sec. 4.2, with the targets of Platt 1999, Advances in Large Margin Classifiers, p.
    61-74: the true class counts (n + 1) / (n + 2), and the other classes share the rest in proportion to their own
    probabilities. Without smoothing, the best T for images that are nearly all right runs to its lower bound, and calibrated
    probabilities to 1. If all images are right, T cannot be fitted and is 1. The search is bounded and over log T.

    Args:
        log_probabilities: (n, K) logits or log-probabilities, finite, e.g. from `logarithm`.

    Raises:
        ValueError: the shapes do not match, or values are not finite.
    """
    labels, logs = checked(labels, log_probabilities)
    n, truth = len(labels), np.eye(logs.shape[1], dtype=bool)[labels]
    if (logs.argmax(axis=1) == labels).all():
        return 1.0
    others = np.exp(log_softmax(np.where(truth, -np.inf, logs), axis=1))
    targets = np.where(truth, (n + 1) / (n + 2), others / (n + 2))

    def loss(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - (targets * scaled).sum(axis=1)).mean())

    bounds = tuple(math.log(temperature) for temperature in TEMPERATURES)
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def at_bound(temperature: float) -> bool:
    """Return whether the search for a temperature ended at one of its bounds."""
    return any(math.isclose(temperature, bound, rel_tol=1e-4) for bound in TEMPERATURES)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(log p / temperature) of probabilities (n, K); the most probable class stays the same.

    Raises:
        ValueError: the temperature is not above 0, or a value is NaN.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}; use one above 0, e.g. from fit_temperature")
    scaled = logarithm(probabilities) / temperature
    return np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))


def risk_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and accuracy, (n,) each, of the 1, 2, ... n most confident images.

    El-Yaniv & Wiener 2010, JMLR 11:1605-1641. Images of equal confidence enter together.
    """
    confidence, correct = _sorted(labels, probabilities)
    last = np.searchsorted(-confidence, -confidence, side="right")  # (n,) images covered with each one
    return last / len(confidence), np.cumsum(correct)[last - 1] / last


def confidence_for_accuracy(
    labels: np.ndarray,
    probabilities: np.ndarray,
    target_accuracy: float,
    delta: float,
    groups: np.ndarray | None = None,
) -> float | None:
    """Find the smallest confidence from which on an accuracy can be promised; None if these images promise none.

    With a probability of at least 1 - delta, the accuracy of new images from the same source with at least this confidence is
    the target or more. This is Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052, sec. 2) with fixed-sequence
    testing: for the m most confident images, with rising m, the hypothesis "they are right less often than the target" is
    rejected if P(Binomial(m, 1 - target) <= errors among them) <= delta. The sequence starts at the first m that could be
    rejected at all, and ends at the first that is not. Only confidences order the hypotheses, so all of them are tested at the
    same delta. Images of equal confidence enter together. In groups, m images count as m / design effect, with the effect of
    these m images, because the most confident ones may come from few groups; then about `GROUPED_STEPS` values of m are tested.

    It assumes images that did not choose the network: if they also chose its epoch, it promises a little too much.

    Args:
        target_accuracy: above 0 and up to 1.
        delta: above 0 and below 1.
    """
    confidence, correct = _sorted(labels, probabilities)
    distinct = np.diff(confidence, append=-np.inf) < 0
    m = np.flatnonzero(distinct) + 1  # images with at least each distinct confidence
    m = m[m >= images_needed(target_accuracy, delta)]
    effect: np.ndarray | float = 1.0
    if groups is not None and len(m):
        groups = groups[np.argsort(-probabilities.max(axis=1), kind="stable")]
        m = np.unique(m[np.searchsorted(m, np.geomspace(m[0], m[-1], GROUPED_STEPS).astype(int))])
        # As if without an error: which m are tested must not depend on what is right
        needed = [images_needed(target_accuracy, delta, design_effect(np.ones(k, bool), groups[:k])) for k in m]
        m = m[m >= needed]
        effect = np.array([design_effect(correct[:k], groups[:k]) for k in m])
    errors = m - np.cumsum(correct)[m - 1]
    p = np.where(errors < m, betainc((m - errors) / effect, errors / effect + 1, target_accuracy), 1.0)
    passed = np.cumprod(p <= delta).sum()
    return float(confidence[m[passed - 1] - 1]) if passed else None


def images_needed(target_accuracy: float, delta: float, effect: float = 1.0) -> float:
    """Return how many images without an error suffice to promise an accuracy: target^(n / effect) <= delta; infinite for 1."""
    if not 0 < target_accuracy < 1:
        return math.inf
    return max(1, math.ceil(effect * math.log(delta) / math.log(target_accuracy)))


def selective_accuracy(
    labels: np.ndarray, probabilities: np.ndarray, confidence: float, groups: np.ndarray | None = None
) -> Selective:
    """Measure selective prediction, on the images with at least this confidence."""
    labels, probabilities = checked(labels, probabilities)
    kept = probabilities.max(axis=1) >= confidence
    correct, n = (probabilities.argmax(axis=1) == labels)[kept], int(kept.sum())
    effect = design_effect(correct, None if groups is None else groups[kept]) if n else 1.0
    accuracy = proportion(int(correct.sum()), n, effect) if n else None
    return Selective(confidence=confidence, coverage=n / len(kept), n=n, accuracy=accuracy)


def _sorted(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence and whether the predicted class is right, (n,) each, the most confident image first."""
    labels, probabilities = checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (probabilities.argmax(axis=1) == labels)[order]


def _binned(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return confidence, whether right, and bin, (n,) each; bins are 0 to bins - 1, and `bins` for a confidence of 1."""
    confidence, correct = _sorted(labels, probabilities)
    return confidence, correct, np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1


def _sums(confidence: np.ndarray, correct: np.ndarray, index: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Sum images, confidences and right ones over each bin."""
    return tuple(np.bincount(index, weights=weights, minlength=bins) for weights in (None, confidence, correct))
