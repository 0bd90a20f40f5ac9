"""Decode JSON files of a run into typed dataclasses."""

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from common.checks import LARGEST_NUMBER
from common.errors import UserError
from common.untrusted.tables import check_size

T = TypeVar("T")
NEXT = "rerun it, or delete the folder"


def read_json(path: Path, largest: int, then: str = NEXT) -> dict:
    """Read a JSON object of at most `largest` bytes; `then` is the advice about a damaged one.

    Raises:
        UserError: the file is missing, too large, cut off, not UTF-8, not an object, or holds NaN or a huge number; names it.
    """
    check_size(path, largest, then)
    try:
        content = msgspec.json.decode(path.read_bytes())
        if _largest(content) >= LARGEST_NUMBER:
            raise ValueError("a number of more than 64 bits")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a whole record ({error}); {then}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a whole record (a {type(content).__name__}, not an object); {then}")
    return content


def _largest(value: object) -> int:
    """Return the largest absolute value of the whole numbers in a JSON value."""
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def to_type(content: dict, kind: type[T], path: Path) -> T:
    """Convert a JSON object into a dataclass, whose annotations are the schema; skip unknown keys.

    Raises:
        UserError: a key is missing or has another type; names file and key.
    """
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        reason, _, place = str(error).partition(" - at `")
        key = re.sub(r"^\$\.?", "", place.rstrip("`")) or "the record"
        raise UserError(f"{path}: {key}: {reason.replace('`', '')}, which no run writes; {NEXT}") from error
