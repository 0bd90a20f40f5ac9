"""The table of contents of a data set, one row per image: made by a source, completed by prepare.py."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.text import plural

SPLITS = ("train", "val", "test")
UNASSIGNED = ""
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def split_of(word: str) -> str | None:
    """Return the split that a name of a folder or a value of a table means: train for `Training`; else None."""
    return SPLIT_WORDS.get(word.strip().casefold())


def repeated_rows(numbers: np.ndarray) -> np.ndarray:
    """Return, in order, the rows whose number occurs more than once."""
    _, kind, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[kind] > 1)


class Texts(Sequence):
    """Hold texts in one block of memory; a million paths take a third of the memory of a list."""

    def __init__(self):
        self._block, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._block += text.encode(errors="surrogatepass")  # file names may hold bytes that are not UTF-8
        self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        if row < 0 or row >= len(self):
            raise IndexError(row)
        return self._block[self._ends[row] : self._ends[row + 1]].decode(errors="surrogatepass")


class Files(NamedTuple):
    """Return the file of each row; its path is absolute if the root is."""

    root: str
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> str:
        return f"{self.root}/{self.paths[row]}"

    def __iter__(self) -> Iterator[str]:
        return (f"{self.root}/{path}" for path in self.paths)


@dataclass
class Catalog:
    """Hold the images of a data set as columns of one length.

    `splits` holds one of SPLITS for each row, or "" if the row is not assigned yet or is excluded. `paths` are relative to
    `root`.
    """

    name: str
    root: Path
    classes: list[str]
    paths: Sequence[str]
    labels: np.ndarray  # (rows,) index into classes
    splits: np.ndarray  # (rows,) of str objects, which take half as much memory as "<U5"
    groups: Sequence[str] = ()  # (rows,); "" if an image is its own group
    weights: np.ndarray | None = None  # (rows,) in the training loss; None: all equal
    subsets: dict[str, list[str]] = field(default_factory=dict)  # additional columns (rows,), for accuracies by subset
    license: str | None = None  # of the images, if the source states one
    citation: str | None = None  # of the data set, if the source states one
    similar_names: list[str] = field(default_factory=list)  # for the audit: sentences on doubtful names of classes

    def __post_init__(self):
        self.groups = self.groups if len(self.groups) else [""] * len(self.paths)
        self.excluded: dict[int, str] = {}  # row -> reason
        self.splits_from: str | None = None  # whether splits are given or drawn, once that is decided

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> Files:
        return Files(str(self.root), self.paths)

    def rows(self, split: str) -> np.ndarray:
        """Return the indices of a split's rows, in the order of the catalog."""
        return np.flatnonzero(self.splits == split)

    def exclude(self, rows, reason: str) -> None:
        """Take rows out of every split."""
        for row in rows:
            self.splits[row] = UNASSIGNED
            self.excluded[int(row)] = reason

    def present(self) -> np.ndarray:
        """Return (rows,) bool: False where a row is excluded."""
        present = np.ones(len(self), bool)
        present[list(self.excluded)] = False
        return present

    def describe(self) -> str:
        """Return `train 1,333, val 445, test 445 images`; with named groups also `in 612 groups`."""
        counts = [f"{split} {len(self.rows(split)):,}" for split in SPLITS if len(self.rows(split))]
        named = self._named_groups()
        text = f"{', '.join(counts)} images"
        if not named:
            return text
        some = "" if len(named) == sum(len(self.rows(split)) for split in SPLITS) else f", {len(named):,} of them"
        return f"{text}{some} in {plural(len(set(named)), 'group')}"

    @property
    def n_groups(self) -> int:
        """Number of named groups in train, val and test."""
        return len(set(self._named_groups()))

    def _named_groups(self) -> list[str]:
        return [self.groups[row] for split in SPLITS for row in self.rows(split) if self.groups[row]]
