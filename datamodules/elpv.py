"""Catalog of the ELPV data set: photographs of solar cells in electroluminescence.

Buerhop-Lutz et al. 2018, "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
Imagery"; Deitsch et al. 2019, arXiv:1807.02894. 2,624 cells of 300 x 300 pixels, grey.
"""

import importlib.util
import logging
from pathlib import Path

import numpy as np

from .catalog import UNASSIGNED, Catalog

log = logging.getLogger(__name__)

LICENCE = "CC BY-NC-SA 4.0, not for commercial use"


def elpv_root() -> Path:
    """The package's folder of pictures.

    Raises:
        ValueError: the package elpv-dataset is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None:
        raise ValueError(
            "datamodule=elpv: the package elpv-dataset is not installed. Install it with "
            "pip install -e '.[samples]', or take your own pictures: "
            "datamodule=image_folder datamodule.root=DIR"
        )
    return Path(package.submodule_search_locations[0]) / "data"


def elpv_catalog() -> Catalog:
    """Functional (defect probability 0) against defective (1); the uncertain cells (1/3, 2/3) are left out."""
    root = elpv_root()
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines()]
    certain = [(path, float(probability)) for path, probability, _ in rows if float(probability) in (0.0, 1.0)]
    labels = np.array([int(probability) for _, probability in certain])
    log.info(
        "elpv: %s of %s solar cells (%d of uncertain label left out); licence %s",
        f"{len(certain):,}",
        f"{len(rows):,}",
        len(rows) - len(certain),
        LICENCE,
    )
    return Catalog(
        name="elpv",
        root=root,
        classes=["functional", "defective"],
        paths=[path for path, _ in certain],
        labels=labels,
        splits=np.full(len(labels), UNASSIGNED, dtype="<U5"),
    )
