"""Catalog from a CSV: path, label, and optionally split, group and weight. A run's splits.csv is such a table.

Further columns name subsets of the images; `python -m reports.subsets RUN` gives the accuracy on each.
"""

import logging
from pathlib import Path, PurePosixPath

import numpy as np

from common.errors import UserError
from common.run_folder import SPLIT_COLUMNS
from common.text import clean, join_words
from common.untrusted.tables import iterate_csv
from datamodules.sources.catalog import SPLITS, UNASSIGNED, Catalog

log = logging.getLogger(__name__)

NEEDED, OPTIONAL = SPLIT_COLUMNS[:2], SPLIT_COLUMNS[2:]
MOST_CLASSES = 100_000
LARGEST_WEIGHT = 1e6  # so that a loss stays finite


def table_catalog(table: Path, root: Path | None) -> Catalog:
    """Read the rows of a table; open no image. Paths are relative to `root`, or to the table's folder.

    Rows without a split are split later; so are the excluded rows of a run's splits.csv, which have none either.

    Raises:
        UserError: names the line: a column missing, an unknown split, a weight that is not a number, a path that leaves the
            folder or does not exist, an image twice.
    """
    folder = root or table.parent
    name = f"datamodule.table={table}"
    rows, seen = [], {}
    try:
        for line, row in iterate_csv(table, NEEDED):
            _check(row, f"{table}: line {line}", folder, seen)
            seen[PurePosixPath(row["path"])] = line
            rows.append(row)
    except UserError as error:
        raise UserError(f"datamodule.table={error}") from error
    if not rows:
        raise UserError(f"{name}: there are no rows; needed are {', '.join(NEEDED)}, optional {', '.join(OPTIONAL)}")
    if further := [column for column in rows[0] if column not in SPLIT_COLUMNS]:
        shown = join_words([clean(column, 40) for column in further], 10)
        log.info("%s: further columns, kept for reports.subsets: %s", name, shown)
    classes = sorted({row["label"] for row in rows})
    if not 2 <= len(classes) <= MOST_CLASSES:
        what = f"a single class ({classes[0]})" if len(classes) == 1 else f"{len(classes):,} classes"
        raise UserError(f"{name}: {what}; a classifier needs two or more, up to {MOST_CLASSES:,}")
    index = {name: label for label, name in enumerate(classes)}
    weights = np.array([float(row.get("weight") or 1) for row in rows], np.float32)
    if not weights.any():
        raise UserError(f"{name}: every weight is 0, so that nothing would be learned")
    return Catalog(
        name=table.stem,
        root=folder,
        classes=classes,
        paths=[row["path"] for row in rows],
        labels=np.array([index[row["label"]] for row in rows]),
        splits=np.array([row.get("split") or UNASSIGNED for row in rows], dtype="<U5"),
        groups=[row.get("group") or "" for row in rows],
        weights=weights if "weight" in rows[0] else None,
        subsets={column: [row[column] for row in rows] for column in further},
    )


def _check(row: dict[str, str], place: str, folder: Path, seen: dict[PurePosixPath, int]) -> None:
    path, label, split = row["path"], row["label"], row.get("split") or UNASSIGNED
    if not path or not label:
        raise UserError(f"{place}: path and label are needed, found path={path[:200]!r} label={label[:60]!r}")
    if label != label.strip() or "\0" in label:
        raise UserError(f"{place}: label={label[:60]!r}: a name without blanks around it is needed")
    if not _is_utf8(label):  # a path may be of other bytes, where there is such a file
        raise UserError(f"{place}: label={label[:60]!r}: the table is not in UTF-8")
    if split not in (*SPLITS, UNASSIGNED):
        raise UserError(f"{place}: split={split[:60]!r}; use {', '.join(SPLITS)} or leave it empty")
    weight = row.get("weight") or "1"
    if not _is_weight(weight):
        raise UserError(f"{place}: weight={weight[:60]!r}; use a number of 0 or more, up to {LARGEST_WEIGHT:,.0f}")
    if ".." in PurePosixPath(path).parts or "\0" in path or Path(path).is_absolute():
        raise UserError(
            f"{place}: path={path[:200]!r} leaves the folder {folder}; use paths below it, or datamodule.root=DIR"
        )
    if not _is_file(folder / path):
        raise UserError(f"{place}: no such file: {str(folder / path)[:300]}")
    if (earlier := seen.get(PurePosixPath(path))) is not None:  # of a.png, ./a.png and .//a.png
        raise UserError(f"{place}: {path[:200]} is in line {earlier} already")


def _is_utf8(text: str) -> bool:
    """Return False where bytes of another encoding were read."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_weight(text: str) -> bool:
    try:
        return 0 <= float(text) <= LARGEST_WEIGHT
    except ValueError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a file
        return False
