from pathlib import Path

import numpy as np
import pytest

from datamodules.decode import fingerprint, open_image
from datamodules.sources.elpv import Elpv, ElpvPaper
from datamodules.sources.source import read_source
from datamodules.splits import fill_in_splits

pytest.importorskip("elpv_dataset", reason="needs the extra samples")


@pytest.mark.thorough
def test_the_certain_cells_and_their_split_never_change():
    catalog = read_source(Elpv())
    assert np.bincount(catalog.labels).tolist() == [1508, 715] and catalog.license == Elpv.license
    assert all(Path(path).is_file() for path in catalog.files)
    fingerprints = [fingerprint(open_image(path)) for path in catalog.files]
    fill_in_splits(catalog, np.arange(len(catalog)), fingerprints, 48763)  # without near duplicates, which join groups
    assert catalog.describe() == "train 1,320, val 449, test 454 images"
    first = [catalog.paths[row] for row in catalog.rows("test")[:3]]
    assert first == ["images/cell0011.png", "images/cell0018.png", "images/cell0020.png"]


def test_the_paper_s_cells_are_split_by_type_and_probability_and_weighted():
    catalog = read_source(ElpvPaper(split_seed=48763))
    assert [len(catalog.rows(split)) for split in ("train", "test")] == [1968, 656]
    assert np.bincount(catalog.labels).tolist() == [1508, 2624 - 1508]  # every probability above 0 is defective
    kinds = list(zip(catalog.subsets["cell"], catalog.subsets["defect_probability"], strict=True))
    for kind in set(kinds):  # the counts of the data set's labels, each within one cell of a quarter
        rows = np.array([k == kind for k in kinds])
        assert abs((catalog.splits[rows] == "test").sum() - rows.sum() / 4) < 1
        weight = {"0.00": 1, "0.33": 1 / 3, "0.67": 2 / 3, "1.00": 1}[kind[1]]
        assert catalog.weights[rows] == pytest.approx(weight)
    certain = np.array(catalog.subsets["label_is"]) == "certain"
    assert certain.sum() == 2223 and (catalog.weights[certain] == 1).all()
