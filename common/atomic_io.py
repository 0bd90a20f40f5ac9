"""Files that are whole or absent: written under another name, flushed, renamed."""

import contextlib
import csv
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from common.errors import DISK_ERRORS

log = logging.getLogger(__name__)

LARGEST_TABLE = 2**30  # bytes of a CSV; five million predictions


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it."""
    try:
        with whole(path, "wb") as file:
            file.write(content)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say of which file
        raise


@contextlib.contextmanager
def whole(path: Path, mode: str, **options: str) -> Iterator[IO]:
    """A file to write to, as of `open`, which gets its name once all is written and the block left without an error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 mkstemp gives 600
        os.replace(name, path)  # noqa: PTH105 the name is a string
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """One line a row, in the order of `columns`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def check_size(path: Path, largest: int) -> None:
    """Raises ValueError where a file is larger than what a run writes, or is no file that can be read to its end."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if (size := path.stat().st_size) > largest:
        raise ValueError(
            f"{path}: {size / 2**20:,.0f} MiB, and {largest / 2**20:,.0f} MiB is the most; no run writes that"
        )


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows as they stand, all values as text.

    Raises:
        ValueError: too large, cut off in a quoted value, or a line with more or fewer values than there are columns.
    """
    check_size(path, LARGEST_TABLE)
    rows = []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError("values are missing or too many")
                rows.append(row)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: line {reader.reader.line_num}: {error}") from error
    return rows


def write_json(path: Path, content: dict) -> None:
    """Indented, keys in their order; NaN is refused by readers of JSON and therefore written as null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextlib.contextmanager
def tolerate_disk_errors(path: Path) -> Iterator[None]:
    """Around the writing of `path`: a full disk or a missing permission is told once a reason, and recorded."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        log.warning("%s is not written (%s); the run goes on", path, error.strerror)
