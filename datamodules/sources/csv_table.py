"""Images listed in a CSV: path, label, and optionally split, group and weight. A run's splits.csv is such a table.

Spreadsheets, pandas and other systems write tables in many ways: a clear one is read, and logged; all others are refused.

Additional columns name subsets of the images; `python -m reports.subsets RUN` gives the accuracy on each.
"""

import functools
import itertools
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from common.errors import UserError
from common.own_test_images import images_folder
from common.run_folder import REVIEW_COLUMNS, SPLIT_COLUMNS, RunFolder
from common.run_record import DataInfo, RunRecord
from common.text import clean, join_words, typed_override
from common.untrusted.tables import OwnTable, describe_notes
from datamodules.sources.catalog import split_of
from datamodules.sources.image_folder import SUFFIXES, walk_images
from datamodules.sources.source import ImageRow, Source, is_utf8, relative_to

log = logging.getLogger(__name__)

MOST_SEARCHED = 100_000  # files that are searched for a hint
MOST_ABOVE = 3  # parent folders that are searched for a hint
NEEDED, OPTIONAL = SPLIT_COLUMNS[:2], SPLIT_COLUMNS[2:]


class CsvTable(Source):
    """List the rows of a table; open no image.

    Rows without a split are split later. That includes the rows that a run's splits.csv lists as excluded.

    Args:
        table: CSV file.
        root: folder that its paths are relative to; None: the table's folder or, for a run's splits.csv, that of its images.
    """

    key = "datamodule.table"
    names_are_own = True

    def __init__(self, *, table: str | None, root: str | None = None):
        if table is None:
            raise UserError("datamodule.table has no value; give it one: datamodule.table=FILE")
        self.table = Path(str(table))
        self.name = self.table.stem
        self.root = Path(str(root)) if root else images_folder(_data_of_run(self.table)) or self.table.parent
        self._lines: list[int] = []  # line number of each row

    @functools.cached_property
    def known_classes(self) -> list[str]:
        """The classes of the run that wrote the table: a class folder may be named nan."""
        return _data_of_run(self.table).classes

    def images(self) -> Iterator[ImageRow]:
        """Yield the table's rows.

        Raises:
            UserError: names the line: a column missing, a weight that is not a number, a file that does not exist.
        """
        if not self.table.is_file():
            what = "is a folder; give a folder as datamodule.root=DIR" if self.table.is_dir() else "no such file"
            raise UserError(f"{self.key}={self.table}: {what}{relative_to(self.table)}")
        rows, files = OwnTable(self.table, NEEDED, OPTIONAL), FileFinder(self.root)
        like_splits: set[str] | None = None  # columns with other names in which every value names a split
        try:
            for line, row in rows:
                own = SPLIT_COLUMNS + REVIEW_COLUMNS * all(column in row for column in REVIEW_COLUMNS)
                further = {column: row[column] for column in row if column not in own}
                if further and not self._lines:
                    shown = join_words([clean(column, 40) for column in further], 10)
                    advice = "; rename one to group to keep images that share its value in one split"
                    log.info("%s=%s: additional columns, kept for reports.subsets: %s%s", self.key, self.table, shown,
                             "" if "group" in row else advice)  # fmt: skip
                self._lines.append(line)
                if "split" not in row and like_splits != set():
                    of_splits = {column for column, value in further.items() if split_of(value)}
                    like_splits = of_splits if like_splits is None else like_splits & of_splits
                found, label = files.find(row["path"]), row["label"]
                split, group, weight = (row.get(column) or "" for column in OPTIONAL)
                check_label(self.table, line, label)
                meant = split_of(split) or split
                if meant != split:
                    files.notes[f"split {clean(split, 20)!r} as {meant}"] += 1
                if found and PurePath(found).is_absolute() and (folder := self._common_folder()):
                    raise UserError(
                        f"{self.table}: line {line}: path={row['path'][:200]!r} is not below {self.root}; all paths of the "
                        f"table are below {clean(folder)}: add {typed_override('datamodule.root', folder)}"
                    )
                # A missing file is named as such after the checks of the row, also by an absolute path
                yield ImageRow(found or row["path"].lstrip("/"), label, meant, group, _number(weight), further)
                if found is None:
                    missing = str(self.root / row["path"])[:300]
                    raise UserError(f"{self.table}: line {line}: no such file: {missing}{files.advise(row['path'])}")
        except UserError as error:
            raise UserError(f"{self.key}={error}") from error
        if not self._lines:
            needed, optional = ", ".join(NEEDED), ", ".join(OPTIONAL)
            raise UserError(
                f"{self.key}={self.table}: the table has no rows; it needs the columns {needed}, and may have {optional}"
            )
        for column in sorted(like_splits or ()):
            log.warning(
                "%s=%s: the column %r holds splits, but is not used as the split; rename it to split to use it",
                self.key, self.table, clean(column, 40),
            )  # fmt: skip
        if notes := describe_notes(rows.notes + files.notes):
            log.info("%s=%s: interpreted: %s", self.key, self.table, notes)

    def _common_folder(self) -> Path | None:
        """Return the folder that all paths of the table are below; None if it is no folder or not all are absolute."""
        paths = (PurePath(row["path"].strip().replace("\\", "/")) for _, row in OwnTable(self.table, NEEDED, OPTIONAL))
        try:
            folder = Path(os.path.commonpath({path.parent for path in paths}))
        except ValueError:  # some are relative, or on another drive
            return None
        return folder if folder.is_absolute() and folder.parent != folder and folder.is_dir() else None

    def __str__(self) -> str:
        return str(self.table)

    def place(self, row: int) -> str:
        return f"{self.table}: line {self._lines[row]}"


