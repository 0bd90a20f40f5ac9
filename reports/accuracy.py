"""A row's accuracy on one split, with what tells how far to trust it."""

from collections.abc import Sequence
from typing import NamedTuple

from common.text import finite_number
from evaluation.intervals import accuracy_interval, mean_over_seeds, wilson
from reports.load_runs import Run
from reports.outcomes import CorrectnessMatrix


class Accuracy(NamedTuple):
    """A row's accuracy on one split; the interval is None where nothing tells it, as of one seed without counts."""

    value: float
    low: float | None
    high: float | None
    standard_deviation: float | None  # over seeds, None of a single one
    n: int | None  # images
    n_seeds: int
    over: str  # what the interval counts: images, seeds, or seeds and images


def accuracy(runs: list[Run], split: str, found: CorrectnessMatrix | str) -> Accuracy | None:
    """Mean over seeds of what the records say; the folds of one seed together are one figure."""
    seeds: dict[int | None, list[dict]] = {}
    for run in runs:
        entry = (run.record[split] or {}).get("accuracy")
        if isinstance(entry, dict) and finite_number(entry.get("value")) is not None:
            seeds.setdefault(run.seed, []).append(entry)
    if not seeds:
        return None
    counted = [_counts(entries) for entries in seeds.values()]
    n = counted[0][1]
    values = [c / n if n else entries[0]["value"] for (c, n), entries in zip(counted, seeds.values(), strict=True)]
    if len(values) == 1:
        low, high = wilson(*counted[0]) if n else (None, None)
        return Accuracy(values[0], low, high, None, n or None, 1, "images")
    mean, deviation, low, high, _ = mean_over_seeds(values)
    over = "seeds"
    if isinstance(found, CorrectnessMatrix) and len(found.seeds) == len(values) and found.correct.shape[1] > 1:
        low, high = accuracy_interval(found.correct)
        over = "seeds and images"
    return Accuracy(mean, max(0.0, low), min(1.0, high), deviation, n or None, len(values), over)


def _counts(entries: Sequence[dict]) -> tuple[int, int]:
    """Right ones and images of all folds; (0, 0) where a record has no counts."""
    pairs = [(finite_number(entry.get("correct")), finite_number(entry.get("n"))) for entry in entries]
    if any(c is None or not n or not 0 <= c <= n for c, n in pairs):
        return 0, 0
    return int(sum(c for c, _ in pairs)), int(sum(n for _, n in pairs))
