"""Accuracy on subsets of the images, over runs that differ in their seed: python -m reports.subsets RUN_OR_FOLDER

A subset is a value of a further column of the run's splits.csv, such as the camera or the kind of cell.
"""

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.atomic_io import LARGEST_TABLE, check_size
from common.predictions_csv import Predictions, correct_matrix, has_predictions, read_predictions
from evaluation.intervals import Interval, Seeds, accuracy_interval, mean_over_seeds
from reports.load_runs import find_records

OWN = ("path", "label", "split", "group", "weight")  # columns of splits.csv that name no subset
MOST = 50  # values of a column; one that has more names images


class Row(NamedTuple):
    """A subset of n images, measured by so many runs."""

    name: str
    n: int
    accuracy: float  # mean over the runs
    standard_deviation: float | None  # over the runs
    interval: Interval  # over runs and images, 95%


class Subsets(NamedTuple):
    """What runs of one split got right of all images and of each subset."""

    split: str
    runs: int
    rows: list[Row]  # all, then a row a subset
    weighted: Seeds | None  # accuracy of all by the images' weights in training; None where they have none


def read_subsets(folder: Path) -> Subsets:
    """Of the runs below a folder.

    Raises:
        ValueError: no runs, runs of different images, or splits.csv without a further column.
    """
    runs = [path.parent for path in find_records(str(folder))]
    split = "test" if all(has_predictions(run, "test") for run in runs) else "val"
    tables = [read_predictions(run, split) for run in runs]
    correct = correct_matrix(tables)  # (runs, images); refuses runs on other images
    columns = _columns(tables[0])
    rows = [_row("all", correct)]
    for name in columns:
        values = sorted(set(columns[name]))
        if name not in OWN and len(values) <= MOST:
            rows += [_row(f"{name}={value}", correct[:, np.array(columns[name]) == value]) for value in values]
    if len(rows) == 1:
        raise ValueError(
            f"{runs[0] / 'splits.csv'}: no column beside {', '.join(OWN)} with up to {MOST} values names subsets"
        )
    weighted = None
    if "weight" in columns:
        weighted = mean_over_seeds(np.average(correct, axis=1, weights=np.array(columns["weight"], float)).tolist())
    return Subsets(split, len(runs), rows, weighted)


def _columns(predictions: Predictions) -> dict[str, list[str]]:
    """Columns of the run's splits.csv, each in the order of its predictions."""
    path = predictions.source / "splits.csv"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; every run of train.py writes one")
    check_size(path, LARGEST_TABLE)
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    missing = [name for name in predictions.paths if name not in rows]
    if missing:
        raise ValueError(f"{path}: {missing[0]} of predictions is not in it; run train.py again")
    names = list(next(iter(rows.values())))
    return {name: [rows[path][name] for path in predictions.paths] for name in names}


def _row(name: str, correct: np.ndarray) -> Row:
    seeds = mean_over_seeds(correct.mean(axis=1).tolist())
    return Row(name, correct.shape[1], seeds.mean, seeds.standard_deviation, accuracy_interval(correct))


def in_markdown(folder: Path) -> str:
    """The table with what it is of."""
    split, runs, rows, weighted = read_subsets(folder)
    lines = [
        f"Accuracy on subsets of {split}, {runs} run{'s' * (runs > 1)}; 95% intervals over runs and images.", "",
        "| subset | images | accuracy | SD of runs | 95% interval |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        deviation = "" if row.standard_deviation is None else f"{row.standard_deviation:.3f}"
        low, high = row.interval
        lines.append(f"| {row.name} | {row.n:,} | {row.accuracy:.3f} | {deviation} | {low:.3f} to {high:.3f} |")
    if weighted:
        deviation = weighted.standard_deviation
        spread = "" if deviation is None else f" (SD of runs {deviation:.3f})"
        lines += ["", f"All, each image by its weight: {weighted.mean:.3f}{spread}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Prints the table; the exit status."""
    if len(arguments) != 1:
        print("use: python -m reports.subsets RUN_OR_FOLDER", file=sys.stderr)
        return 2
    try:
        print(in_markdown(Path(arguments[0])), end="")
    except ValueError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