class FileFinder:
    """Find the file that a path of a table means, even if another system or program wrote it differently.

    Args:
        root: folder that relative paths start from.

    Attributes:
        notes: how often a file was found under a path other than the written one, for each kind of change.
    """

    def __init__(self, root: Path):
        self.root, self.notes = root, Counter()

    def find(self, path: str) -> str | None:
        """Return the path of the file, relative if it is below the root; None if there is no such file."""
        if not path or "\0" in path:
            return None
        for way, meant in _readings(path):
            absolute = meant.startswith("/") or PurePath(meant).is_absolute()  # on Windows, C:\ and C:/
            if is_file(Path(meant) if absolute else self.root / meant):
                below = self._below(meant) if absolute else meant
                if way:
                    self.notes[way] += 1
                if absolute and below != meant:
                    self.notes["absolute path below the root"] += 1
                return below.replace(os.sep, "/")  # as in the catalogs of other systems
        return None

    def advise(self, path: str, key: str = "datamodule.root") -> str:
        """Return, for an error, where a file with this name is; `key` is the setting for the folder."""
        wanted = PurePosixPath(path.replace("\\", "/")).parts or ("",)
        for parent in list(self.root.absolute().parents)[:MOST_ABOVE]:
            if is_utf8(path) and is_file(parent / path.replace("\\", "/")) and not path.startswith("/"):
                return f"; did you mean {typed_override(key, parent)}"
        names = {_same_name(wanted[-1]), *(_same_name(wanted[-1] + suffix) for suffix in SUFFIXES)}
        for file in itertools.islice(walk_images(self.root, warn=False), MOST_SEARCHED):
            if _same_name(file.name) not in names:
                continue
            below = file.relative_to(self.root)
            pairs = zip(wanted[-2::-1], below.parts[-2::-1], strict=False)
            alike = sum(1 for _ in itertools.takewhile(lambda pair: len({*map(_same_name, pair)}) == 1, pairs))
            outside = below.parts[: len(below.parts) - len(wanted)]
            if alike < len(wanted) - 1 or not outside:
                return f"; there is {below} in {self.root}: write the path like this{relative_to(self.root)}"
            folder = self.root.joinpath(*outside)
            if len(wanted) > 1:
                return f"; did you mean {typed_override(key, folder)}{relative_to(self.root)}"
            return (
                f"; there is {below} in {self.root}{relative_to(self.root)}: write the path like this, or if all images "
                f"are there, use {typed_override(key, folder)}"
            )
        if not is_utf8(path):
            return "; is the table in UTF-8?"
        return f"; paths are relative to {self.root.absolute()}, or to another folder with {key}=DIR"

    def _below(self, path: str) -> str:
        short = Path(os.path.normpath(path))  # ROOT/../ROOT/x is below the root, unless .. follows a link
        for root in (self.root.absolute(), self.root.resolve()):
            if short.is_relative_to(root) and (".." not in path or (is_file(short) and short.samefile(path))):
                return str(short.relative_to(root))
        return path


def _readings(path: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of a note and a path: the readings of a path, first the path as it is written."""
    yield "", path
    if path != path.strip():
        yield "spaces around a path removed", path.strip()
    path = path.strip()
    if "\\" in path:
        path = path.replace("\\", "/")
        yield "backslashes in a path read as /", path
    for form in ("NFC", "NFD"):
        if unicodedata.normalize(form, path) != path:
            yield f"path in Unicode form {form}", unicodedata.normalize(form, path)
    if PurePosixPath(path).suffix.lower() not in SUFFIXES:
        for suffix in sorted(SUFFIXES):
            yield f"path with {suffix} added", path + suffix
            yield f"path with {suffix.upper()} added", path + suffix.upper()


def _same_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _data_of_run(table: Path) -> DataInfo:
    """Return what the record beside a run's splits.csv says about the images; empty for any other table."""
    run = RunFolder(table.parent)
    found = RunRecord.read(run).data if table == run.splits and run.record.is_file() else None
    return found or DataInfo()


def _number(text: str) -> float | str:
    """Return a weight as a number, or the text unchanged if it is not a number."""
    try:
        return float(text or 1)
    except ValueError:
        return text


def check_label(table: Path, line: int, label: str) -> None:
    """Raise UserError if a label is not in UTF-8."""
    if not is_utf8(label):
        raise UserError(f"{table}: line {line}: label={clean(label, 60)!r}: not in UTF-8; save the table as UTF-8")


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file
        return False
