"""How far the probabilities of a network can be believed: calibration, temperature, and what can be left undecided.

n images, K classes. The confidence of an image is its largest probability.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from evaluation.intervals import accuracy_entry
from evaluation.scores import checked

ROUNDED_TO_ZERO = 5e-7  # the largest probability that the six digits of predictions.csv show as 0
TEMPERATURES = (0.05, 20.0)


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Squared distance to the true class, summed over classes, mean over images: 0 to 2.

    Brier 1950, Monthly Weather Review 78:1-3, eq. 2. Labels (n,), probabilities (n, K).
    """
    labels, probabilities = checked(labels, probabilities)
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> list[dict]:
    """Equal bins [low, high) of confidence, the last with its end: n, mean confidence, accuracy; None of empty bins.

    Guo et al. 2017, arXiv:1706.04599, eq. 1 and 2, fig. 1. Labels (n,), probabilities (n, K).
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    index = np.minimum(index, bins - 1)
    counts, sums, hits = _sums(confidence, correct, index, bins)
    edges = np.linspace(0, 1, bins + 1)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "n": int(counts[b]),
            "confidence": float(sums[b] / counts[b]) if counts[b] else None,
            "accuracy": float(hits[b] / counts[b]) if counts[b] else None,
        }
        for b in range(bins)
    ]


def ece(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, Guo et al. 2017, arXiv:1706.04599, eq. 3, as torchmetrics computes it for records.

    That is with bins [low, high) and a confidence of exactly 1 in a bin of its own. Labels (n,), probabilities (n, K).
    """
    confidence, correct, index = _binned(labels, probabilities, bins)
    _, sums, hits = _sums(confidence, correct, index, bins + 1)
    return float(np.abs(hits - sums).sum() / len(confidence))


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Natural logarithm, with 0 taken as 5e-7: what predictions.csv shows as 0 is not impossible."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.log(np.where(p > 0, p, ROUNDED_TO_ZERO))


def fit_temperature(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """The temperature T in 0.05 to 20 that minimizes the negative log likelihood of softmax(log p / T).

    Guo et al. 2017, arXiv:1706.04599, sec. 4.2; fitted on validation images, by a bounded search on log T.

    Args:
        labels: (n,) class indices.
        log_probabilities: (n, K) logits or log-probabilities, finite as from `logarithm`.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    labels, logs = checked(labels, log_probabilities)
    if not np.isfinite(logs).all():
        raise ValueError(
            "a temperature needs finite log-probabilities; take them with evaluation.calibration.logarithm"
        )

    def loss(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    bounds = tuple(math.log(temperature) for temperature in TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, K) as softmax(log p / temperature); the largest stays the largest.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}; use one above 0, as from fit_temperature")
    scaled = logarithm(probabilities) / temperature
    return np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))


def risk_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the images decided, and accuracy among them, as the least confident ones are let in one by one.

    El-Yaniv & Wiener 2010, JMLR 11:1605-1641. Both (n,); images of equal confidence enter together.
    """
    confidence, correct = _sorted(labels, probabilities)
    last = np.searchsorted(-confidence, -confidence, side="right")  # (n,) images let in with each one
    return last / len(confidence), np.cumsum(correct)[last - 1] / last


def coverage_at_accuracy(labels: np.ndarray, probabilities: np.ndarray, target_accuracy: float) -> dict:
    """The largest share of the images, the most confident ones, whose accuracy is at least the wanted one.

    The limit is chosen on these images, so that the accuracy here is too good: measure it on others with
    `decidable_at`.

    Returns:
        share, n, accuracy (value, 95% interval, counts), confidence: the limit; the last two None where n is 0.
    """
    _, accuracy = risk_coverage(labels, probabilities)
    enough = np.flatnonzero(accuracy >= target_accuracy)
    if len(enough) == 0:
        return {"share": 0.0, "n": 0, "accuracy": None, "confidence": None}
    confidence, _ = _sorted(labels, probabilities)
    return selective_accuracy(labels, probabilities, float(confidence[enough[-1]]))


def selective_accuracy(labels: np.ndarray, probabilities: np.ndarray, confidence: float) -> dict:
    """Share and accuracy of the images with at least this confidence; keys as of `decidable`."""
    found, correct = _sorted(labels, probabilities)
    n = int((found >= confidence).sum())
    entry = accuracy_entry(int(correct[:n].sum()), n) if n else None
    return {"share": n / len(found), "n": n, "accuracy": entry, "confidence": confidence}


def _sorted(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether the largest probability is right, (n,) each, the most confident first."""
    labels, probabilities = checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (probabilities.argmax(axis=1) == labels)[order]


def _binned(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, whether right, and bin: 0 to bins - 1, and `bins` for a confidence of 1."""
    if bins < 1:
        raise ValueError(f"bins={bins}; use 1 or more, e.g. 15")
    confidence, correct = _sorted(labels, probabilities)
    return confidence, correct, np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1


def _sums(confidence: np.ndarray, correct: np.ndarray, index: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Images, confidence and right ones of each bin."""
    return tuple(np.bincount(index, weights=weights, minlength=bins) for weights in (None, confidence, correct))
