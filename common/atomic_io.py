"""Write files that are complete or absent: write under another name, flush, rename."""

import contextlib
import csv
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from common.errors import DISK_ERRORS

log = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_open(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO]:
    """Open a file to write, text as UTF-8; it gets its name when the block is left without an error."""
    temporary = path.with_name(_own_name(f".{path.name}."))
    options = {} if mode == "wb" else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        # Not by tempfile, which sets its own permissions; those of all other files follow the umask
        with temporary.open(mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # the error of a full disk has no name
        raise


@contextlib.contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Yield a folder with another name that becomes `place`, complete or absent; if two processes write it, the first wins."""
    place.parent.mkdir(parents=True, exist_ok=True)
    building = place.with_name(_own_name(f"{place.name}.building-"))
    building.mkdir()
    try:
        yield building
        building.rename(place)
    except OSError:
        if not place.is_dir():  # if it is there, another process was first, with the same files
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def replace_folder(source: Path, place: Path) -> None:
    """Copy a folder to its place, completely or not at all; an old one there is removed once the new one has its name."""
    place = place.resolve()  # follow a link
    place.parent.mkdir(parents=True, exist_ok=True)
    building = place.with_name(_own_name(f".{place.name}.building-"))
    building.mkdir()
    new, old = building / "new", building / "old"
    try:
        _copy_folder(source, new)
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
    finally:
        if place.exists() or not old.exists():
            shutil.rmtree(building, ignore_errors=True)


def _copy_folder(source: Path, place: Path) -> None:
    """Copy a folder; raise the first file's error as an OSError, since shutil raises a list of all errors as texts."""
    try:
        shutil.copytree(source, place)
    except shutil.Error as error:
        _, target, text = error.args[0][0]
        if not (known := re.match(r"\[Errno (\d+)\] ([^:]*)", text)):
            raise
        raise OSError(int(known[1]), known[2], target) from error


def _own_name(prefix: str) -> str:
    """Return a name that no other process uses."""
    return f"{prefix}{secrets.token_hex(4)}"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all: a reader sees the old content or the new."""
    with atomic_open(path, "wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, completely or not at all."""
    with atomic_open(path, "w") as file:
        file.write(text)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """Write a table with `columns` in this order."""
    with atomic_open(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON with its keys in their order; NaN and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def tolerate_disk_errors(path: Path) -> Iterator[None]:
    """If the disk is full or a permission is missing while `path` is written, log that and continue without the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        log.warning("could not write %s (%s); continuing", path, error.strerror)
