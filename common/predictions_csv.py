"""predictions.csv and predictions_val.csv read back, and two of them paired by the images' pixels."""

import csv
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.atomic_io import LARGEST_TABLE, check_size

FILES = {"test": "predictions.csv", "val": "predictions_val.csv"}
COLUMNS = ("path", "fingerprint", "label", "predicted")


class Predictions(NamedTuple):
    """What a network says of n images of K classes, sorted by fingerprint, then label, then path.

    Two files of the same images are paired line by line then; images of equal pixels by their occurrence.
    """

    fingerprints: list[str]
    labels: np.ndarray  # (n,) indices of classes
    predicted: np.ndarray  # (n,)
    classes: list[str]
    probabilities: np.ndarray  # (n, K) float64
    paths: list[str]
    source: Path  # the run's folder


def has_predictions(folder: Path, split: str) -> bool:
    """Whether the run left a table of this split, test or val."""
    return (folder / FILES[split]).is_file()


def read_predictions(folder: Path, split: str) -> Predictions:
    """The table of a run's split, test or val.

    Raises:
        ValueError: no such file, columns missing, cut off, or values that no run writes; with file and line.
    """
    path = folder / FILES[split]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the stage test: python train.py 'stages=[test]' ckpt_path=...")
    check_size(path, LARGEST_TABLE)
    again = "run the stage test again"
    if not _is_whole(path):
        raise ValueError(f"{path}: cut off in its last line; {again}")
    rows = []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            classes = _classes(reader.fieldnames or [])
            index = {name: k for k, name in enumerate(classes)}
            for row in reader:
                rows.append(_row(row, index))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: line {reader.reader.line_num}: {error}; {again}") from error
    if not rows:
        raise ValueError(f"{path}: there are no images; {again}")
    rows.sort(key=lambda row: (row[0], classes[row[1]], row[3]))  # names: their order may differ between runs
    fingerprints, labels, predicted, paths, probabilities = map(list, zip(*rows, strict=True))
    return Predictions(
        fingerprints, np.array(labels), np.array(predicted), classes, np.array(probabilities), paths, folder
    )


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _classes(names: list[str]) -> list[str]:
    classes = [name.removeprefix("p_") for name in names if name.startswith("p_")]
    missing = [name for name in COLUMNS if name not in names] or (["p_CLASS"] if len(classes) < 2 else [])
    if missing:
        raise ValueError(f"column {', '.join(missing)} is missing; found {', '.join(names[:20])}")
    if len(set(names)) < len(names):
        raise ValueError(f"column {max(names, key=names.count)} stands there twice")
    return classes


def _row(row: dict[str, str], index: dict[str, int]) -> tuple:
    if None in row or None in row.values():
        raise ValueError("values are missing or too many")
    for column in ("label", "predicted"):
        if row[column] not in index:
            raise ValueError(f"{column} {row[column]!r} is none of the classes {', '.join(list(index)[:20])}")
    probabilities = [float(row[f"p_{name}"]) for name in index]
    if not all(0 <= p <= 1 and math.isfinite(p) for p in probabilities):
        raise ValueError("probabilities lie in 0 to 1")
    return row["fingerprint"], index[row["label"]], index[row["predicted"]], row["path"], probabilities


def pair(a: Predictions, b: Predictions) -> None:
    """Makes sure that line i of both is the same image with the same label.

    Raises:
        ValueError: other classes, other images (how many only in one, with an example), or other labels.
    """
    if sorted(a.classes) != sorted(b.classes):
        raise ValueError(
            f"{a.source} and {b.source} know other classes ({', '.join(a.classes)}; {', '.join(b.classes)}); "
            "compare runs on the same data"
        )
    if a.fingerprints != b.fingerprints:
        only_a = Counter(a.fingerprints) - Counter(b.fingerprints)
        only_b = Counter(b.fingerprints) - Counter(a.fingerprints)
        whole, example = (a, next(iter(only_a))) if only_a else (b, next(iter(only_b)))
        raise ValueError(
            f"{a.source} and {b.source} were tested on other images: {only_a.total():,} only in {a.source}, "
            f"{only_b.total():,} only in {b.source}; e.g. {whole.paths[whole.fingerprints.index(example)]} of "
            f"{whole.source}; compare runs with the same splits"
        )
    theirs = np.array([a.classes.index(name) for name in b.classes])[b.labels]
    others = np.flatnonzero(a.labels != theirs)
    if len(others):
        first = int(others[0])
        raise ValueError(
            f"{a.source} and {b.source} label {len(others):,} images differently; e.g. {a.paths[first]}: "
            f"{a.classes[a.labels[first]]}, {a.classes[theirs[first]]}; compare runs on the same labels"
        )


def correct_matrix(runs: Sequence[Predictions]) -> np.ndarray:
    """Whether each run is right on each image, (runs, n) bool, in the order of the first one's lines.

    Raises:
        ValueError: no runs, or runs that cannot be paired.
    """
    if len(runs) == 0:
        raise ValueError("there are no runs to compare; give at least one")
    for run in runs[1:]:
        pair(runs[0], run)
    return np.stack([run.labels == run.predicted for run in runs])
