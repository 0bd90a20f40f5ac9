"""metrics.csv of the runs of a row, as curves over epochs."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.atomic_io import check_size
from common.text import clean
from reports.load_runs import Run

FILE = "metrics.csv"
LARGEST = 16 * 2**20  # bytes; some 100,000 epochs
MOST_EPOCHS = 1_000_000
COLUMNS = ("val/accuracy", "train/accuracy", "val/loss", "train/loss", "lr")


class Curve(NamedTuple):
    """One quantity over epochs; NaN where a run has no value."""

    epochs: np.ndarray  # (E,)
    values: np.ndarray  # (R, E) one line a run


def over_epochs(runs: Sequence[Run]) -> tuple[dict[str, Curve], list[str]]:
    """A curve a column, and what could not be read; a table cut off in a line counts up to that line."""
    tables, notes = [], []
    for run in runs:
        rows, note = _read(run)
        tables.append(rows)
        if note:
            notes.append(note)
    epochs = sorted({epoch for rows in tables for epoch in rows})
    place = {epoch: index for index, epoch in enumerate(epochs)}
    curves = {}
    for number, column in enumerate(COLUMNS):
        values = np.full((len(tables), len(epochs)), np.nan)
        for line, rows in zip(values, tables, strict=True):
            for epoch, figures in rows.items():
                line[place[epoch]] = figures[number]
        curves[column] = Curve(np.array(epochs), values[~np.isnan(values).all(axis=1)] if epochs else values)
    return curves, notes


def _read(run: Run) -> tuple[dict[int, list[float]], str | None]:
    """epoch -> figures in the order of COLUMNS."""
    path = run.folder / FILE
    try:
        check_size(path, LARGEST)
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return {}, f"{FILE} is missing in {run.name}"
    except ValueError as error:
        return {}, f"{FILE} is missing in {run.name}" if not path.exists() else clean(error)
    whole = text.endswith("\n")
    rows = {}
    try:
        for row in csv.DictReader(io.StringIO(text if whole else text[: text.rfind("\n") + 1], newline="")):
            epoch = int(float(row["epoch"]))
            if not 0 <= epoch <= MOST_EPOCHS:
                raise ValueError("no number of an epoch")
            rows[epoch] = [_figure(row.get(column)) for column in COLUMNS]
    except (KeyError, ValueError, TypeError, OverflowError, csv.Error):
        whole = False
    return rows, None if whole and rows else f"{FILE} of {run.name} is cut off or odd after {len(rows):,} epochs"


def _figure(text: str | None) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan
