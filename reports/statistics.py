"""Honest numbers about accuracies: pure functions without torch, each with its source."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion: Wilson 1927, JASA 22:209-212, without continuity correction.

    Raises:
        ValueError: no observations, or more correct ones than there are.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= correct <= n and n > 0, not {correct} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    scale = 1 / (1 + z * z / n)
    centre = scale * (share + z * z / (2 * n))
    half = scale * z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(low, high)


def accuracy_entry(correct: int, n: int) -> dict[str, float | int]:
    """An accuracy as records keep it: value, 95% interval, counts."""
    interval = wilson(correct, n)
    return {"value": correct / n, "low": interval.low, "high": interval.high, "correct": correct, "n": n}


def accuracy_in_words(entry: dict) -> str:
    """`0.9266 (101 of 109, 95% interval 0.862 to 0.962)`."""
    return (
        f"{entry['value']:.4f} ({entry['correct']} of {entry['n']}, "
        f"95% interval {entry['low']:.3f} to {entry['high']:.3f})"
    )
