"""Curves over epochs from the metrics.csv of a row's runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.run_folder import METRIC_COLUMNS
from common.text import clean
from reports.load_runs import Run


class Curve(NamedTuple):
    """One metric of R runs over E epochs; NaN where a run has no value."""

    epochs: np.ndarray  # (E,)
    values: np.ndarray  # (R, E)


def training_curves(runs: Sequence[Run]) -> tuple[dict[str, Curve], list[str]]:
    """Return a curve for each column of metrics.csv, and which tables could not be read."""
    tables, notes = [], []
    for run in runs:
        try:
            tables.append(run.folder.read_metrics())
        except (UserError, OSError) as error:
            exists = run.folder.metrics.exists()
            notes.append(clean(error) if exists else f"{run.folder.metrics.name} is missing in {run.name}")
    epochs = sorted({epoch for rows in tables for epoch in rows})
    curves = {}
    for column in METRIC_COLUMNS[1:]:
        values = np.array([[rows.get(e, {}).get(column, np.nan) for e in epochs] for rows in tables], dtype=np.float64)
        values = values.reshape(len(tables), len(epochs))
        curves[column] = Curve(np.array(epochs), values[~np.isnan(values).all(axis=1)])
    return curves, notes
