"""Write predictions.csv and predictions_val.csv, read them back, and pair them by the pixels of their images.

With more than MOST_IN_CSV classes they are predictions.parquet and predictions_val.parquet, with the same columns.
"""

import importlib.util
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.atomic_io import atomic_open, write_csv
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import SplitMetrics
from common.targets import import_extra
from common.text import clean, join_words
from common.untrusted.tables import LARGEST_TABLE, check_size, iterate_csv

log = logging.getLogger(__name__)

COLUMNS = ("path", "fingerprint", "label", "predicted")  # followed by p_CLASS for each class
MOST_IN_CSV = 100  # classes; with a thousand, a table of 100,000 images would take a gigabyte
MOST_VALUES = 2**30  # of a table in parquet, which a small file may repeat: a million images of a thousand classes
RERUN = "run the stage test again"


class Predictions(NamedTuple):
    """The predictions of a network on n images of K classes.

    A table is sorted by fingerprint, then label, then path when it is read, so two tables of the same images can be paired line
    by line, and images with equal pixels by their occurrence.
    """

    fingerprints: list[str]
    labels: np.ndarray  # (n,) indices of classes
    predicted: np.ndarray  # (n,)
    classes: list[str]
    probabilities: np.ndarray  # (n, K) float64
    paths: list[str]
    source: RunFolder
    logits: np.ndarray | None = None  # (n, K) float64; only if the network just ran, since tables do not hold them
    groups: np.ndarray | None = None  # (n,) numbers; None if each image is its own group, and in a table read back

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
    """Return the row of an image; `probabilities` maps class names, and is empty if the image cannot be read."""
    row = dict(zip(COLUMNS, (path, fingerprint, label, predicted), strict=True))
    return row | {f"p_{name}": f"{p:.6f}" for name, p in probabilities.items()}


def write_predictions(folder: RunFolder, split: str, predictions: Predictions) -> None:
    """Write the table of a run's split, test or val, one row per image in the order given.

    With many classes it is a parquet file, unless pyarrow is not installed or a path is not UTF-8. A table in the other format
    from an earlier test stage is removed.
    """
    classes = predictions.classes
    if len(classes) > MOST_IN_CSV and _can_write_parquet(predictions):
        _write_parquet(folder.predictions_parquet(split), predictions)
        folder.predictions(split).unlink(missing_ok=True)
        return
    rows = (
        prediction_row(path, fingerprint, classes[label], classes[predicted], dict(zip(classes, line, strict=True)))
        for fingerprint, label, predicted, line, path in zip(
            predictions.fingerprints, predictions.labels, predictions.predicted, predictions.probabilities.tolist(),
            predictions.paths, strict=True,
        )
    )  # fmt: skip
    write_csv(folder.predictions(split), prediction_columns(classes), rows)
    folder.predictions_parquet(split).unlink(missing_ok=True)


def _can_write_parquet(predictions: Predictions) -> bool:
    if importlib.util.find_spec("pyarrow") is None:
        log.warning('%d classes: predictions are written as CSV, which is large; for parquet: pip install -e ".[parquet]"',
                    len(predictions.classes))  # fmt: skip
        return False
    try:
        "".join((*predictions.paths, *predictions.classes)).encode()
    except UnicodeEncodeError:
        log.warning("predictions are written as CSV: a parquet file cannot hold a file name that is not UTF-8")
        return False
    return True


def _write_parquet(path: Path, predictions: Predictions) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = np.array(predictions.classes, dtype=object)
    texts = [predictions.paths, predictions.fingerprints, names[predictions.labels], names[predictions.predicted]]
    columns = [pa.array(list(each), pa.string()) for each in texts]
    columns += [pa.array(each) for each in predictions.probabilities.T.astype(np.float32)]
    with atomic_open(path, "wb") as file:
        parquet.write_table(pa.Table.from_arrays(columns, prediction_columns(predictions.classes)), file)


def predictions_file(folder: RunFolder, split: str) -> Path | None:
    """Return the path of the run's table of this split, test or val; None if there is none."""
    return next(
        (path for path in (folder.predictions(split), folder.predictions_parquet(split)) if path.is_file()), None
    )


def read_predicted_images(folder: RunFolder, split: str) -> list[dict[str, str]]:
    """Return path, fingerprint, label and predicted class of each image in the table of a run's split, in its order.

    Raises:
        UserError: the file is missing or cut off, or lacks columns.
    """
    path = predictions_file(folder, split) or folder.predictions(split)
    if path.suffix == ".csv":
        return [{name: row[name] for name in COLUMNS} for _, row in iterate_csv(path, COLUMNS, complete=True)]
    table = _read_parquet(path, COLUMNS)
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*(table[name] for name in COLUMNS), strict=True)]


