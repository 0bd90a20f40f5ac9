"""The accuracy of a row on one split with its interval, and which images each of its seeds gets right; S seeds, n images."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.predictions_csv import Predictions, has_predictions, read_predictions
from common.run_record import Proportion
from evaluation.intervals import accuracy_interval, mean_over_seeds, wilson
from reports.load_runs import Run


class Accuracy(NamedTuple):
    """A row's accuracy on one split; the interval is None where it is not known, as for one seed without counts."""

    value: float
    low: float | None
    high: float | None
    standard_deviation: float | None  # over seeds, None for a single one
    n: int | None  # images
    n_seeds: int
    over: str  # what the interval counts: images, seeds, or seeds and images


class CorrectnessMatrix(NamedTuple):
    """What the seeds of one row get right on the same images."""

    seeds: list[int | None]
    correct: np.ndarray  # (S, n) bool
    images: str  # names the images with their labels, in order


def read_tables(runs: Sequence[Run], split: str) -> list[Predictions] | str:
    """Read the predictions of each run of a row, test or val; or return why they cannot be used."""
    for run in runs:
        if not has_predictions(run.folder, split):
            return f"{run.folder.predictions(split).name} is missing in {run.name}"
    try:
        return [read_predictions(run.folder, split) for run in runs]
    except (UserError, OSError) as error:
        return str(error)


def correctness_matrix(runs: Sequence[Run], tables: list[Predictions] | str) -> CorrectnessMatrix | str:
    """Return which images the seeds of a row get right, or why that is not known.

    The folds of one seed's cross-validation are put together: one prediction an image.
    """
    if isinstance(tables, str):
        return tables
    seeds: dict[int | None, list[Predictions]] = defaultdict(list)
    for run, table in zip(runs, tables, strict=True):
        seeds[run.seed].append(table)
    lines, names = [], set()
    for seed, folds in seeds.items():
        pooled = _pool(folds)
        if pooled is None:
            return f"images are in several folds of seed {seed}"
        lines.append(pooled[0])
        names.add(pooled[1])
    if len(names) > 1:
        return "its seeds were measured on different images"
    return CorrectnessMatrix(list(seeds), np.stack(lines), names.pop())


def _pool(folds: Sequence[Predictions]) -> tuple[np.ndarray, str] | None:
    """Return correct or not, (n,) bool, and the name of the images; None where folds share images."""
    lines = []
    for table in folds:
        labels = [table.classes[k] for k in table.labels]
        lines += zip(table.fingerprints, labels, table.paths, table.correct.tolist(), strict=True)
    if len(folds) > 1:
        lines.sort()
        if len({path for _, _, path, _ in lines}) < len(lines):
            return None
    text = "\n".join(f"{fingerprint} {label}" for fingerprint, label, _, _ in lines)
    name = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return np.array([correct for *_, correct in lines]), name


def accuracy(runs: Sequence[Run], split: str, found: CorrectnessMatrix | str) -> Accuracy | None:
    """Return the mean over seeds of the recorded accuracies, the folds of one seed taken together; None without any."""
    seeds: dict[int | None, list[Proportion]] = defaultdict(list)
    for run in runs:
        metrics = getattr(run.record, split)
        if metrics and metrics.accuracy:
            seeds[run.seed].append(metrics.accuracy)
    if not seeds:
        return None
    counted = [_counts(entries) for entries in seeds.values()]
    n = counted[0][1]
    values = [c / n if n else entries[0].value for (c, n), entries in zip(counted, seeds.values(), strict=True)]
    if len(values) == 1:
        low, high = wilson(*counted[0]) if n else (None, None)
        return Accuracy(values[0], low, high, None, n or None, 1, "images")
    mean, deviation, low, high, _ = mean_over_seeds(values)
    over = "seeds"
    if isinstance(found, CorrectnessMatrix) and len(found.seeds) == len(values) and found.correct.shape[1] > 1:
        low, high = accuracy_interval(found.correct)
        over = "seeds and images"
    return Accuracy(mean, max(0.0, low), min(1.0, high), deviation, n or None, len(values), over)


def _counts(entries: Sequence[Proportion]) -> tuple[int, int]:
    """Return correct images and images of all folds; (0, 0) where counts contradict each other, which no run writes."""
    if not all(0 <= each.correct <= each.n and each.n for each in entries):
        return 0, 0
    return sum(each.correct for each in entries), sum(each.n for each in entries)
