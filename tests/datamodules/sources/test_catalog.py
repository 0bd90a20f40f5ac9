import numpy as np

from datamodules.sources.catalog import Catalog


def catalog():
    return Catalog(name="x", root="DIR", classes=["a", "b"], paths=list("pqrstu"), labels=np.array([0, 1] * 3),
                   splits=np.array(["train", "train", "val", "val", "test", "test"]))  # fmt: skip


def test_rows_and_excluded_ones():
    images = catalog()
    assert images.rows("val").tolist() == [2, 3] and images.describe() == "train 2, val 2, test 2 images"
    images.groups = ["animal 1", "animal 1", "animal 2", "", "animal 3", "animal 3"]
    assert images.describe() == "train 2, val 2, test 2 images, 5 of them in 3 groups"
    images.exclude([3], "too dark")
    assert (images.describe(), images.n_groups) == ("train 2, val 1, test 2 images in 3 groups", 3)
    assert images.rows("val").tolist() == [2] and images.excluded == {3: "too dark"}
    assert images.present().tolist() == [True, True, True, False, True, True]
