import numpy as np
import pytest

from datamodules.elpv import elpv_catalog
from datamodules.splits import FRACTIONS, assign_splits

pytest.importorskip("elpv_dataset", reason="needs the extra samples")


def test_the_certain_cells_and_their_split_never_change():
    catalog = elpv_catalog()
    assert np.bincount(catalog.labels).tolist() == [1508, 715]
    assert all(path.is_file() for path in catalog.files)
    splits = assign_splits(catalog.labels, FRACTIONS, 48763)
    assert [int((splits == split).sum()) for split in FRACTIONS] == [1334, 444, 445]
    first = [catalog.paths[row] for row in np.flatnonzero(splits == "test")[:3]]
    assert first == ["images/cell0002.png", "images/cell0004.png", "images/cell0005.png"]
