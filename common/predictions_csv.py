"""predictions.csv and predictions_val.csv: written, read back, and paired by the pixels of their images."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.atomic_io import write_csv
from common.errors import UserError
from common.run_folder import RunFolder
from common.untrusted.tables import iterate_csv

COLUMNS = ("path", "fingerprint", "label", "predicted")  # then p_CLASS of each class
RERUN = "run the stage test again"


class Predictions(NamedTuple):
    """The predictions of a network on n images of K classes.

    A table is read sorted by fingerprint, then label, then path, so that two tables of the same images are paired line by
    line, images of equal pixels by their occurrence.
    """

    fingerprints: list[str]
    labels: np.ndarray  # (n,) indices of classes
    predicted: np.ndarray  # (n,)
    classes: list[str]
    probabilities: np.ndarray  # (n, K) float64
    paths: list[str]
    source: RunFolder
    logits: np.ndarray | None = None  # (n, K) float64; only where the network just ran, since no table has them
    groups: np.ndarray | None = None  # (n,) numbers; None where each image is its own, and in a table read back

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is predicted correctly, (n,) bool."""
        return self.labels == self.predicted


def prediction_columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of a table of predictions."""
    return [*COLUMNS, *(f"p_{name}" for name in classes)]


def prediction_row(
    path: str, fingerprint: str, label: str, predicted: str, probabilities: Mapping[str, float]
) -> dict[str, str]:
    """Return the row of an image; `probabilities` by the name of the class, empty where the image cannot be read."""
    row = dict(zip(COLUMNS, (path, fingerprint, label, predicted), strict=True))
    return row | {f"p_{name}": f"{p:.6f}" for name, p in probabilities.items()}


def write_predictions(folder: RunFolder, split: str, predictions: Predictions) -> None:
    """Write the table of a run's split, test or val, a row an image in the order given."""
    classes = predictions.classes
    rows = (
        prediction_row(path, fingerprint, classes[label], classes[predicted], dict(zip(classes, line, strict=True)))
        for fingerprint, label, predicted, line, path in zip(
            predictions.fingerprints, predictions.labels, predictions.predicted, predictions.probabilities.tolist(),
            predictions.paths, strict=True,
        )
    )  # fmt: skip
    write_csv(folder.predictions(split), prediction_columns(classes), rows)


def has_predictions(folder: RunFolder, split: str) -> bool:
    """Return whether the run left a table of this split, test or val."""
    return folder.predictions(split).is_file()


def read_predictions(folder: RunFolder, split: str) -> Predictions:
    """Read the table of a run's split, test or val.

    Raises:
        UserError: no such file, columns missing, cut off, or values that no run writes; with file and line.
    """
    path = folder.predictions(split)
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage test: python train.py 'stages=[test]' ckpt_path=...")
    rows, index, line = [], {}, 1
    try:
        for line, row in iterate_csv(path, COLUMNS, complete=True):  # noqa: B007 an error below names the line
            index = index or _class_indices(row)
            rows.append(_parse(row, index))
    except UserError as error:
        raise UserError(f"{error}; {RERUN}") from error
    except ValueError as error:
        raise UserError(f"{path}: line {line}: {error}; {RERUN}") from error
    if not rows:
        raise UserError(f"{path}: there are no images; {RERUN}")
    classes = list(index)
    rows.sort(key=lambda row: (row[0], classes[row[1]], row[3]))  # names: their order may differ between runs
    fingerprints, labels, predicted, paths, probabilities = map(list, zip(*rows, strict=True))
    return Predictions(
        fingerprints, np.array(labels), np.array(predicted), classes, np.array(probabilities), paths, folder
    )


def _class_indices(row: dict[str, str]) -> dict[str, int]:
    classes = [name.removeprefix("p_") for name in row if name.startswith("p_")]
    if len(classes) < 2:
        raise ValueError(f"column p_CLASS is missing; found {', '.join(list(row)[:20])}")
    return {name: k for k, name in enumerate(classes)}


def _parse(row: dict[str, str], index: dict[str, int]) -> tuple:
    for column in ("label", "predicted"):
        if row[column] not in index:
            raise ValueError(f"{column} {row[column]!r} is none of the classes {', '.join(list(index)[:20])}")
    probabilities = [float(row[f"p_{name}"]) for name in index]
    if not all(0 <= p <= 1 and math.isfinite(p) for p in probabilities):
        raise ValueError("probabilities are from 0 to 1")
    return row["fingerprint"], index[row["label"]], index[row["predicted"]], row["path"], probabilities


def pair(a: Predictions, b: Predictions) -> None:
    """Make sure that line i of both is the same image with the same label.

    Raises:
        UserError: other classes, other images (how many only in one, with an example), or other labels.
    """
    name_a, name_b = a.source.path, b.source.path
    if sorted(a.classes) != sorted(b.classes):
        raise UserError(
            f"{name_a} and {name_b} know other classes ({', '.join(a.classes)}; {', '.join(b.classes)}); "
            "compare runs on the same data"
        )
    if a.fingerprints != b.fingerprints:
        only_a = Counter(a.fingerprints) - Counter(b.fingerprints)
        only_b = Counter(b.fingerprints) - Counter(a.fingerprints)
        larger, example = (a, next(iter(only_a))) if only_a else (b, next(iter(only_b)))
        raise UserError(
            f"{name_a} and {name_b} were tested on other images: {only_a.total():,} only in {name_a}, "
            f"{only_b.total():,} only in {name_b}; e.g. {larger.paths[larger.fingerprints.index(example)]} of "
            f"{larger.source.path}; compare runs with the same splits"
        )
    labels_b = np.array([a.classes.index(name) for name in b.classes])[b.labels]
    different = np.flatnonzero(a.labels != labels_b)
    if len(different):
        first = int(different[0])
        raise UserError(
            f"{name_a} and {name_b} label {len(different):,} images differently; e.g. {a.paths[first]}: "
            f"{a.classes[a.labels[first]]}, {a.classes[labels_b[first]]}; compare runs on the same labels"
        )


def correct_matrix(runs: Sequence[Predictions]) -> np.ndarray:
    """Return whether each run is right on each image, (runs, n) bool, in the order of the first one's lines.

    Raises:
        UserError: no runs, or runs that cannot be paired.
    """
    if len(runs) == 0:
        raise UserError("there are no runs to compare; give at least one")
    for run in runs[1:]:
        pair(runs[0], run)
    return np.stack([run.correct for run in runs])
