"""Images listed in a CSV: path, label, and optionally split, group and weight. A run's splits.csv is such a table.

Further columns name subsets of the images; `python -m reports.subsets RUN` gives the accuracy on each.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.run_folder import SPLIT_COLUMNS
from common.text import clean, join_words
from common.untrusted.tables import iterate_csv
from datamodules.sources.source import ImageRow, Source

log = logging.getLogger(__name__)

NEEDED, OPTIONAL = SPLIT_COLUMNS[:2], SPLIT_COLUMNS[2:]


class CsvTable(Source):
    """List the rows of a table; open no image.

    Rows without a split are split later; so are the excluded rows of a run's splits.csv, which have none either.

    Args:
        table: CSV file in UTF-8.
        root: folder that its paths are relative to; None: the table's own.
    """

    key = "datamodule.table"

    def __init__(self, *, table: str | None, root: str | None = None):
        if table is None:
            raise UserError("datamodule.table has no value; give it one: datamodule.table=FILE")
        self.table = Path(table)
        self.name = self.table.stem
        self.root = Path(root) if root else self.table.parent
        self._lines: list[int] = []  # of the rows

    def images(self) -> Iterator[ImageRow]:
        """Yield the table's rows.

        Raises:
            UserError: names the line: a column missing, a weight that is not a number, a file that does not exist.
        """
        try:
            for line, row in iterate_csv(self.table, NEEDED):
                further = {column: row[column] for column in row if column not in SPLIT_COLUMNS}
                if further and not self._lines:
                    shown = join_words([clean(column, 40) for column in further], 10)
                    log.info("%s=%s: further columns, kept for reports.subsets: %s", self.key, self.table, shown)
                self._lines.append(line)
                split, group, weight = (row.get(column) or "" for column in OPTIONAL)
                yield ImageRow(row["path"], row["label"], split, group, _number(weight), further)
                if not _is_file(self.root / row["path"]):  # after the checks of the row
                    raise UserError(f"{self.table}: line {line}: no such file: {str(self.root / row['path'])[:300]}")
        except UserError as error:
            raise UserError(f"{self.key}={error}") from error
        if not self._lines:
            needed, optional = ", ".join(NEEDED), ", ".join(OPTIONAL)
            raise UserError(f"{self.key}={self.table}: there are no rows; needed are {needed}, optional {optional}")

    def __str__(self) -> str:
        return str(self.table)

    def place(self, row: int) -> str:
        return f"{self.table}: line {self._lines[row]}"


def _number(text: str) -> float | str:
    """Return a weight, unchanged where it cannot be read."""
    try:
        return float(text or 1)
    except ValueError:
        return text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file
        return False
