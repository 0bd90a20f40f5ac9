"""The ELPV data set: photographs of solar cells in electroluminescence.

Buerhop-Lutz et al. 2018, "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
Imagery"; Deitsch et al. 2019, arXiv:1807.02894. 2,624 cells of 300 x 300 pixels, gray.
"""

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.targets import not_installed
from datamodules.sources.source import ImageRow, Source
from datamodules.splits import stratified_rows

log = logging.getLogger(__name__)

PAPER_TEST = 656  # of 2,624, a quarter


class Cell(NamedTuple):
    """Hold a line of the data set's labels."""

    path: str
    probability: float  # of a defect, according to the raters: 0, 1/3, 2/3 or 1
    kind: str  # mono or poly

    @property
    def is_certain(self) -> bool:
        return self.probability in (0.0, 1.0)


class Elpv(Source):
    """List functional cells (defect probability 0) and defective ones (1), without the uncertain ones (1/3, 2/3)."""

    name = "elpv"
    classes = ["functional", "defective"]
    license = "CC BY-NC-SA 4.0, not for commercial use"
    citation = "Deitsch et al. 2019, Automatic classification of defective photovoltaic module cells, arXiv:1807.02894"

    @property
    def root(self) -> Path:
        """The package's folder of images; without the package elpv-dataset, a UserError."""
        package = importlib.util.find_spec("elpv_dataset")
        if package is None:
            missing = not_installed("elpv-dataset", "datamodule=elpv", "samples")
            raise UserError(f"{missing}, or use your own images: datamodule.root=DIR")
        return Path(package.submodule_search_locations[0]) / "data"

    def cells(self) -> list[Cell]:
        """Read the labels of all cells."""
        rows = [line.split() for line in (self.root / "labels.csv").read_text().splitlines()]
        return [Cell(path, round(3 * float(probability)) / 3, kind) for path, probability, kind in rows]

    def images(self) -> Iterator[ImageRow]:
        cells = self.cells()
        certain = [cell for cell in cells if cell.is_certain]
        log.info(
            "elpv: %s of %s solar cells (%d with uncertain labels excluded); license %s",
            f"{len(certain):,}", f"{len(cells):,}", len(cells) - len(certain), self.license,
        )  # fmt: skip
        for cell in certain:
            yield ImageRow(cell.path, self.classes[int(cell.probability)])


class ElpvPaper(Elpv):
    """List all cells as Deitsch et al. 2019 use them: 1,968 to train and 656 to test, stratified by type and probability.

    Every cell with a defect probability above 0 is defective. In the loss, a certain cell has weight 1 and an uncertain one
    its probability, 1/3 or 2/3 (table 1 of the paper). The split is not the paper's, which was not published.

    Args:
        split_seed: of the draw of the test cells.
    """

    name = "elpv_paper"

    def __init__(self, *, split_seed: int):
        self.split_seed = split_seed

    def images(self) -> Iterator[ImageRow]:
        cells = self.cells()
        test = set(stratified_rows([f"{cell.kind} {cell.probability}" for cell in cells], PAPER_TEST, self.split_seed))
        uncertain = sum(not cell.is_certain for cell in cells)
        log.info(
            "elpv: all %s solar cells, %d with uncertain labels; license %s", f"{len(cells):,}", uncertain, self.license
        )
        for row, cell in enumerate(cells):
            yield ImageRow(
                cell.path,
                self.classes[int(cell.probability > 0)],
                split="test" if row in test else "train",
                weight=1.0 if cell.is_certain else cell.probability,
                subsets={
                    "cell": f"{cell.kind}crystalline",
                    "label_is": "certain" if cell.is_certain else "uncertain",
                    "defect_probability": f"{cell.probability:.2f}",
                },
            )
