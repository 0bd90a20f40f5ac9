"""Catalog from a CSV: path, label, and where wanted split, group and weight. A run's splits.csv is such a table."""

import csv
import math
from pathlib import Path, PurePosixPath

import numpy as np

from .catalog import SPLITS, UNASSIGNED, Catalog

NEEDED, OPTIONAL = ("path", "label"), ("split", "group", "weight")


def table_catalog(table: Path, root: Path | None) -> Catalog:
    """Reads the rows; opens no picture. Paths are relative to `root`, or to the table's folder.

    Rows without a split are left to be split; rows of a run's splits.csv that had been left out have none either.

    Raises:
        ValueError: names the line: a column missing, an unknown split, a weight that is none, a path that leaves the folder
            or is not there, a picture twice.
    """
    if not table.is_file():
        raise ValueError(
            f"datamodule.table={table}: no such file; a CSV with the columns {', '.join(NEEDED)} is needed"
        )
    folder = root or table.parent
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"datamodule.table={table}: not a CSV in UTF-8 ({error})") from error
    lacking = [name for name in NEEDED if name not in columns]
    if lacking or not rows:
        found = ", ".join(columns) or "nothing"
        what = f"the column {lacking[0]} is missing" if lacking else "there are no rows"
        raise ValueError(f"datamodule.table={table}: {what}; found {found}; needed {', '.join(NEEDED)}, "
                         f"optional {', '.join(OPTIONAL)}")  # fmt: skip
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        _check(row, f"datamodule.table={table}, line {number}", folder, seen, number)
    classes = sorted({row["label"] for row in rows})
    if len(classes) < 2:
        raise ValueError(f"datamodule.table={table}: a single class ({classes[0]}); a classifier needs two or more")
    index = {name: label for label, name in enumerate(classes)}
    weights = [float(row.get("weight") or 1) for row in rows]
    return Catalog(
        name=table.stem,
        root=folder,
        classes=classes,
        paths=[row["path"] for row in rows],
        labels=np.array([index[row["label"]] for row in rows]),
        splits=np.array([row.get("split") or UNASSIGNED for row in rows], dtype="<U5"),
        groups=[row.get("group") or "" for row in rows],
        weights=np.array(weights, np.float32) if "weight" in columns else None,
    )


def _check(row: dict, place: str, folder: Path, seen: dict[str, int], number: int) -> None:
    path, label, split = row["path"], row["label"], row.get("split") or UNASSIGNED
    if not path or not label:
        raise ValueError(f"{place}: path and label are needed, found path={path!r} label={label!r}")
    if split not in (*SPLITS, UNASSIGNED):
        raise ValueError(f"{place}: split={split!r}; use {', '.join(SPLITS)} or leave it empty")
    weight = row.get("weight") or "1"
    try:
        valid = float(weight) >= 0 and math.isfinite(float(weight))
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{place}: weight={weight!r}; use a number of 0 or more")
    if ".." in PurePosixPath(path).parts or "\0" in path or Path(path).is_absolute():
        raise ValueError(
            f"{place}: path={path!r} leaves the folder {folder}; use paths below it, or datamodule.root=DIR"
        )
    if not (folder / path).is_file():
        raise ValueError(f"{place}: no such file: {folder / path}")
    if path in seen:
        raise ValueError(f"{place}: {path} stands in line {seen[path]} already")
    seen[path] = number
