"""Accuracy on subsets of the pictures, over runs that differ in their seed: python -m reports.subsets RUN_OR_FOLDER

A subset is a value of a further column of the run's splits.csv, such as the camera or the kind of cell.
"""

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import LARGEST_TABLE, check_size
from .gather import find
from .predictions import Predictions, correct_matrix, has_predictions, read_predictions
from .statistics import Interval, accuracy_interval, over_seeds

OWN = ("path", "label", "split", "group", "weight")  # columns of splits.csv that name no subset
MOST = 50  # values of a column; one that has more names pictures


class Row(NamedTuple):
    """A subset of n pictures, measured by so many runs."""

    name: str
    n: int
    accuracy: float  # mean over the runs
    standard_deviation: float | None  # over the runs
    interval: Interval  # over runs and pictures, 95%


def by_subset(folder: Path) -> tuple[str, int, list[Row]]:
    """The split, the number of runs, and all pictures, then each subset, then all by their weights in training.

    Raises:
        ValueError: no runs, runs of different pictures, or splits.csv without a further column.
    """
    runs = [path.parent for path in find(str(folder))]
    split = "test" if all(has_predictions(run, "test") for run in runs) else "val"
    tables = [read_predictions(run, split) for run in runs]
    correct = correct_matrix(tables)  # (runs, pictures); refuses runs on other pictures
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
    return split, len(runs), rows


def weighted_accuracy(folder: Path) -> tuple[float, float | None] | None:
    """Mean and standard deviation over the runs of the accuracy by the pictures' weights; None where they have none."""
    runs = [path.parent for path in find(str(folder))]
    split = "test" if all(has_predictions(run, "test") for run in runs) else "val"
    tables = [read_predictions(run, split) for run in runs]
    columns = _columns(tables[0])
    if "weight" not in columns:
        return None
    weights = np.array(columns["weight"], float)
    found = over_seeds([float(np.average(row, weights=weights)) for row in correct_matrix(tables)])
    return found.mean, found.standard_deviation


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
    seeds = over_seeds(correct.mean(axis=1).tolist())
    return Row(name, correct.shape[1], seeds.mean, seeds.standard_deviation, accuracy_interval(correct))


def in_markdown(folder: Path) -> str:
    """The table with what it is of."""
    split, runs, rows = by_subset(folder)
    lines = [
        f"Accuracy on subsets of {split}, {runs} run{'s' * (runs > 1)}; 95% intervals over runs and pictures.", "",
        "| subset | pictures | accuracy | SD of runs | 95% interval |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        deviation = "" if row.standard_deviation is None else f"{row.standard_deviation:.3f}"
        low, high = row.interval
        lines.append(f"| {row.name} | {row.n:,} | {row.accuracy:.3f} | {deviation} | {low:.3f} to {high:.3f} |")
    weighted = weighted_accuracy(folder)
    if weighted:
        spread = "" if weighted[1] is None else f" (SD of runs {weighted[1]:.3f})"
        lines += ["", f"All, each picture by its weight: {weighted[0]:.3f}{spread}."]
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
