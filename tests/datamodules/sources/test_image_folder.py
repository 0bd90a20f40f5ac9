import numpy as np
import pytest

from common.errors import UserError
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from tests.support.helpers import make_images


def test_three_split_folders_are_kept(two_colors):
    catalog = read_source(ImageFolder(root=two_colors))
    assert catalog.classes == ["blue", "red"]
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [24, 12, 14]
    for path, label, split in zip(catalog.paths, catalog.labels, catalog.splits, strict=True):
        assert path.startswith(f"{split}/{catalog.classes[label]}/")


def test_plain_class_folders_have_no_split_yet(tmp_path):
    root = make_images(tmp_path, {"blue": 10, "red": 20, "green": 5})
    catalog = read_source(ImageFolder(root=root))
    assert catalog.classes == ["blue", "green", "red"]
    assert set(catalog.splits) == {""} and np.bincount(catalog.labels).tolist() == [10, 5, 20]


def test_hidden_and_system_files_are_no_images(tmp_path):
    root = make_images(tmp_path, {"blue": 5, "red": 5, ".cache": 2, "blue/deeper": 2})
    for name in (".hidden.png", "Thumbs.db", "notes.txt"):
        (root / "blue" / name).write_bytes(b"x")
    (root / "red" / "000.png").rename(root / "red" / "ÄÖ ü 🙂.PNG")
    catalog = read_source(ImageFolder(root=root))
    assert len(catalog) == 12
    assert sum("🙂" in path for path in catalog.paths) == 1


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders"),
        ({"train/blue": 3, "train/red": 3, "val/blue": 3}, "classes differ between train and val.*red"),
        ({"val/blue": 3, "val/red": 3}, "no train"),
        ({"blue": 3}, "a single class"),
        ({"train/blue": 3, "train/red": 0}, "red: a class folder without images"),
    ],
)
def test_wrong_folders_are_named(tmp_path, counts, message):
    with pytest.raises(UserError, match=message):
        read_source(ImageFolder(root=make_images(tmp_path, counts)))
