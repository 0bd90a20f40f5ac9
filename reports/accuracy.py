"""A row's accuracy on one split with its interval, and which images each of its seeds gets right: S seeds, n images."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.predictions_csv import Predictions, correct_matrix, predictions_file, read_predictions
from common.run_record import Proportion
from common.text import join_words
from evaluation.intervals import accuracy_interval, coverage_caveat, group_numbers, mean_over_seeds, proportion, wilson
from reports.load_runs import Run


class Accuracy(NamedTuple):
    """A row's accuracy on one split; the interval is None if it is unknown, e.g. for one seed without counts."""

    value: float
    low: float | None
    high: float | None
    standard_deviation: float | None  # over seeds, None for a single one
    n: int | None  # images
    n_seeds: int


class CorrectnessMatrix(NamedTuple):
    """Which of the same images each seed of one row gets right."""

    seeds: list[int | None]
    correct: np.ndarray  # (S, n) bool
    images: str  # a hash of the images with their labels, in order
    groups: np.ndarray | None = None  # (n,) numbers of the groups that images belong to; None: each is its own


class GroupNames:
    """The group of each image as splits.csv has it, read once for all runs on the same data."""

    def __init__(self):
        self._known: dict[tuple, dict[str, str]] = {}

    def of(self, run: Run, paths: Sequence[str]) -> list[str]:
        """Return the name of each image's group; "" if it has none, or if the run has no splits.csv."""
        # Of two runs on the same images, only one may name groups: its file is longer
        size = run.folder.splits.stat().st_size if run.folder.splits.is_file() else None
        key = run.data.fingerprint, run.data.root, size, None if run.data.fingerprint else run.folder.path
        if key not in self._known:
            self._known[key] = {} if size is None else run.folder.group_names()
        known = self._known[key]
        return [known.get(path, "") for path in paths] if known else [""] * len(paths)


def groups_of(runs: Sequence[Run], tables: Sequence[Predictions]) -> np.ndarray | None:
    """Return group numbers (n,) from the first run that has groups; all runs have the same images in the same order."""
    names = GroupNames()
    found = (group_numbers(names.of(run, table.paths)) for run, table in zip(runs, tables, strict=True))
    return next((groups for groups in found if groups is not None), None)


def has_tables(runs: Sequence[Run], split: str) -> bool:
    """Return whether each run has the predictions of a split."""
    return all(predictions_file(run.folder_of(split), split) for run in runs)


def read_split(runs: Sequence[Run]) -> tuple[str, list[Predictions]]:
    """Return the split that was evaluated, test if all runs have it, and its tables."""
    split = "test" if has_tables(runs, "test") else "val"
    return split, [read_predictions(run.folder_of(split), split, getattr(run.record, split)) for run in runs]


def read_common(runs: Sequence[Run]) -> tuple[str, list[Predictions], np.ndarray]:
    """Return what `read_split` does and what is right, (runs, n); errors as of `correct_matrix`."""
    split, tables = read_split(runs)
    return split, tables, correct_matrix(tables)


def read_tables(runs: Sequence[Run], split: str) -> list[Predictions] | str:
    """Read the predictions of each run of a row, test or val; or return why they cannot be used."""
    for run in runs:
        if not predictions_file(run.folder_of(split), split):
            return f"{run.folder.predictions(split).name} is missing in {run.name}"
    try:
        return [read_predictions(run.folder_of(split), split, getattr(run.record, split)) for run in runs]
    except (UserError, OSError) as error:
        return str(error)


def correctness_matrix(
    runs: Sequence[Run], tables: list[Predictions] | str, names: GroupNames
) -> CorrectnessMatrix | str:
    """Return which images the seeds of a row get right, or why that is unknown.

    The folds of one seed's cross-validation are joined: one prediction per image.
    """
    if isinstance(tables, str):
        return tables
    seeds: dict[int | None, list[tuple[Run, Predictions]]] = defaultdict(list)
    for run, table in zip(runs, tables, strict=True):
        seeds[run.seed].append((run, table))
    lines, images, groups = [], set(), []
    for seed, folds in seeds.items():
        try:
            pooled = _pool(folds, names)
        except (UserError, OSError) as error:  # of splits.csv
            return str(error)
        if pooled is None:
            return f"images are in several folds of seed {seed}"
        lines.append(pooled[0])
        images.add(pooled[1])
        groups = groups if any(groups) else pooled[2]
    if len(images) > 1:
        of_seeds = {seed: {run.fold for run, _ in folds} for seed, folds in seeds.items()}
        every = set().union(*of_seeds.values())
        lack = [f"seed {seed} lacks {name_folds(every - found)}" for seed, found in of_seeds.items() if found != every]
        return f"its seeds were measured on different images{f' ({join_words(lack)})' if lack else ''}"
    return CorrectnessMatrix(list(seeds), np.stack(lines), images.pop(), group_numbers(groups))