def _read_parquet(path: Path, columns: Sequence[str] | None = None) -> dict[str, list | np.ndarray]:
    """Return columns of an untrusted table (None: all), texts as lists and numbers as arrays.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged, too large, or has columns that no run writes.
    """
    check_size(path, LARGEST_TABLE)
    parquet = import_extra("pyarrow.parquet", str(path), "parquet")  # builds of pyarrow may lack this part
    from pyarrow import ArrowException, types

    try:
        with parquet.ParquetFile(path) as file:
            schema, n = file.schema_arrow, file.metadata.num_rows
            if n * len(schema.names) > MOST_VALUES:
                raise UserError(
                    f"{path}: {n:,} images with {len(schema.names):,} columns are more than a table may have"
                )
            if missing := [name for name in COLUMNS if name not in schema.names]:
                raise UserError(f"{path}: column {', '.join(missing)} is missing")
            for field in schema:
                fits = types.is_string(field.type) if field.name in COLUMNS else types.is_float32(field.type)
                if not fits:
                    raise UserError(
                        f"{path}: column {clean(field.name, 40)} has the type {field.type}, which no run writes"
                    )
            table = file.read(columns=list(columns) if columns else None)
            if any(column.null_count for column in table.columns):
                raise UserError(f"{path}: values are missing")
            return {
                name: table[name].to_pylist() if name in COLUMNS else table[name].to_numpy()
                for name in table.column_names
            }
    except (ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: not a whole parquet file ({clean(error, 200)}); {RERUN}") from error


def read_predictions(folder: RunFolder, split: str, measured: SplitMetrics | None = None) -> Predictions:
    """Read the table of a run's split, test or val.

    Args:
        measured: metrics of the split in the run's record; the counts of a complete table must equal theirs.

    Raises:
        UserError: the file is missing or cut off, lacks columns, or has values that no run writes; with file and line.
    """
    table = _read_predictions(folder, split)
    if measured and measured.accuracy:
        n, found = len(table.labels), measured.accuracy
        if (int(table.correct.sum()), n) != (found.correct, found.n):
            raise UserError(
                f"{predictions_file(folder, split)}: {table.correct.sum():,} of {n:,} images are right, but "
                f"{found.correct:,} of {found.n:,} in {folder.record.name}: lines are missing or changed; {RERUN}"
            )
    return table


def _read_predictions(folder: RunFolder, split: str) -> Predictions:
    path = predictions_file(folder, split)
    if path is None:
        path = folder.predictions(split)
        raise UserError(f"{path}: no such file; run the stage test: python train.py 'stages=[test]' ckpt_path=...")
    if path.suffix != ".csv":
        return _predictions_of(path, _read_parquet(path), folder)
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


def _predictions_of(path: Path, table: dict[str, list | np.ndarray], folder: RunFolder) -> Predictions:
    """Return the predictions in a parquet table, like `read_predictions` for a CSV."""
    paths, fingerprints, labels, predicted = (table.pop(name) for name in COLUMNS)
    try:
        index = _class_indices(table)
        columns = [[index[name] for name in each] for each in (labels, predicted)]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {clean(error, 200)} is not one of the classes; {RERUN}") from error
    probabilities = np.stack([table[f"p_{name}"] for name in index], axis=1).astype(np.float64)
    if not paths or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError(f"{path}: {'probabilities are from 0 to 1' if paths else 'there are no images'}; {RERUN}")
    order = sorted(range(len(paths)), key=lambda row: (fingerprints[row], labels[row], paths[row]))
    labels, predicted = (np.array(each)[order] for each in columns)
    fingerprints, paths = ([each[row] for row in order] for each in (fingerprints, paths))
    return Predictions(fingerprints, labels, predicted, list(index), probabilities[order], paths, folder)


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
    if not all(0 <= p <= 1 for p in probabilities):
        raise ValueError("probabilities are from 0 to 1")
    return row["fingerprint"], index[row["label"]], index[row["predicted"]], row["path"], probabilities


def pair(a: Predictions, b: Predictions) -> None:
    """Check that line i of both is the same image with the same label.

    Raises:
        UserError: classes, images (how many are in only one, with an example) or labels differ.
    """
    name_a, name_b = a.source.path, b.source.path
    only = {name: sorted({*one.classes} - {*other.classes}) for name, one, other in ((name_a, a, b), (name_b, b, a))}
    if any(only.values()):
        found = "; ".join(f"only in {name}: {join_words(classes)}" for name, classes in only.items() if classes)
        raise UserError(
            f"{name_a} and {name_b} have different classes ({found}); compare runs on the same data; after renaming a class, "
            "repeat the earlier run on the renamed data"
        )
    if a.fingerprints != b.fingerprints:
        only_a = Counter(a.fingerprints) - Counter(b.fingerprints)
        only_b = Counter(b.fingerprints) - Counter(a.fingerprints)
        larger, example = (a, next(iter(only_a))) if only_a else (b, next(iter(only_b)))
        raise UserError(
            f"{name_a} and {name_b} were tested on different images: {only_a.total():,} only in {name_a}, "
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
    """Return whether each run is right on each image, (runs, n) bool, in the order of the first run's lines.

    Raises:
        UserError: there are no runs, or they cannot be paired.
    """
    if len(runs) == 0:
        raise UserError("there are no runs to compare; give at least one")
    for run in runs[1:]:
        pair(runs[0], run)
    return np.stack([run.correct for run in runs])
