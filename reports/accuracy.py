"""A row's accuracy on one split with its interval, and which images each of its seeds gets right: S seeds, n images."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.predictions_csv import Predictions, correct_matrix, predictions_file, read_predictions
from common.run_record import Proportion
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
    folds: np.ndarray | None = None  # (n,) fold of each image; None: no cross-validation
    images_of: Mapping[int, str] | None = None  # `images` of each fold
    n_measured: tuple[int, int] = (0, 0)  # seeds and folds of a cross-validation, also those that are not here

    @property
    def is_whole(self) -> bool:
        """Whether all that its row has measured is here."""
        return self.images_of is None or self.n_measured == (len(self.seeds), len(self.images_of))

    def only(self, folds: Collection[int]) -> "CorrectnessMatrix":
        """Return the images of these folds."""
        kept = np.isin(self.folds, list(folds))
        groups = None if self.groups is None else group_numbers(self.groups[kept].astype(str).tolist())
        images_of = {fold: name for fold, name in self.images_of.items() if fold in folds}
        return self._replace(
            correct=self.correct[:, kept],
            images=_join(images_of),
            groups=groups,
            folds=self.folds[kept],
            images_of=images_of,
        )


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

    The folds of one seed's cross-validation are joined: one prediction per image. If seeds lack folds, as after failed runs,
    the seeds count that have the most folds in common.
    """
    if isinstance(tables, str):
        return tables
    seeds: dict[int | None, list[tuple[Run, Predictions]]] = defaultdict(list)
    for run, table in zip(runs, tables, strict=True):
        seeds[run.seed].append((run, table))
    chosen, common = _most_common({seed: {run.fold for run, _ in of_seed} for seed, of_seed in seeds.items()})
    pooled = []
    for seed in chosen:
        try:
            pooled.append(_pool([(run, table) for run, table in seeds[seed] if run.fold in common], names))
        except (UserError, OSError) as error:  # of splits.csv
            return str(error)
        if pooled[-1] is None:
            return f"images are in several folds of seed {seed}"
    first = pooled[0]
    if any(each.images_of != first.images_of for each in pooled):
        return "its seeds were measured on different images"
    groups = group_numbers(next((each.groups for each in pooled if any(each.groups)), []))
    found = CorrectnessMatrix(chosen, np.stack([each.right for each in pooled]), _join(first.images_of), groups)
    if None in common:
        return found
    n_measured = len(seeds), len({run.fold for run in runs})
    return found._replace(folds=np.array(first.folds), images_of=first.images_of, n_measured=n_measured)


def _most_common(folds: dict[int | None, set[int | None]]) -> tuple[list[int | None], set[int | None]]:
    """Return the seeds, and the folds that all of these have, of which there are the most; on ties, the most seeds."""
    by_number = sorted(folds, key=lambda seed: -len(folds[seed]))
    found = [
        (by_number[:k], set.intersection(*(folds[seed] for seed in by_number[:k]))) for k in range(1, len(folds) + 1)
    ]
    most, common = max(found, key=lambda each: (len(each[0]) * len(each[1]), len(each[0])))
    return [seed for seed in folds if seed in most], common


class _Pooled(NamedTuple):
    """The folds of one seed."""

    right: np.ndarray  # (n,) bool
    groups: list[str]  # of each image
    folds: list[int | None]  # of each image
    images_of: dict[int | None, str]  # a hash of each fold's images with their labels, in order


def _pool(of_seed: Sequence[tuple[Run, Predictions]], names: GroupNames) -> _Pooled | None:
    """Join the folds of one seed; None if they share images."""
    lines, images_of = [], {}
    for run, table in of_seed:
        labels = [table.classes[k] for k in table.labels]
        groups, folds = names.of(run, table.paths), [run.fold] * len(labels)
        lines += zip(table.fingerprints, labels, table.paths, table.correct.tolist(), groups, folds, strict=True)
        text = "\n".join(map(" ".join, zip(table.fingerprints, labels, strict=True)))
        images_of[run.fold] = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    if None not in images_of:
        lines.sort()
    if len(of_seed) > 1 and len({path for _, _, path, *_ in lines}) < len(lines):
        return None
    right, groups, folds = ([line[column] for line in lines] for column in (3, 4, 5))
    return _Pooled(np.array(right), groups, folds, images_of)


def _join(images_of: Mapping[int | None, str]) -> str:
    """Return one name for the images of several folds."""
    return " ".join(images_of[fold] for fold in sorted(images_of, key=str))


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
    known = isinstance(found, CorrectnessMatrix) and len(found.seeds) == len(values) and found.is_whole
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