def name_folds(folds: set[int | None]) -> str:
    """Return `fold 4`, `folds 3 and 4`."""
    return f"fold{'s' * (len(folds) > 1)} {join_words([str(fold) for fold in sorted(folds, key=str)])}"


def _pool(folds: Sequence[tuple[Run, Predictions]], names: GroupNames) -> tuple[np.ndarray, str, list[str]] | None:
    """Return what is right (n,) bool, a hash of the images, and their groups; None if folds share images."""
    lines = []
    for run, table in folds:
        labels = [table.classes[k] for k in table.labels]
        groups = names.of(run, table.paths)
        lines += zip(table.fingerprints, labels, table.paths, table.correct.tolist(), groups, strict=True)
    if len(folds) > 1:
        lines.sort()
        if len({path for _, _, path, _, _ in lines}) < len(lines):
            return None
    text = "\n".join(f"{fingerprint} {label}" for fingerprint, label, *_ in lines)
    name = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return np.array([correct for *_, correct, _ in lines]), name, [group for *_, group in lines]


def accuracy(runs: Sequence[Run], split: str, found: CorrectnessMatrix | str) -> Accuracy | None:
    """Return the mean over seeds of the recorded accuracies, with each seed's folds joined; None if there are none.

    Folds have different validation images, which add up, but the same test images.
    """
    seeds: dict[int | None, list[Proportion]] = defaultdict(list)
    for run in runs:
        metrics = getattr(run.record, split)
        if metrics and metrics.accuracy:
            seeds[run.seed].append(metrics.accuracy)
    if not seeds:
        return None
    counted = [_counts(entries, same_images=split == "test") for entries in seeds.values()]
    n = min(of_seed for _, of_seed in counted)  # seeds that lack folds have fewer
    values = [c / m if m else entries[0].value for (c, m), entries in zip(counted, seeds.values(), strict=True)]
    known = isinstance(found, CorrectnessMatrix) and len(found.seeds) == len(values)
    effect = max(map(_effect, chain(*seeds.values())))
    if effect > 1 and known and found.groups is None:
        known = False  # splits.csv, which names the groups, is missing
    if len(values) == 1:
        low, high = None, None
        if n:
            single = wilson(values[0] * n / effect, n / effect)
            low, high = accuracy_interval(found.correct, found.groups) if known else single
        return Accuracy(values[0], low, high, None, n or None, 1)
    mean, deviation, low, high, _ = mean_over_seeds(values)
    if known:
        low, high = accuracy_interval(found.correct, found.groups)
    elif n:  # images count as well, so never narrower than one network's interval
        of_images = wilson(mean * n / effect, n / effect)
        low, high = min(low, of_images.low), max(high, of_images.high)
    return Accuracy(mean, max(0.0, low), min(1.0, high), deviation, n or None, len(values))


def caveats_of_one_seed(accuracies: Iterable[tuple[float, int]]) -> list[str]:
    """Return the caveats on the intervals of single networks, each caveat once; `accuracies` are pairs of value and n."""
    found = (coverage_caveat(proportion(round(value * n), n)) for value, n in accuracies)
    return [f"for a single network, {caveat}" for caveat in dict.fromkeys(filter(None, found))]


def _effect(found: Proportion) -> float:
    """Return the `design_effect` of images in groups that a recorded Wilson interval implies; 1 without groups."""
    end = found.low if found.low > 0 else found.high
    variance = end * (1 - end) * NormalDist().inv_cdf(0.975) ** 2
    distance = found.value - end
    effect = found.n * distance * distance / variance if variance > 0 else 1.0
    return effect if 1 + 1e-6 < effect < found.n**2 else 1.0


def _counts(entries: Sequence[Proportion], same_images: bool) -> tuple[float, int]:
    """Return the numbers of correct images and of images: summed over folds, or averaged if folds have the same images.

    They are (0, 0) if counts contradict each other, which no run writes.
    """
    if not all(0 <= each.correct <= each.n and each.n for each in entries):
        return 0, 0
    correct, n = sum(each.correct for each in entries), sum(each.n for each in entries)
    if not same_images:
        return correct, n
    fewest = min(each.n for each in entries)
    return correct * fewest / n, fewest
