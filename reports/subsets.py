"""Accuracy on subsets of the images, over runs that differ in their seed: python -m reports.subsets RUN_OR_FOLDER

A subset is all images with one value in an additional column of the run's splits.csv, such as the camera or the kind of cell.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.predictions_csv import Predictions
from common.run_folder import SPLIT_COLUMNS, RunFolder
from common.table import Table
from common.text import clean, format_interval, join_words, plural
from evaluation.intervals import Interval, Seeds, accuracy_interval, group_numbers, mean_over_seeds
from reports.accuracy import caveats_of_one_seed, read_common
from reports.config_diff import differences
from reports.load_runs import Run, load_below

MOST = 50  # values of a column; a column with more identifies images, not subsets


class SubsetRow(NamedTuple):
    """The accuracy of all runs on one subset of n images."""

    name: str
    n: int
    accuracy: float  # mean over the runs
    standard_deviation: float | None  # over the runs
    interval: Interval  # over runs and images, 95%


class Subsets(NamedTuple):
    """What runs of one split got right of all images and of each subset."""

    split: str
    runs: int
    rows: list[SubsetRow]  # all images, then one row per subset
    weighted: Seeds | None  # accuracy of all by the images' weights in training; None if they have none
    excluded: list[str]  # debug runs, unfinished ones and unreadable records, with the reason
    chose_epoch: bool  # these images: validation ones, or test ones with datamodule.select_on=test
    not_shown: list[str]  # columns of more than MOST values, with how many these are


def read_subsets(folder: Path) -> Subsets:
    """Measure the subsets over the runs below a folder.

    Raises:
        UserError: no runs, runs with different settings or images, or no additional column in splits.csv.
    """
    runs, excluded = _repetitions(folder)
    split, tables, correct = read_common(runs)
    columns = _columns(tables[0])
    groups = group_numbers(columns.get("group", [""] * correct.shape[1]))
    rows, not_shown = [_row("all", correct, groups)], []
    for name, column in columns.items():
        values = sorted(set(column))
        if name in SPLIT_COLUMNS:
            continue
        if len(values) > MOST:
            not_shown.append(f"{name} with {len(values):,} values")
        else:
            for value in values:
                chosen = np.array(column) == value
                rows.append(_row(f"{name}={value}", correct[:, chosen], None if groups is None else groups[chosen]))
    if len(rows) == 1:
        own = ", ".join(SPLIT_COLUMNS)
        raise UserError(f"{runs[0].folder.splits}: no column besides {own} names subsets (at most {MOST} values)")
    weights = _weights(columns, runs[0].folder)
    weighted = None if weights is None else mean_over_seeds(np.average(correct, axis=1, weights=weights).tolist())
    chose_epoch = split == "val" or any(run.selected_on_test for run in runs)
    return Subsets(split, len(runs), rows, weighted, excluded, chose_epoch, not_shown)


def _repetitions(folder: Path) -> tuple[list[Run], list[str]]:
    """Return the finished runs below a folder, which differ in their seed, and the other ones with the reason.

    Raises:
        UserError: none is finished, or they differ in more than the seed, so their mean would describe no network.
    """
    loaded = load_below(folder)
    runs = loaded.finished
    if not runs:
        raise UserError(f"{folder}: no finished run; finish it first")
    if others := differences(runs):
        raise UserError(
            f"{folder}: its runs differ in {join_words(others)}; give the folder of one of them, or of its seeds"
        )
    if len({run.fold for run in runs}) > 1:
        raise UserError(f"{folder}: its runs are folds, each with other images; give the folder of one of them")
    if repeated := [seed for seed, count in Counter(run.seed for run in runs).items() if count > 1]:
        raise UserError(f"{folder}: seed {repeated[0]} appears twice, which would count as two; delete one")
    return runs, loaded.why_excluded


def _columns(predictions: Predictions) -> dict[str, list[str]]:
    """Return the columns of the run's splits.csv, each in the order of its predictions."""
    run = predictions.source
    rows = {row["path"]: row for row in run.read_splits()}
    missing = [path for path in predictions.paths if path not in rows]
    if missing:
        raise UserError(f"{run.splits}: lacks {missing[0]}, which has a prediction; run train.py again")
    return {name: [rows[path][name] for path in predictions.paths] for name in next(iter(rows.values()))}


def _weights(columns: dict[str, list[str]], run: RunFolder) -> np.ndarray | None:
    """Return the images' weights in training, (n,), or None if they have none."""
    if "weight" not in columns:
        return None
    try:
        weights = np.array(columns["weight"], float)
    except ValueError as error:
        raise UserError(f"{run.splits}: column weight: {error}; run train.py again") from error
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise UserError(f"{run.splits}: column weight: some are negative, NaN or infinite; run train.py again")
    return weights if weights.sum() > 0 else None


def _row(name: str, correct: np.ndarray, groups: np.ndarray | None) -> SubsetRow:
    seeds = mean_over_seeds(correct.mean(axis=1).tolist())
    n = correct.shape[1]
    return SubsetRow(name, n, seeds.mean, seeds.standard_deviation, accuracy_interval(correct, groups))


def _cells(row: SubsetRow) -> list[str]:
    deviation = "" if row.standard_deviation is None else f"{row.standard_deviation:.3f}"
    return [row.name, f"{row.n:,}", f"{row.accuracy:.3f}", deviation, format_interval(*row.interval)]


def subset_table(folder: Path) -> str:
    """Return the subsets of the runs below a folder as a Markdown table with its explanation."""
    split, runs, rows, weighted, excluded, chose_epoch, not_shown = read_subsets(folder)
    table = Table.of(["subset", "images", "accuracy", "SD of runs", "95% interval"], map(_cells, rows))
    lines = [f"Accuracy on subsets of {split}, {plural(runs, 'run')}; 95% intervals over runs and images.", ""]
    lines += table.as_markdown()
    if weighted:
        deviation = weighted.standard_deviation
        spread = "" if deviation is None else f" (SD of runs {deviation:.3f})"
        lines += ["", f"All images, weighted as in training: {weighted.mean:.3f}{spread}."]
    caveats = caveats_of_one_seed((row.accuracy, row.n) for row in rows) if runs == 1 else []
    if chose_epoch:
        caveats.append("these images also chose the epoch, so accuracies are too good")
    if caveats:
        lines += ["", *(f"{caveat.capitalize()}." for caveat in caveats)]
    if not_shown:
        lines += [
            "",
            f"Not shown, because a column of subsets has at most {MOST} values: {clean(join_words(not_shown))}.",
        ]
    if excluded:
        lines += ["", *(f"Excluded: {clean(why)}." for why in excluded)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print the table; return the exit status."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("use: python -m reports.subsets RUN_OR_FOLDER", file=sys.stderr)
        return 2
    try:
        print(subset_table(Path(arguments[0])), end="")
    except (UserError, OSError) as error:
        print(f"ERROR: {clean(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
