"""Catalog of the ELPV data set: photographs of solar cells in electroluminescence.

Buerhop-Lutz et al. 2018, "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
Imagery"; Deitsch et al. 2019, arXiv:1807.02894. 2,624 cells of 300 x 300 pixels, gray.
"""

import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from datamodules.sources.catalog import UNASSIGNED, Catalog
from datamodules.splits import stratified_rows

log = logging.getLogger(__name__)

LICENSE = "CC BY-NC-SA 4.0, not for commercial use"
CLASSES = ["functional", "defective"]
PAPER_TEST = 656  # of 2,624, a quarter


class Cell(NamedTuple):
    """Hold a line of the data set's labels."""

    path: str
    probability: float  # of a defect, as the raters see it: 0, 1/3, 2/3 or 1
    kind: str  # mono or poly


def elpv_root() -> Path:
    """Return the package's folder of images.

    Raises:
        UserError: the package elpv-dataset is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None:
        raise UserError(
            "datamodule=elpv: the package elpv-dataset is not installed. Install it with "
            "pip install -e '.[samples]', or use your own images: "
            "datamodule=image_folder datamodule.root=DIR"
        )
    return Path(package.submodule_search_locations[0]) / "data"


def elpv_catalog() -> Catalog:
    """Return functional cells (defect probability 0) and defective ones (1), without the uncertain ones (1/3, 2/3)."""
    root = elpv_root()
    cells = _cells(root)
    certain = [cell for cell in cells if cell.probability in (0.0, 1.0)]
    log.info(
        "elpv: %s of %s solar cells (%d of uncertain label excluded); license %s",
        f"{len(certain):,}",
        f"{len(cells):,}",
        len(cells) - len(certain),
        LICENSE,
    )
    return Catalog(
        name="elpv",
        root=root,
        classes=CLASSES,
        paths=[cell.path for cell in certain],
        labels=np.array([int(cell.probability) for cell in certain]),
        splits=np.full(len(certain), UNASSIGNED, dtype="<U5"),
        license=LICENSE,
    )


def elpv_paper_catalog(seed: int) -> Catalog:
    """Return all cells as Deitsch et al. 2019 use them: 1,968 for training, 656 for test, by type and probability.

    Every cell with a defect probability above 0 is defective. The loss weighs a certain cell 1 and an uncertain one as
    much as its probability, 1/3 or 2/3: table 1 of the paper, whose split itself was not published.
    """
    root = elpv_root()
    cells = _cells(root)
    probabilities = np.array([cell.probability for cell in cells])
    certain = np.isin(probabilities, (0.0, 1.0))
    strata = [f"{cell.kind} {cell.probability}" for cell in cells]
    splits = np.full(len(cells), "train", dtype="<U5")
    splits[stratified_rows(strata, PAPER_TEST, seed)] = "test"
    log.info(
        "elpv: all %s solar cells, %d of uncertain label; license %s", f"{len(cells):,}", (~certain).sum(), LICENSE
    )
    return Catalog(
        name="elpv_paper",
        root=root,
        classes=CLASSES,
        paths=[cell.path for cell in cells],
        labels=(probabilities > 0).astype(np.int64),
        splits=splits,
        license=LICENSE,
        weights=np.where(certain, 1, probabilities).astype(np.float32),
        subsets={
            "cell": [f"{cell.kind}crystalline" for cell in cells],
            "label_is": ["certain" if c else "uncertain" for c in certain],
            "defect_probability": [f"{p:.2f}" for p in probabilities],
        },
    )


def _cells(root: Path) -> list[Cell]:
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines()]
    return [Cell(path, round(3 * float(probability)) / 3, kind) for path, probability, kind in rows]
