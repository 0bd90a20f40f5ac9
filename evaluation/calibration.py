"""How far the probabilities of a network can be trusted: calibration, temperature, selective prediction.

n images, K classes. The confidence of an image is its largest probability.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from common.run_record import Selective
from evaluation.intervals import proportion
from evaluation.scores import checked

ROUNDED_TO_ZERO = 5e-7  # the largest probability that the six digits of predictions.csv show as 0
TEMPERATURES = (0.05, 20.0)


class ConfidenceBin(NamedTuple):
    """The images of one bin of confidence, [low, high); means are None where there are none."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean
    accuracy: float | None


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the squared distance to the true class, summed over classes, mean over images: 0 to 2.

    Brier 1950, Monthly Weather Review 78:1-3, eq. 2. Labels (n,), probabilities (n, K).
    """
    labels, probabilities = checked(labels, probabilities)
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> list[ConfidenceBin]:
    """Return equal bins of confidence; the last one includes a confidence of 1.

    Guo et al. 2017, arXiv:1706.04599, eq. 1 and 2, fig. 1. Labels (n,), probabilities (n, K).
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    counts, sums, hits = _sums(confidence, correct, np.minimum(index, bins - 1), bins)
    edges = np.linspace(0, 1, bins + 1).tolist()
    return [
        ConfidenceBin(low, high, int(n), float(total / n) if n else None, float(right / n) if n else None)
        for low, high, n, total, right in zip(edges[:-1], edges[1:], counts, sums, hits, strict=True)
    ]


def ece(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error, Guo et al. 2017, arXiv:1706.04599, eq. 3.

    As in torchmetrics, bins are [low, high), and a confidence of exactly 1 has a bin of its own. Labels (n,),
    probabilities (n, K).
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    _, sums, hits = _sums(confidence, correct, index, bins + 1)
    return float(np.abs(hits - sums).sum() / len(confidence))


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Return the natural logarithm, with 0 taken as 5e-7: what predictions.csv shows as 0 is not impossible."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.log(np.where(p > 0, p, ROUNDED_TO_ZERO))


def fit_temperature(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """Fit the temperature T in 0.05 to 20 that minimizes the negative log likelihood of softmax(log p / T).

    Guo et al. 2017, arXiv:1706.04599, sec. 4.2; a bounded search on log T.

    Args:
        labels: (n,) class indices.
        log_probabilities: (n, K) logits or log-probabilities, finite as from `logarithm`.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    labels, logs = checked(labels, log_probabilities)
    if not np.isfinite(logs).all():
        raise ValueError("a temperature needs finite log-probabilities, as from evaluation.calibration.logarithm")

    def loss(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    bounds = tuple(math.log(temperature) for temperature in TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(log p / temperature) of probabilities (n, K); the largest stays the largest.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}; use one above 0, as from fit_temperature")
    scaled = logarithm(probabilities) / temperature
    return np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))


def risk_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and accuracy, (n,) each, of the 1, 2, ... n most confident images.

    El-Yaniv & Wiener 2010, JMLR 11:1605-1641. Images of equal confidence enter together.
    """
    confidence, correct = _sorted(labels, probabilities)
    last = np.searchsorted(-confidence, -confidence, side="right")  # (n,) images covered with each one
    return last / len(confidence), np.cumsum(correct)[last - 1] / last


def coverage_at_accuracy(labels: np.ndarray, probabilities: np.ndarray, target_accuracy: float) -> Selective | None:
    """Find the largest share of the images, the most confident ones, whose accuracy reaches the target; None if none does.

    The confidence is chosen on these images, so that the accuracy here is too good: measure it on others with
    `selective_accuracy`.
    """
    _, accuracy = risk_coverage(labels, probabilities)
    enough = np.flatnonzero(accuracy >= target_accuracy)
    if len(enough) == 0:
        return None
    confidence, _ = _sorted(labels, probabilities)
    return selective_accuracy(labels, probabilities, float(confidence[enough[-1]]))


def selective_accuracy(labels: np.ndarray, probabilities: np.ndarray, confidence: float) -> Selective:
    """Measure selective prediction: the images with at least this confidence."""
    found, correct = _sorted(labels, probabilities)
    n = int((found >= confidence).sum())
    accuracy = proportion(int(correct[:n].sum()), n) if n else None
    return Selective(confidence=confidence, coverage=n / len(found), n=n, accuracy=accuracy)


def _sorted(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence and whether the largest probability is right, (n,) each, the most confident first."""
    labels, probabilities = checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (probabilities.argmax(axis=1) == labels)[order]


def _binned(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return confidence, whether right, and bin: 0 to bins - 1, and `bins` for a confidence of 1; (n,) each."""
    if bins < 1:
        raise ValueError(f"bins={bins}; use 1 or more, e.g. 15")
    confidence, correct = _sorted(labels, probabilities)
    return confidence, correct, np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1


def _sums(confidence: np.ndarray, correct: np.ndarray, index: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Sum images, confidences and right ones over each bin."""
    return tuple(np.bincount(index, weights=weights, minlength=bins) for weights in (None, confidence, correct))
