"""The base class of data sources. A source lists the images of a data set: one Python file, one YAML in conf/datamodule."""

import os
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.text import clean, join_words
from common.untrusted.description import LONGEST_NAME, MOST_CLASSES
from datamodules.sources.catalog import SPLIT_WORDS, SPLITS, UNASSIGNED, Catalog, Texts, repeated_rows

FEW_VALUES = 20  # classes that may be numbers, however few images they have
OTHER_WORDS = [word for word in SPLIT_WORDS if word not in SPLITS]
NO_LABELS = {"nan", "NaN", "<NA>"}  # missing values of pandas; None and NA may be classes
_SPLIT_NUMBERS = {split: number for number, split in enumerate((*SPLITS, UNASSIGNED))}
AROUND = " []'\""  # of the names in a list of labels, such as ['cat', 'dog']
LARGEST_WEIGHT = 1e6  # keeps the loss finite


class ImageRow(NamedTuple):
    """Describe one image of a data set."""

    path: str  # of its file, relative to the root of the source
    label: str  # name of its class
    split: str = UNASSIGNED  # train, val or test; "": drawn by this project
    group: str = ""  # images of one group, such as one patient, stay in one split; "": a group by itself
    weight: float = 1.0  # in the training loss
    subsets: dict[str, str] = {}  # additional columns; the accuracy can be computed for each of their values


PLAIN_TYPES = (str, str, str, str, float, dict)


