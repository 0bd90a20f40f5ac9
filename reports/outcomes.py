"""Whether each seed of a row is right on each image; S seeds, n images."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.predictions_csv import FILES, has_predictions, read_predictions
from reports.load_runs import Run


class CorrectnessMatrix(NamedTuple):
    """What the seeds of one row get on the same images."""

    seeds: list[int | None]
    correct: np.ndarray  # (S, n) bool
    images: str  # names the images with their labels, in order


def correctness_matrix(runs: Sequence[Run], split: str) -> CorrectnessMatrix | str:
    """The predictions of a row's runs, test or val; or, in words, why they cannot be used.

    The folds of one seed's cross-validation are put together: one prediction an image.
    """
    by_seed: dict[int | None, list[Run]] = {}
    for run in runs:
        if not has_predictions(run.folder, split):
            return f"{FILES[split]} is missing in {run.name}"
        by_seed.setdefault(run.seed, []).append(run)
    lines, names = [], set()
    for folds in by_seed.values():
        try:
            found = _pooled(folds, split)
        except (ValueError, OSError) as error:
            return str(error)
        if isinstance(found, str):
            return found
        correct, name = found
        lines.append(correct)
        names.add(name)
    if len(names) > 1:
        return f"the seeds have other images in {FILES[split]}"
    return CorrectnessMatrix(list(by_seed), np.stack(lines), names.pop())


def _pooled(folds: Sequence[Run], split: str) -> tuple[np.ndarray, str] | str:
    """Right or not, (n,), and the name of the images."""
    lines = []
    for run in folds:
        table = read_predictions(run.folder, split)
        labels = [table.classes[k] for k in table.labels]
        lines += zip(table.fingerprints, labels, table.paths, (table.labels == table.predicted).tolist(), strict=True)
    if len(folds) > 1:
        lines.sort()
        if len({path for _, _, path, _ in lines}) < len(lines):
            return f"images stand in several folds of seed {folds[0].seed}"
    text = "\n".join(f"{fingerprint} {label}" for fingerprint, label, _, _ in lines)
    name = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return np.array([correct for *_, correct in lines]), name
