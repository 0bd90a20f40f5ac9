import numpy as np
import pytest

from datamodules.catalog import Catalog, check_splits


def catalog():
    return Catalog(name="x", root="DIR", classes=["a", "b"], paths=list("pqrstu"), labels=np.array([0, 1] * 3),
                   splits=np.array(["train", "train", "val", "val", "test", "test"]))  # fmt: skip


def test_rows_and_what_is_left_out():
    pictures = catalog()
    assert pictures.rows("val").tolist() == [2, 3] and pictures.describe() == "train 2, val 2, test 2 pictures"
    pictures.leave_out([3], "too dark")
    assert pictures.rows("val").tolist() == [2] and pictures.left_out == {3: "too dark"}
    assert pictures.present().tolist() == [True, True, True, False, True, True]


def test_every_split_needs_every_class():
    pictures = catalog()
    check_splits(pictures, optional={"test"})
    pictures.leave_out([3], "too dark")
    with pytest.raises(ValueError, match="val split has no picture of class b"):
        check_splits(pictures, optional={"test"})


def test_a_data_set_may_have_no_test_split():
    pictures = catalog()
    pictures.leave_out([4, 5], "none")
    check_splits(pictures, optional={"test"})
    assert pictures.describe() == "train 2, val 2 pictures"