class Source:
    """List the images of a data set. A subclass sets `name` and `root` and yields rows from `images`.

    Attributes:
        name: of the data set, for the record and the screen.
        root: folder that the paths are relative to; it may be set while `images` runs.
        classes: names in the order of the logits; None: the labels, sorted.
        license: of the images, for the record and the model card; None: not known.
        citation: of the data set, for the record and the model card; None: not known.
        cache: folder for what a source unpacks, set before `images` is called: outputs/.cache/sources.
        key: setting that messages about the source begin with.
        known_classes: names that are classes even if they look like a missing value, such as nan.
        names_are_own: whether the user named the classes, and so can correct the names.
        streams: whether the training images are a `stream` instead of rows: datamodules/sources/streamed.py.
    """

    name: str = "images"
    root: Path | None = None
    classes: list[str] | None = None
    license: str | None = None
    citation: str | None = None
    cache: Path | None = None
    key: str = "datamodule.source"
    known_classes: Sequence[str] = ()
    names_are_own: bool = False
    streams: bool = False
    stream = None

    def images(self) -> Iterable[ImageRow]:
        """Yield one row per image; open no image unless there is no other way to list them."""
        raise UserError(f"{self.key}={self}: its class needs a method images that yields an ImageRow for each image")

    def __str__(self) -> str:
        """Name the source in a message."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def place(self, row: int) -> str:
        """Name a row that was yielded, by its number from 0, in a message."""
        return f"{self}: row {row + 1}"


def read_source(source: Source) -> Catalog:
    """List all images of a source in a catalog.

    Raises:
        UserError: no images, fewer than two classes, or a row with a value that cannot be used; names source and row.
    """
    columns = _Columns(source)
    listed = source.images()
    if not isinstance(listed, Iterable):
        raise UserError(
            f"{source.key}={source}: its images() returns a {type(listed).__name__}; it must yield an ImageRow for each image"
        )
    known: set[tuple[str, str]] = set()  # label and split of rows without a problem
    for number, row in enumerate(listed):
        if not _is_like_known(row, known):
            if problem := _find_problem(row, source):
                raise UserError(f"{source.key}={source.place(number)}: {problem}")
            known.add((row.label, row.split))
        columns.append(row)
    columns.refuse_repeated()
    shown = f"{source.key}={source}"
    if not len(columns.paths):
        of_root = "" if source.root is None else f" of root={source.root}"
        raise UserError(f"{shown}: lists no images{of_root}; its images() must yield an ImageRow for each image")
    if source.root is None:
        raise UserError(f"{shown}: has no root, the folder that its paths are relative to")
    classes = [str(name) for name in source.classes or sorted(columns.names)]  # a checkpoint may not hold NumPy strings
    if not 2 <= len(classes) <= MOST_CLASSES:
        what = f"a single class ({classes[0]})" if len(classes) == 1 else f"{len(classes):,} classes"
        raise UserError(f"{shown}: {what}; a classifier needs two or more, up to {MOST_CLASSES:,}")
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[name] for name in columns.names])[np.frombuffer(columns.labels, np.int32)]
    counts = Counter(dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True)))
    names_to_check = _similar_names(classes, counts, source)
    if source.names_are_own and len(classes) > max(FEW_VALUES, len(labels) / 2) and all(map(_is_number, classes)):
        raise UserError(
            f"{shown}: the labels are {len(classes):,} different numbers for {len(labels):,} images, such as {classes[0]}: "
            "they look like measured values or numbers of the images, and a label is the name of a class; replace values by "
            "the names of a few ranges, since regression is not supported"
        )
    for name in sorted(NO_LABELS.intersection(classes)):
        names_to_check.append(
            f"names: the class {name} ({counts[name]:,} images) is named like a missing label; if it is one, remove its images"
        )
    single = {name.strip(AROUND) for name in classes} - {""}  # such as a class of brackets
    joined = [
        name for name in classes if any(p != name and p.strip(AROUND) in single for p in re.split("[;,|/+&]", name))
    ]
    if joined:
        names_to_check.append(
            f"names: {join_words([f'{clean(name, 60)} ({counts[name]:,} images)' for name in joined])}: an image has one "
            "label, so each such combination is learned as a class of its own; where images can have several labels, train "
            "one network for each label, with the classes yes and no"
        )
    weights = np.frombuffer(columns.weights, np.float32)
    if not weights.any():
        raise UserError(f"{shown}: every weight is 0, so nothing would be learned")
    return Catalog(
        name=source.name,
        root=Path(source.root).absolute(),  # stored in the record, and used by the pixel cache to find files
        classes=classes,
        paths=columns.paths,
        labels=labels,
        splits=np.array((*SPLITS, UNASSIGNED), dtype=object)[np.frombuffer(columns.splits, np.int8)],
        groups=columns.groups or (),
        weights=None if (weights == 1).all() else weights.copy(),
        subsets=columns.subsets,
        license=source.license,
        citation=source.citation,
        similar_names=names_to_check,
    )


class _Columns:
    """Collect the rows of a source in columns, without an object for each row."""

    def __init__(self, source: Source):
        self.source = source
        self.paths, self.names = Texts(), {}  # name of a class -> its number in `labels`
        self.labels, self.splits, self.weights = array("i"), array("b"), array("f")
        self.groups: list[str] = []  # empty until an image has a group
        self.subsets: dict[str, list[str]] = {}
        self._hashes = array("q")  # of the paths

    def append(self, row: ImageRow) -> None:
        """Add a row that `_find_problem` accepted."""
        number, path = len(self.paths), plain_path(row.path)  # relative to the root; identifies the image in other runs
        self.paths.append(path)
        self.labels.append(self.names.setdefault(row.label, len(self.names)))
        self.splits.append(_SPLIT_NUMBERS[row.split])
        self.weights.append(row.weight)
        self._hashes.append(hash(path))
        if row.group and not self.groups:
            self.groups = [""] * number
        if row.group or self.groups:
            self.groups.append(row.group)
        if row.subsets or self.subsets:
            for column in [column for column in row.subsets if column not in self.subsets]:
                self.subsets[column] = [""] * number
            for column, values in self.subsets.items():
                values.append(row.subsets.get(column, ""))

    def refuse_repeated(self) -> None:
        """Raise UserError if a path is in two rows; name the first rows that repeat one, and count them."""
        seen: dict[str, int] = {}
        rows = repeated_rows(np.frombuffer(self._hashes, np.int64)).tolist()
        repeats = [(earlier, row) for row in rows if (earlier := seen.setdefault(self.paths[row], row)) != row]
        if not repeats:
            return
        earlier, row = repeats[0]
        problem = f"{self.paths[row][:200]} is already in {self._line(earlier)}"
        names = list(self.names)
        there, here = (names[self.labels[each]][:60] for each in (earlier, row))
        if there != here:
            problem += f", where it is labeled {there!r}, here {here!r}"
        advice = "keep one of the two lines"
        if further := [self._line(row) for _, row in repeats[1:]]:
            advice = f"{len(further):,} more repeat an earlier one: {join_words(further)}; keep one line for each image"
        raise UserError(f"{self.source.key}={self.source.place(row)}: {problem}; {advice}")

    def _line(self, row: int) -> str:
        return self.source.place(row).rpartition(": ")[2]


def _similar_names(classes: Sequence[str], counts: Counter, source: Source) -> list[str]:
    """Return a sentence for each set of classes whose names differ only by Unicode form, spaces, case or a number's form.

    Raises:
        UserError: such names are the user's own. Single letters that differ by case are accepted: A and a may be two classes.
    """
    found = []
    ways = {
        "Unicode form or spaces": _look,
        "case": lambda name: _look(name).casefold(),
        "the form of a number": _number_of,
    }
    for way, same in ways.items():
        alike = defaultdict(list)
        for name in classes:
            alike[same(name)].append(name)
        for names in alike.values():
            if len(names) < 2 or (way == "case" and len(set(map(_look, names))) < 2):
                continue
            shown = join_words(
                [f"{clean(ascii(n) if not n.isascii() else n, 60)} ({counts[n]:,} images)" for n in names]
            )
            text = f"the classes {shown} differ only by {way}"
            if source.names_are_own and (way != "case" or len(_look(names[0])) > 1):
                raise UserError(
                    f"{source.key}={source}: {text}; if they are one class, give them one name; otherwise use names that "
                    "differ by a letter"
                )
            found.append(f"names: {text}")
    return found


def _look(name: str) -> str:
    """Return a name the way a reader sees it: composed letters, single spaces, no characters without width."""
    shown = (letter for letter in unicodedata.normalize("NFC", name) if unicodedata.category(letter) != "Cf")
    return " ".join("".join(shown).split())


def _number_of(name: str) -> str:
    """Return the same text for 1, 1.0 and 01; return names that are not numbers unchanged."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", name, re.ASCII):
        return name
    whole, _, part = name.lstrip("+-").partition(".")
    number = f"{whole.lstrip('0') or '0'}.{part.rstrip('0')}".rstrip(".")
    return f"-{number}" if name.startswith("-") and number != "0" else number


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def readable_names(names: Sequence[str]) -> list[str]:
    """Return names for a message; those that look like another name get their non-ASCII letters as escapes."""
    looks = Counter(map(_look, names))
    return [clean(ascii(name) if looks[_look(name)] > 1 and not name.isascii() else name, 60) for name in names]


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8; other bytes of a file name are surrogates in Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def relative_to(path: str | Path) -> str:
    """Return, in parentheses and for a message, the folder that a relative path starts from; nothing for an absolute one."""
    return "" if Path(path).is_absolute() else f" (relative to the current folder, {clean(Path.cwd())})"


