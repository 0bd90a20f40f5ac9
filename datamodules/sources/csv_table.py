"""Catalog from a CSV: path, label, and where wanted split, group and weight. A run's splits.csv is such a table.

Further columns name subsets of the images; `python -m reports.subsets RUN` gives the accuracy on each.
"""

import csv
import logging
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.sources.catalog import SPLITS, UNASSIGNED, Catalog

log = logging.getLogger(__name__)

NEEDED, OPTIONAL = ("path", "label"), ("split", "group", "weight")
LARGEST = 2**30  # bytes; ten million images
MOST_CLASSES = 100_000
HEAVIEST = 1e6  # of the weights, so that a loss stays a number


def table_catalog(table: Path, root: Path | None) -> Catalog:
    """Reads the rows; opens no image. Paths are relative to `root`, or to the table's folder.

    Rows without a split are left to be split; rows of a run's splits.csv that had been left out have none either.

    Raises:
        ValueError: names the line: a column missing, an unknown split, a weight that is none, a path that leaves the folder
            or is not there, an image twice.
    """
    if not table.is_file():
        raise ValueError(
            f"datamodule.table={table}: no such file; a CSV with the columns {', '.join(NEEDED)} is needed"
        )
    folder = root or table.parent
    columns, rows = _read(table, folder)
    if not rows:
        raise ValueError(f"datamodule.table={table}: there are no rows; {_wanted(columns)}")
    if further := [name for name in columns if name not in (*NEEDED, *OPTIONAL)]:
        log.info("datamodule.table=%s: further columns, kept for reports.subsets: %s", table, _listed(further))
    classes = sorted({row["label"] for row in rows})
    if not 2 <= len(classes) <= MOST_CLASSES:
        what = f"a single class ({classes[0]})" if len(classes) == 1 else f"{len(classes):,} classes"
        raise ValueError(f"datamodule.table={table}: {what}; a classifier needs two or more, up to {MOST_CLASSES:,}")
    index = {name: label for label, name in enumerate(classes)}
    weights = [float(row.get("weight") or 1) for row in rows]
    if not any(weights):
        raise ValueError(f"datamodule.table={table}: every weight is 0, so that nothing would be learned")
    return Catalog(
        name=table.stem,
        root=folder,
        classes=classes,
        paths=[row["path"] for row in rows],
        labels=np.array([index[row["label"]] for row in rows]),
        splits=np.array([row.get("split") or UNASSIGNED for row in rows], dtype="<U5"),
        groups=[row.get("group") or "" for row in rows],
        weights=np.array(weights, np.float32) if "weight" in columns else None,
        subsets={name: [row[name] for row in rows] for name in further},
    )


def _read(table: Path, folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and checked rows."""
    if table.stat().st_size > LARGEST:
        raise ValueError(f"datamodule.table={table}: more than {LARGEST // 2**20:,} MiB; divide it")
    rows, seen = [], {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            for name in (*NEEDED, *columns):
                if columns.count(name) != 1:
                    what = "is missing" if name not in columns else "stands there twice"
                    raise ValueError(
                        f"datamodule.table={table}: the column {_listed([name])} {what}; {_wanted(columns)}"
                    )
            for row in reader:
                _check(row, f"datamodule.table={table}, line {reader.line_num}", folder, seen, reader.line_num)
                rows.append(row)
    except UnicodeDecodeError as error:
        raise ValueError(f"datamodule.table={table}: not a CSV in UTF-8 ({error})") from error
    except csv.Error as error:
        raise ValueError(
            f"datamodule.table={table}: not a CSV in UTF-8 (line {reader.reader.line_num}: {error})"
        ) from error
    return columns, rows


def _wanted(columns: list[str]) -> str:
    return f"found {_listed(columns)}; needed {', '.join(NEEDED)}, optional {', '.join(OPTIONAL)}"


def _listed(names: list[str]) -> str:
    """A few names of a stranger's file, as a screen can show them."""
    shown = [name[:40] if name[:40].isprintable() else ascii(name[:40]) for name in names[:10]]
    return ", ".join([*shown, *([f"and {len(names) - 10} more"] if len(names) > 10 else [])]) or "nothing"


def _check(row: dict, place: str, folder: Path, seen: dict[str, int], number: int) -> None:
    path, label, split = row["path"], row["label"], row.get("split") or UNASSIGNED
    if not path or not label:
        raise ValueError(
            f"{place}: path and label are needed, found path={(path or '')[:200]!r} label={(label or '')[:60]!r}"
        )
    if None in row or None in row.values():
        raise ValueError(f"{place}: has {'more' if None in row else 'fewer'} values than there are columns")
    if label != label.strip() or "\0" in label:
        raise ValueError(f"{place}: label={label[:60]!r}: a name without blanks around it is needed")
    if split not in (*SPLITS, UNASSIGNED):
        raise ValueError(f"{place}: split={split[:60]!r}; use {', '.join(SPLITS)} or leave it empty")
    weight = row.get("weight") or "1"
    try:
        valid = 0 <= float(weight) <= HEAVIEST
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{place}: weight={weight[:60]!r}; use a number of 0 or more, up to {HEAVIEST:,.0f}")
    if ".." in PurePosixPath(path).parts or "\0" in path or Path(path).is_absolute():
        raise ValueError(
            f"{place}: path={path[:200]!r} leaves the folder {folder}; use paths below it, or datamodule.root=DIR"
        )
    if not _is_file(folder / path):
        raise ValueError(f"{place}: no such file: {str(folder / path)[:300]}")
    name = str(PurePosixPath(path))  # of a.png, ./a.png and .//a.png
    if name in seen:
        raise ValueError(f"{place}: {path[:200]} stands in line {seen[name]} already")
    seen[name] = number


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a file
        return False
