"""What is in a data set: one row an image. Sources make a catalog, the data module completes and reads it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
UNASSIGNED = ""
SHOWN = 20  # classes named in a message


@dataclass
class Catalog:
    """Rows of a data set, as columns of one length.

    `splits` holds one of SPLITS a row, or "" where it is not assigned yet, or left out. `paths` are relative to `root`.
    """

    name: str
    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray  # (rows,) index into classes
    splits: np.ndarray  # (rows,) of str
    groups: list[str] = field(default_factory=list)  # (rows,); "" where an image is its own group
    weights: np.ndarray | None = None  # (rows,) of the loss in training; None: all the same
    subsets: dict[str, list[str]] = field(
        default_factory=dict
    )  # further columns (rows,), by which figures are told apart

    def __post_init__(self):
        self.groups = self.groups or [""] * len(self.paths)
        self.excluded: dict[int, str] = {}  # row -> reason

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> list[Path]:
        return [self.root / path for path in self.paths]

    def rows(self, split: str) -> np.ndarray:
        """Indices of the rows of a split, in the order of the catalog."""
        return np.flatnonzero(self.splits == split)

    def exclude(self, rows, reason: str) -> None:
        """Takes rows out of every split."""
        for row in rows:
            self.splits[row] = UNASSIGNED
            self.excluded[int(row)] = reason

    def present(self) -> np.ndarray:
        """(rows,) whether a row was not left out."""
        present = np.ones(len(self), bool)
        present[list(self.excluded)] = False
        return present

    def describe(self) -> str:
        """`train 1,333, val 445, test 445 images`."""
        counts = [f"{split} {len(self.rows(split)):,}" for split in SPLITS if len(self.rows(split))]
        return f"{', '.join(counts)} images"


def check_splits(catalog: Catalog, optional: set[str]) -> None:
    """Every class is in each split; those of `optional` may be empty.

    Raises:
        ValueError: names the class, the split and the way out.
    """
    for split in SPLITS:
        rows = catalog.rows(split)
        if split in optional and not len(rows):
            continue
        counts = np.bincount(catalog.labels[rows], minlength=len(catalog.classes))
        missing = [catalog.classes[label] for label in np.flatnonzero(counts == 0)]
        if missing:
            more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
            raise ValueError(
                f"{catalog.root}: the {split} split has no image of class {', '.join(missing[:SHOWN])}{more}; "
                f"every class needs some in every split (it has {len(rows)} images in all)"
            )
