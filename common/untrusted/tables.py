"""Read CSV tables: those of a run strictly (UTF-8, complete), those of a user as spreadsheets and programs write them."""

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.errors import UserError
from common.text import clean, join_words, plural

LARGEST_TABLE = 2**30  # bytes of a CSV; five million predictions
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = (  # byte order marks, the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
BITS = {"0", "1", "0.0", "1.0"}
BROKEN = 'is the double quote (") that ends a value missing, here or in a line above?'
SINGLE_QUOTES = "values are in single quotes; write them in double quotes or in none"
OTHER_FILES = {
    b"PK\x03\x04": "a workbook or an archive",
    b"\xd0\xcf\x11\xe0": "an old workbook",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a parquet file",
    **dict.fromkeys((b'{"', b"{\n", b"[{", b"[\n"), "JSON"),
}
# Other names that people give these columns, used only for hints in errors, since a wrong guess would be worse
OTHER_NAMES = {
    "path": {"file", "filename", "file_name", "filepath", "file_path", "image", "images", "image_path", "img", "image_name",
             "name", "id", "image_id", "img_id", "imageid", "photo", "uri"},
    "label": {"class", "classes", "class_name", "classname", "category", "target", "labels", "species", "diagnosis", "y",
              "type", "breed", "class_id", "category_id"},
}  # fmt: skip


def check_size(path: Path, largest: int, then: str = "no run writes that") -> None:
    """Raise UserError if a file is larger than allowed, or is not a regular file; `then` ends the message."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if (size := path.stat().st_size) > largest:
        raise UserError(f"{path}: {size / 2**20:,.0f} MiB, which is more than {largest / 2**20:,.0f} MiB; {then}")


def check_complete(path: Path) -> None:
    """Raise UserError if the last line of a run's table is cut off."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise UserError(f"{path}: cut off in its last line")


def iterate_csv(
    path: Path, needed: Sequence[str] = (), largest: int = LARGEST_TABLE, complete: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a table, all values as text; bytes that are not UTF-8 are kept, as in file names.

    Args:
        largest: size in bytes above which the table is refused.
        complete: refuse a table whose last line has no line end, which every table of a run has.

    Raises:
        UserError: the file is missing, too large or cut off, lacks a column of `needed`, has a column twice, or a line has more
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
                raise ValueError(f"{_are_missing(missing)}; found {found}; is it a CSV in UTF-8?")
            if len(set(columns)) < len(columns):
                raise ValueError(
                    f"column {clean(max(columns, key=columns.count), 40)} appears twice; remove or rename one"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError("values are missing or too many")
                yield reader.reader.line_num, row
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path}: line {reader.reader.line_num or 1}: {_describe(error)}") from error


def _are_missing(columns: Sequence[str]) -> str:
    """Return `column label is missing` or `columns path and label are missing`."""
    return f"column{'s' * (len(columns) > 1)} {join_words([*columns])} {'is' if len(columns) == 1 else 'are'} missing"


class OwnTable:
    """Read a user's table in the forms that spreadsheets and programs write; note every value that is not read as written.

    Known columns are found in any case and with spaces around them. Delimiters may be commas, semicolons, tabs or bars, and the
    text UTF-8 or UTF-16. Columns without a name (pandas writes its index so) and lines without a value are skipped.

    Args:
        known: columns with a meaning that may be missing, unlike `needed`; all others keep their names.

    Attributes:
        notes: how often something was not read as written, by kind; complete once all rows were read.
    """

    def __init__(self, path: Path, needed: Sequence[str], known: Sequence[str] = ()):
        self.path, self.needed, self.known = path, needed, {*needed, *known}
        self.notes: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield line number and row, all values as text; bytes that are not UTF-8 are kept, as in file names.

        Spaces around values are removed, except around `path`, since a file name may have them.

        Raises:
            UserError: see `iterate_csv`; says what to change.
        """
        check_size(self.path, LARGEST_TABLE, "remove columns that are not needed")
        self.notes.clear()
        encoding = self._encoding()
        errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
        line, columns, reader = 0, None, None
        try:
            with self.path.open(encoding=encoding, errors=errors, newline="") as file:
                header = next((line for line in iter(lambda: file.readline(2**20), "") if line.strip()), "")
                given = re.fullmatch(r"sep=(.)\s*", header, re.IGNORECASE)  # written by Excel
                delimiter = self._delimiter(
                    file.readline(2**20) if given else header, [given[1]] if given else DELIMITERS
                )
                spaced = f"{delimiter} " in header
                self.notes["spaces after delimiters removed"] = int(spaced)
                below = next(csv.reader([file.readline(2**16)], delimiter=delimiter), [])  # below the limit of a field
                file.seek(0)
                reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=spaced)
                for row in reader:
                    line = reader.line_num
                    if columns is None:
                        columns = None if not row or (given and line == 1) else self._columns(row, below)
                    elif cells := self._cells(row, columns):
                        yield line, cells
                if columns is None:
                    self._columns([], [])
        except UnicodeError as error:
            raise UserError(
                f"{self.path}: line {line + 1}: is not {encoding.upper()}; is it a CSV? Save it as UTF-8"
            ) from error
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.path}: line {(reader and reader.line_num) or 1}: {_describe(error)}") from error

    def _encoding(self) -> str:
        with self.path.open("rb") as file:
            head = file.read(2**12)
        if other := next((kind for start, kind in OTHER_FILES.items() if head.startswith(start)), None):
            raise UserError(f"{self.path}: is {other}, not a CSV; save it as CSV in UTF-8")
        marked = next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)
        for encoding, other in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if marked is None and other.count(0) * 2 > len(other):  # ASCII letters have a zero byte each
                marked = encoding
        if marked:
            self.notes[f"text in {marked[:6].upper()}"] = 1
        return marked or "utf-8-sig"

    def _delimiter(self, header: str, allowed: Iterable[str]) -> str:
        """Return the delimiter with which all columns are found, or else the most."""
        found = {each: {_known_as(name) for name in header.split(each)} for each in allowed}
        needed = {*self.needed, *self.known}
        best = max(found, key=lambda each: (found[each] >= {*self.needed}, len(found[each] & needed), len(found[each])))
        if best != ",":
            self.notes[f"delimited by {DELIMITERS.get(best, best)}"] = 1
        return best

    def _columns(self, written: list[str], below: list[str]) -> list[str]:
        """Return the name of each column, empty for skipped ones; `below` are the values of the line below.

        Raises:
            ValueError: a column is missing or appears twice.
        """
        if any(map(_is_single_quoted, written)):
            raise ValueError(SINGLE_QUOTES)
        written = [name.lstrip("\ufeff") for name in written]  # a second byte order mark
        columns = [name if name in self.known else _known_as(name) for name in written]
        columns = [short if short in self.known else name.strip() for short, name in zip(columns, written, strict=True)]
        if columns and re.fullmatch(r"Unnamed: \d+", columns[0]):  # pandas read its own index
            columns[0] = ""
        for name, short in zip(written, columns, strict=True):
            if name.strip() and name != short:
                self.notes[f"column {clean(name, 40)!r} {f'as {short}' if short else 'skipped'}"] += 1
        self.notes["column without a name skipped"] += sum(not name.strip() for name in written)
        self.notes = +self.notes
        named = [name for name in columns if name]
        if missing := [name for name in self.needed if name not in named]:
            bits = [name for name, value in zip(written, below, strict=False) if value.strip() in BITS]
            raise ValueError(self._advise(missing, named, bits))
        if len(set(named)) < len(named):
            raise ValueError(f"column {clean(max(named, key=named.count), 40)} appears twice; remove or rename one")
        return columns

    def _advise(self, missing: list[str], found: list[str], bits: list[str]) -> str:
        """Return what to change in the first line; `bits` are the columns with 0 or 1 below."""
        shown = ", ".join(clean(name, 40) for name in found[:20]) or "nothing"
        if found and found[0].startswith("#"):
            return (
                f"{_are_missing(missing)}; found {shown}; remove the lines that begin with #, and the # before "
                "the names of the columns: a CSV has no comments"
            )
        if any(re.search(r"\.\w{2,5}$", name) for name in found):  # these are files, so the table has no line of names
            return f"{_are_missing(missing)}; found {shown}; write the names above it: {','.join(self.needed)}"
        others = {need: next((n for n in found if _known_as(n) in OTHER_NAMES.get(need, ())), None) for need in missing}
        renamed = [f"{clean(name, 40)} to {need}" for need, name in others.items() if name]
        advice = f"rename the column {' and '.join(renamed)}" if renamed else "is it a CSV in UTF-8?"
        if not renamed and len(found) >= len(self.needed):
            them = "columns that hold them" if len(missing) > 1 else "column that holds it"
            advice = f"rename the {them} to {join_words(missing)}"
        if renamed and None in others.values():
            advice += f", and add {', '.join(need for need, name in others.items() if not name)}, one value per image"
        bits = [
            clean(name.strip(), 40) for name in bits if _known_as(name) not in {*OTHER_NAMES["path"], *self.known, ""}
        ]
        if "label" in missing and not others["label"] and len(bits) > 1:  # one-hot
            one_hot = (
                f"the name of the column with the 1, one of {', '.join(bits[:5])}{', ...' if len(bits) > 5 else ''}"
            )
            advice = f"{advice}: {one_hot}" if renamed else f"add label with, in each line, {one_hot}"
        return f"{_are_missing(missing)}; found {shown}; {advice}"

    def _cells(self, row: list[str], columns: list[str]) -> dict[str, str] | None:
        """Return the values of a line; None if it has none.

        Raises:
            ValueError: the number of values is not that of the columns.
        """
        if not any(map(str.strip, row)):
            self.notes["line without a value skipped"] += bool(row)
            return None
        if any(_is_single_quoted(cell) for name, cell in zip(columns, row, strict=False) if name in self.known):
            raise ValueError(SINGLE_QUOTES)
        if len(row) < len(columns) or any(row[len(columns) :]):
            advice = "; a value that contains the delimiter needs double quotes" if len(row) > len(columns) else ""
            advice = "; remove the line: a CSV has no comments" if row[0].startswith("#") else advice
            raise ValueError(
                f"values are missing or too many ({len(row)} for {plural(len(columns), 'column')}){advice}"
            )
        cells = {name: cell for name, cell in zip(columns, row, strict=False) if name}
        for name, cell in cells.items():
            if name != "path" and cell != cell.strip():
                cells[name] = cell.strip()
                self.notes["spaces around values removed"] += 1
        return cells


def describe_notes(notes: Counter[str]) -> str:
    """Return `delimited by semicolons; spaces around values removed (40 times)`; nothing if all was read as written."""
    return "; ".join(f"{note} ({n:,} times)" if n > 1 else note for note, n in (+notes).items())


def _describe(error: ValueError | csv.Error) -> str:
    return f"{error}; {BROKEN}" if isinstance(error, csv.Error) else str(error)


def _is_single_quoted(value: str) -> bool:
    return len(value.strip()) > 1 and value.strip()[0] == value.strip()[-1] == "'"


def _known_as(name: str) -> str:
    """Return the name of a column in lowercase, without spaces and quotes around it."""
    return name.lstrip("\ufeff").strip().strip("\"'").strip().casefold()
