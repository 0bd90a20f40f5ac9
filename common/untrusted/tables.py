"""CSV tables of a run or of a user: UTF-8, of a size that fits, whole."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import UserError
from common.text import clean

LARGEST_TABLE = 2**30  # bytes of a CSV; five million predictions


def check_size(path: Path, largest: int) -> None:
    """Refuse a file that is larger than what a run writes, or that is no regular file.

    Raises:
        UserError: names the file and both sizes.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if (size := path.stat().st_size) > largest:
        raise UserError(
            f"{path}: {size / 2**20:,.0f} MiB, and {largest / 2**20:,.0f} MiB is the most; no run writes that"
        )


def check_complete(path: Path) -> None:
    """Refuse a table that a run wrote and whose last line is cut off.

    Raises:
        UserError: names the file.
    """
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise UserError(f"{path}: cut off in its last line")


def iterate_csv(
    path: Path, needed: Sequence[str] = (), largest: int = LARGEST_TABLE, complete: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a table, all values as text; bytes that are not UTF-8 stay, as they do in file names.

    Args:
        path: of the table.
        needed: columns that must be there.
        largest: bytes of the table.
        complete: refuse a table whose last line does not end, as every table that a run wrote does.

    Raises:
        UserError: no such file, too large, a column of `needed` missing or any column twice, cut off, or a line with more
            or fewer values than columns; with file and line.
    """
    check_size(path, largest)
    if complete:
        check_complete(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = reader.fieldnames or []
            missing = [name for name in needed if name not in columns]
            if missing:
                found = ", ".join(clean(name, 40) for name in columns[:20]) or "nothing"
                raise ValueError(f"column {', '.join(missing)} is missing; found {found}; is it a CSV in UTF-8?")
            if len(set(columns)) < len(columns):
                raise ValueError(f"column {max(columns, key=columns.count)} appears twice")
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError("values are missing or too many")
                yield reader.reader.line_num, row
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path}: line {reader.reader.line_num}: {error}") from error


def read_csv(path: Path, needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read all rows of a table; arguments and errors as of `iterate_csv`."""
    return [row for _, row in iterate_csv(path, needed)]
