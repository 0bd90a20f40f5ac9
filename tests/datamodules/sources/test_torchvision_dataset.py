import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common.errors import UserError
from datamodules.sources.source import read_source
from datamodules.sources.torchvision_dataset import TorchvisionDataset

FAKE = {"size": 6, "image_size": [3, 8, 8], "num_classes": 3}


def opened(tmp_path, **arguments):
    source = TorchvisionDataset(**arguments)
    source.cache = tmp_path / "cache"
    return read_source(source)


def test_pixels_and_labels_are_torchvision_s_and_written_once(tmp_path):
    catalog = opened(tmp_path, dataset="FakeData", arguments=FAKE)
    expected = torchvision.datasets.FakeData(**FAKE)
    for file, label, (image, target) in zip(catalog.files, catalog.labels, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image)) and catalog.classes[label] == str(target)
    assert set(catalog.splits) == {""}  # FakeData has none
    written = [Path(file).stat().st_mtime_ns for file in catalog.files]
    assert [
        Path(file).stat().st_mtime_ns for file in opened(tmp_path, dataset="FakeData", arguments=FAKE).files
    ] == written
    assert opened(tmp_path, dataset="FakeData", arguments=FAKE | {"size": 5}).root != catalog.root
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {catalog.root.name, opened(
        tmp_path, dataset="FakeData", arguments=FAKE | {"size": 5}).root.name}  # nothing half-made stays  # fmt: skip


def test_what_a_killed_process_was_writing_is_removed_once_it_is_old(tmp_path):
    left, running = (tmp_path / "cache" / f"CIFAR10-0123.building-{name}" for name in ("dead", "lives"))
    for folder in (left, running):
        folder.mkdir(parents=True)
        (folder / "images.csv").write_text("path,label,split\n")
    os.utime(left / "images.csv", (time.time() - 4000,) * 2)
    catalog = opened(tmp_path, dataset="FakeData", arguments=FAKE)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {catalog.root.name, running.name}


