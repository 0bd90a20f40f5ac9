"""What is in a data set: one row a picture. Sources make a catalog, the data module reads it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
UNASSIGNED = ""


@dataclass
class Catalog:
    """Rows of a data set, as columns of one length.

    `splits` holds one of SPLITS a row, or "" where `assign_splits` still has to choose. `paths` are relative to `root`.
    """

    name: str
    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray  # (rows,) index into classes
    splits: np.ndarray  # (rows,) of str
    groups: list[str] = field(default_factory=list)  # (rows,); "" where a picture is its own group

    def __post_init__(self):
        self.groups = self.groups or [""] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, split: str) -> np.ndarray:
        """Indices of the rows of a split, in the order of the catalog."""
        return np.flatnonzero(self.splits == split)

    def describe(self) -> str:
        """`train 1,333, val 445, test 445 pictures`."""
        counts = [f"{split} {len(self.rows(split)):,}" for split in SPLITS if len(self.rows(split))]
        return f"{', '.join(counts)} pictures"


def assign_splits(labels: np.ndarray, fractions: dict[str, float], seed: int) -> np.ndarray:
    """A seeded split of the rows, stratified by label: (rows,) of split names.

    Within each class, rows are shuffled and cut at the rounded cumulative fractions, so that every split gets its
    share of the class to within one picture.
    """
    splits = np.full(len(labels), UNASSIGNED, dtype="<U5")
    generator = np.random.default_rng(seed)
    edges = np.cumsum(list(fractions.values()))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.floor(edges * len(rows) / edges[-1] + 0.5).astype(int)
        for name, begin, end in zip(fractions, [0, *cuts[:-1]], cuts, strict=True):
            splits[rows[begin:end]] = name
    return splits


def check_splits(catalog: Catalog) -> None:
    """Every class is in train, and each split that there is holds every class.

    Raises:
        ValueError: names the class, the split and the way out.
    """
    for split in SPLITS:
        rows = catalog.rows(split)
        if split == "test" and not len(rows):
            continue
        counts = np.bincount(catalog.labels[rows], minlength=len(catalog.classes))
        missing = [catalog.classes[label] for label in np.flatnonzero(counts == 0)]
        if missing:
            raise ValueError(
                f"{catalog.root}: the {split} split has no picture of class {', '.join(missing)}; "
                f"every class needs some in every split (it has {len(rows)} pictures in all)"
            )
