import logging

import numpy as np
import pytest

from datamodules.catalog import check_splits
from datamodules.folders import folder_catalog
from tests.helpers import make_pictures


def test_three_split_folders_are_taken_as_they_are(two_colours):
    catalog = folder_catalog(two_colours, seed=0)
    assert catalog.classes == ["blue", "red"]
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [24, 12, 14]
    for path, label, split in zip(catalog.paths, catalog.labels, catalog.splits, strict=True):
        assert path.startswith(f"{split}/{catalog.classes[label]}/")


def test_val_is_split_off_train_where_it_is_missing(tmp_path):
    root = make_pictures(tmp_path, {"train/blue": 10, "train/red": 20, "test/blue": 3, "test/red": 3})
    catalog = folder_catalog(root, seed=0)
    assert {s: np.bincount(catalog.labels[catalog.rows(s)]).tolist() for s in ("train", "val", "test")} == {
        "train": [8, 16],
        "val": [2, 4],
        "test": [3, 3],
    }
    assert np.array_equal(catalog.splits, folder_catalog(root, seed=0).splits)


def test_no_test_folder_means_no_test_and_is_said(tmp_path, caplog):
    root = make_pictures(tmp_path, {f"{s}/{c}": 5 for s in ("train", "val") for c in ("blue", "red")})
    with caplog.at_level(logging.WARNING):
        assert len(folder_catalog(root, seed=0).rows("test")) == 0
    assert "no test folder" in caplog.text


def test_class_folders_alone_are_split_60_20_20(tmp_path):
    root = make_pictures(tmp_path, {"blue": 10, "red": 20, "green": 5})
    catalog = folder_catalog(root, seed=0)
    assert catalog.classes == ["blue", "green", "red"]
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [21, 7, 7]


def test_hidden_and_system_files_are_no_pictures(tmp_path):
    root = make_pictures(tmp_path, {"blue": 5, "red": 5, ".cache": 2, "blue/deeper": 2})
    for name in (".hidden.png", "Thumbs.db", "notes.txt"):
        (root / "blue" / name).write_bytes(b"x")
    (root / "red" / "000.png").rename(root / "red" / "ÄÖ ü 🙂.PNG")
    catalog = folder_catalog(root, seed=0)
    assert len(catalog) == 12
    assert sum("🙂" in path for path in catalog.paths) == 1


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders"),
        ({"train/blue": 3, "train/red": 3, "val/blue": 3}, "classes differ between train and val.*red"),
        ({"val/blue": 3, "val/red": 3}, "no train"),
        ({"blue": 3}, "a single class"),
        ({"train/blue": 3, "train/red": 0}, "red: a class folder without pictures"),
    ],
)
def test_wrong_folders_are_named(tmp_path, counts, message):
    with pytest.raises(ValueError, match=message):
        folder_catalog(make_pictures(tmp_path, counts), seed=0)


def test_a_class_too_small_for_all_splits_is_named(tmp_path):
    catalog = folder_catalog(make_pictures(tmp_path, {"blue": 9, "red": 1}), seed=0)
    with pytest.raises(ValueError, match="no picture of class red"):
        check_splits(catalog)