def write_idx(path, array):
    """Write the format of http://yann.lecun.com/exdb/mnist: two zeros, the type, the dimensions, the numbers."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_files_in_a_folder_are_read_with_their_splits(tmp_path):
    generator = np.random.default_rng(0)
    images = {"train": generator.integers(0, 256, (5, 28, 28)), "t10k": generator.integers(0, 256, (3, 28, 28))}
    for name, pixels in images.items():
        write_idx(tmp_path / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", np.arange(len(pixels)) % 2)
    catalog = opened(tmp_path, dataset="MNIST", root=str(tmp_path))
    assert catalog.splits.tolist() == ["train"] * 5 + ["test"] * 3 and catalog.classes == ["0 - zero", "1 - one"]
    assert np.array_equal(np.asarray(Image.open(catalog.files[6])), images["t10k"][1])


def test_a_data_set_whose_files_have_changed_is_unpacked_again(tmp_path):
    """The files of MNIST are no class folders; the cache may be below the root."""
    for name in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", np.zeros((4, 28, 28), np.uint8))
        write_idx(tmp_path / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", np.arange(4) % 2)
    first = opened(tmp_path, dataset="MNIST", root=str(tmp_path))
    assert opened(tmp_path, dataset="MNIST", root=str(tmp_path)).root == first.root
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.array([1, 1, 1, 0]))
    changed = opened(tmp_path, dataset="MNIST", root=str(tmp_path))
    assert changed.labels[changed.splits == "test"].tolist() == [1, 1, 1, 0]


def test_two_classes_of_one_name_stay_two(tmp_path):
    """Of the 1,000 classes of ImageNet two are cranes, a bird and a machine, and two are maillots."""
    names = {"n1": ("crane",), "n2": ("maillot", "tank suit"), "n3": ("crane",), "n4": ("hen",), "n5": ("maillot",)}
    torch.save((names, []), tmp_path / "meta.bin")  # what torchvision writes of ImageNet's development kit
    for split in ("train", "val"):
        for folder in names:
            (tmp_path / split / folder).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / folder / f"{folder}.JPEG")
    catalog = opened(tmp_path, dataset="ImageNet", root=str(tmp_path))
    assert catalog.classes == ["crane (0)", "crane (2)", "hen", "maillot (1)", "maillot (4)"]
    assert np.bincount(catalog.labels).tolist() == [2] * len(names)


def test_files_of_class_folders_are_taken_as_they_are_damaged_ones_too(tmp_path):
    """A damaged one ended with a traceback, so that datamodule.on_unreadable never saw it."""
    written = {}
    for number, label in enumerate(("River", "Forest")):
        folder = tmp_path / "eurosat" / "2750" / label
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4), (200 * number, 0, 0)).save(folder / "0.jpg")
        (folder / "1.jpg").write_bytes(b"damaged" + label.encode())
        written |= {path.read_bytes(): label for path in folder.iterdir()}
    catalog = opened(tmp_path, dataset="EuroSAT", root=str(tmp_path))
    labels = [catalog.classes[label] for label in catalog.labels]
    contents = [Path(file).read_bytes() for file in catalog.files]
    assert len(contents) == 4 and dict(zip(contents, labels, strict=True)) == written
    again = opened(tmp_path, dataset="EuroSAT", root=str(tmp_path))
    assert [*again.files] == [*catalog.files]
    (folder / "1.jpg").write_bytes((folder / "0.jpg").read_bytes() + b" ")  # repaired
    repaired = opened(tmp_path, dataset="EuroSAT", root=str(tmp_path))
    assert (folder / "1.jpg").read_bytes() in [Path(file).read_bytes() for file in repaired.files]


def test_a_damaged_file_of_another_data_set_is_named(tmp_path):
    folder = tmp_path / "dtd" / "dtd"
    for name in ("labels", "images/banded"):
        (folder / name).mkdir(parents=True)
    (folder / "images" / "banded" / "0.jpg").write_bytes(b"damaged")
    for split in ("train", "val", "test"):
        (folder / "labels" / f"{split}1.txt").write_text("banded/0.jpg\n")
    with pytest.raises(UserError, match=r"dataset=DTD: train image 0 .*cannot be read \(cannot identify.*0\.jpg"):
        opened(tmp_path, dataset="DTD", root=str(tmp_path))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_what_is_not_there_is_named_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"datamodule.root=.*torchvision cannot open CIFAR10 there \(Dataset not found"):
        opened(tmp_path, dataset="CIFAR10", root=str(tmp_path / "nowhere"))
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(UserError, match="dataset=CIFAR: no such data set; did you mean CIFAR10"):
        opened(tmp_path, dataset="CIFAR")
    with pytest.raises(UserError, match="dataset=CocoDetection: no such data set"):  # boxes, no classes
        opened(tmp_path, dataset="CocoDetection")


@pytest.mark.parametrize(("dataset", "arguments", "words"), [
    ("DTD", {"spilt": "test"}, r"{spilt:test}: DTD .*unexpected keyword argument 'spilt'.*\); its arguments: partition, split"),
    ("CIFAR10", {"train": False}, r"{train:false}: CIFAR10 .*multiple values .*'train'\); its arguments: none"),
    ("QMNIST", {"whta": 1}, r"{whta:1}: QMNIST .*unexpected keyword argument 'whta'\); its arguments: compat, what"),
    ("FakeData", {"size": "x"}, r"{size:x}: FakeData .*'str' object cannot be interpreted .*\); its arguments: .*size"),
    ("FakeData", {"image_size": 9}, r"{image_size:9}: FakeData .* must be an iterable, not int\); its arguments: .*size"),
    ("EMNIST", {}, r"{}: EMNIST .*missing 1 required positional argument: 'split'\); its arguments: split"),
    ("EMNIST", {"split": "x"}, r"{split:x}: EMNIST .*Unknown value 'x' for argument split.*; its arguments: split"),
])  # fmt: skip
def test_arguments_that_a_data_set_does_not_accept_are_named_with_those_it_has(tmp_path, dataset, arguments, words):
    with pytest.raises(UserError, match=f"^datamodule.source.arguments={words}$"):
        opened(tmp_path, dataset=dataset, root=str(tmp_path / "files"), arguments=arguments)
    assert not list((tmp_path / "cache").iterdir())
