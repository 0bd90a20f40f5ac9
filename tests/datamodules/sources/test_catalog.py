import numpy as np
import pytest

from datamodules.sources.catalog import Catalog, check_splits


def catalog():
    return Catalog(name="x", root="DIR", classes=["a", "b"], paths=list("pqrstu"), labels=np.array([0, 1] * 3),
                   splits=np.array(["train", "train", "val", "val", "test", "test"]))  # fmt: skip


def test_rows_and_what_is_left_out():
    images = catalog()
    assert images.rows("val").tolist() == [2, 3] and images.describe() == "train 2, val 2, test 2 images"
    images.exclude([3], "too dark")
    assert images.rows("val").tolist() == [2] and images.excluded == {3: "too dark"}
    assert images.present().tolist() == [True, True, True, False, True, True]


def test_every_split_needs_every_class():
    images = catalog()
    check_splits(images, optional={"test"})
    images.exclude([3], "too dark")
    with pytest.raises(ValueError, match="val split has no image of class b"):
        check_splits(images, optional={"test"})


def test_a_data_set_may_have_no_test_split():
    images = catalog()
    images.exclude([4, 5], "none")
    check_splits(images, optional={"test"})
    assert images.describe() == "train 2, val 2 images"