def _is_like_known(row, known: set[tuple[str, str]]) -> bool:
    """Return whether a row needs no check, since an accepted row differs only in a plain path: true for most rows by far."""
    if type(row) is not ImageRow or (*map(type, row),) != PLAIN_TYPES:
        return False
    path, label, split, group, weight, subsets = row
    if group or weight != 1 or subsets or (label, split) not in known:
        return False
    return path != "" and path[0] not in "/\\" and ":" not in path and ".." not in path and "\0" not in path


def _find_problem(row, source: Source) -> str | None:
    """Return what is wrong with a row; None if it can be used."""
    if not isinstance(row, ImageRow):
        return f"{str(row)[:60]!r} is not an ImageRow; yield ImageRow(path, label, split) for each image"
    path, label, split = row.path, row.label, row.split
    is_missing = label in NO_LABELS and not source.classes and label not in source.known_classes
    if path and isinstance(path, str) and (label == "" or is_missing):
        found = f" (found {label})" if label else ""
        return f"has no label{found}; add one, or remove the line"
    if path == "":
        return "has no path; add one, or remove the line"
    if not isinstance(path, str) or not isinstance(label, str) or not label:
        return f"path and label must be texts; found path={path!r:.200} label={label!r:.60}"
    if label != label.strip() or "\0" in label:
        return f"label={label[:60]!r}: remove the {'NUL bytes in' if chr(0) in label else 'spaces around'} the name"
    if len(label) > LONGEST_NAME:
        return f"label={label[:60]!r}...: has {len(label):,} characters; at most {LONGEST_NAME:,} are possible"
    if not is_utf8(label):  # a path need not be UTF-8, since file names need not be
        return f"label={label[:60]!r}: not in UTF-8"
    if source.classes and label not in source.classes:
        return f"label={label[:60]!r} is none of the classes {', '.join(source.classes)[:200]}"
    if split not in (*SPLITS, UNASSIGNED):
        return f"split={str(split)[:60]!r}; use {', '.join(SPLITS)} (or {', '.join(OTHER_WORDS)}), or leave it empty"
    if not isinstance(row.group, str):  # 0 would count as no group
        return f"group={str(row.group)[:60]!r}: must be a text; convert it by str(), or use '' for no group"
    if row.group in NO_LABELS:  # all images without a group would be one group
        return f"has no group (found {row.group}); leave the value empty if the image is a group by itself"
    if not isinstance(row.subsets, dict) or not all(isinstance(text, str) for text in row.subsets.values()):
        return f"subsets={str(row.subsets)[:60]}: use a dict of texts, such as {{'camera': 'A'}}"
    if not isinstance(row.weight, (int, float, np.integer, np.floating)) or not 0 <= row.weight <= LARGEST_WEIGHT:
        point = " with a decimal point, not a comma" if "," in str(row.weight) else ""
        return f"weight={str(row.weight)[:60]!r}; use a number of 0 or more{point}, up to {LARGEST_WEIGHT:,.0f}"
    escapes = ".." in path and ".." in PurePath(path).parts
    if escapes or "\0" in path or os.path.isabs(path):  # noqa: PTH117 a tenth of the time
        return (
            f"path={path[:200]!r} leaves the folder {source.root}; use paths below it, or set datamodule.root=DIR to a "
            "folder that contains all images"
        )
    return None


def plain_path(path: str) -> str:
    """Return the same text for a.png, ./a.png and .//a.png."""
    return str(PurePosixPath(path)) if "//" in path or "./" in path else path
