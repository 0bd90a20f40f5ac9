import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.errors import UserError
from common.run_folder import PROJECT
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.image_folder import ImageFolder, walk_images
from datamodules.sources.source import read_source
from engine.error_messages import user_message
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


def test_a_hidden_folder_of_images_is_named(tmp_path, caplog):
    root = make_images(
        tmp_path / "data", {f"train/{name}": 2 for name in ("a", "b", ".c")} | {".thumbnails": 1}, size=16
    )
    (root / "train" / ".cache").mkdir()
    (root / "train" / ".DS_Store").write_bytes(b"x")
    assert read_source(ImageFolder(root=str(root))).classes == ["a", "b"]
    assert "skipped images in .thumbnails and train/.c: names that start with a dot are hidden" in caplog.text


def test_a_link_beside_the_class_folders_that_leads_nowhere_is_named(tmp_path, caplog):
    """Its class would be missing without a word."""
    root = make_images(tmp_path / "data", {"train/a": 2, "train/b": 2}, size=16)
    for name, target in {"train/c": "gone", "itself": "itself", ".hidden": "gone", "README": "train/a/000.png"}.items():
        (root / name).symlink_to(target)
    assert read_source(ImageFolder(root=str(root))).classes == ["a", "b"]
    assert "skipped itself and train/c: a link to a folder or file that does not exist; repair" in caplog.text


def test_a_url_is_not_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"file:/data: no such folder \(relative .*; a URL cannot be read; give the path"
    ):
        read_source(ImageFolder(root="file:///data"))


def test_hidden_and_system_files_are_no_images(tmp_path, caplog):
    root = make_images(tmp_path, {"blue": 5, "red": 5, ".cache": 2, "blue/deeper": 2})
    others = ("a.txt", "b.txt", "a.ico", "a.pdf", "a.psd", "a.svg", "a.tga", "a.xcf")
    for name in (".hidden.png", "Thumbs.db", *others):
        (root / "blue" / name).write_bytes(b"x")
    (root / "red" / "000.png").rename(root / "red" / "ÄÖ ü 🙂.PNG")
    catalog = read_source(ImageFolder(root=root))
    assert len(catalog) == 12
    assert sum("🙂" in path for path in catalog.paths) == 1
    counts = re.search(r"skipped 8 files \(not images of a class\): (.*)", caplog.text)[1]
    assert sum(map(int, re.findall(r"\d+", counts))) == 8 and "2 .txt, " in counts and ", 2 of other kinds" in counts


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders"),
        (
            {"train/blue": 3, "train/red": 3, "val/blue": 3},
            "classes differ between train and val: only in train: red; every",
        ),
        (
            {"train/cats": 1, "train/dogs": 1, "test/Cat": 1, "test/dogs": 1},
            "between train and test: only in train: cats; only in test: Cat; every split",
        ),
        ({"val/blue": 3, "val/red": 3}, "no train"),
        ({"blue": 3}, "a single class"),
        ({"train/blue": 3, "train/red": 0}, "red: a class folder without images"),
    ],
)
def test_wrong_folders_are_named(tmp_path, counts, message):
    with pytest.raises(UserError, match=message):
        read_source(ImageFolder(root=make_images(tmp_path, counts)))


def test_class_folders_of_files_without_a_suffix_say_how_to_use_them(tmp_path):
    root = make_images(tmp_path, {"ill": 1, "well": 1}, size=8)
    (root / "ill" / "000.png").rename(root / "ill" / "IM0001")
    with pytest.raises(
        UserError, match=r"ill: .* 1 without a suffix.*; give images a suffix, .*datamodule.table=FILE$"
    ):
        read_source(ImageFolder(root=root))
    table = root / "labels.csv"
    table.write_text("path,label\nill/IM0001,ill\nwell/000.png,well\n")
    assert read_source(CsvTable(table=table)).classes == ["ill", "well"]


@pytest.mark.parametrize(("name", "advice"), [
    ("a.tar.gz", "unpack it, and give the folder that it makes"), ("a.ZIP", "unpack it, and give the folder that it makes"),
    ("a.csv", "did you mean datamodule.table=FILE"), ("a.jpg", "it should hold DIR/{train,val,test}/CLASS/* or DIR/CLASS/*"),
])  # fmt: skip
def test_a_file_in_place_of_the_folder_is_named(tmp_path, name, advice):
    file = tmp_path / name
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="is a file, not a folder; ") as caught:
        read_source(ImageFolder(root=file))
    assert str(caught.value).replace(str(file), "FILE").endswith(advice)


def test_splits_are_found_by_other_names(tmp_path, caplog):
    folders = ("Training/blue", "Training/red", "dev/blue", "dev/red", "TESTING/blue", "TESTING/red")
    with caplog.at_level("INFO"):
        catalog = read_source(ImageFolder(root=make_images(tmp_path, dict.fromkeys(folders, 2), size=8)))
    assert catalog.classes == ["blue", "red"]
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [4, 4, 4]
    assert "TESTING is the test split" in caplog.text


def test_what_systems_keep_beside_files_is_neither_class_nor_image(tmp_path):
    systems = ("@eaDir", "__MACOSX/red", ".thumbnails", "lost+found", "$RECYCLE.BIN", "#recycle", "System Volume Information",
               "red/@eaDir/000.png", "red/.ipynb_checkpoints", "red/__MACOSX", ".Trash-1000/files", ".git")  # fmt: skip
    root = make_images(tmp_path, dict.fromkeys(("red", "blue", *systems), 3), size=8)
    (root / "red" / "000.png").rename(root / "red" / "._000.png")
    catalog = read_source(ImageFolder(root=root))
    assert catalog.classes == ["blue", "red"] and len(catalog) == 5
    assert [file.name for file in walk_images(root / "red")] == ["001.png", "002.png"]


@pytest.mark.parametrize(("folders", "message"), [
    ("archive/dataset/blue archive/dataset/red",
     "archive holds no images itself, .*did you mean datamodule.root=DIR/archive/dataset"),
    ("a/b/c/d/blue a/b/c/d/red", "did you mean datamodule.root=DIR/a/b/c/d"),
    ("archive/Train/blue archive/Train/red archive/test/blue", "did you mean datamodule.root=DIR/archive$"),
    ("archive/blue archive/red docs:", "did you mean datamodule.root=DIR/archive$"),
    ("my_data/blue my_data/red samples", "did you mean datamodule.root=DIR/my_data; if my_data is a class"),
    ("odd/set/blue odd/set/red samples more", "did you mean datamodule.root=DIR/odd/set; if odd is a class"),
    ("blue red old/blue old/red", "old holds no images itself, but DIR/old holds blue and red"),
    ("train/set/blue train/set/red", "train: set holds no images itself, .*: move these into DIR/train"),
    ("train/train/blue train/train/red", "train: train inside it is a train split, not a class"),
    ("train/train/a train/train/b test/test/a test/test/b",
     "move the folders in DIR/test/test to DIR/test and the folders in DIR/train/train to DIR/train$"),
    ("seg_train/seg_train/a seg_train/seg_train/b seg_test/seg_test/a seg_test/seg_test/b seg_pred/seg_pred",
     "mean splits, not classes; rename seg_test/seg_test to test and seg_train/seg_train to train.*move seg_pred elsewhere"),
    ("abc_train/abc_train/a abc_train/abc_train/b abc_test/abc_test", "rename abc_train/abc_train to train.*move abc_test"),
    ("Train_Set/a Train_Set/b Test-Set/a Test-Set/b", "rename Test-Set to test and Train_Set to train"),
    ("train_images/a train_images/b test_images/a test_images/b", "rename test_images to test and train_images to train"),
    ("train_data/a train_data/b valid_data/a valid_data/b", "rename train_data to train and valid_data to val"),
    ("TrainData/a TrainData/b test/a test/b", "rename TrainData to train to get"),
    ("train_images test_images", "mean splits, but the folders contain images instead of class folders; .*path,label,split"),
    ("fold1/a fold1/b fold2/a fold2/b", "fold1 and fold2 hold the same folders.*; rename them to train, val, test"),
    ("train/fold1 train/fold2 train/fold3 test/fold1 test/fold2 test/fold3",
     "DIR: test: fold1, fold2 and fold3 contain images directly, and their names mean parts of a data set, not classes"),
    ("Split_A Split_B", "Split_A and Split_B contain images directly"),
    ("original/a original/b augmented/a augmented/b", "use one of them, e.g. datamodule.root=DIR/original, or list"),
    ("color/a color/b grayscale/a grayscale/b", "use one of them, e.g. datamodule.root=DIR/color, .*path,label,group"),
    ("8863/0 8863/1 8864/0 8864/1 8865/0", "8863, 8864 and 8865 hold the same folders.*path,label,group"),
    ("siteA/a siteA/b siteB/a siteB/b", "siteA and siteB hold the same folders"),
    ("train/color/a train/color/b train/gray/a train/gray/b", "move the folders of one of them into DIR/train"),
    ("train/a train/b val/a val/b eval/a eval/b", "eval is not named .* same class folders as train; rename eval to test"),
    ("train/a train/b holdout/holdout/a holdout/holdout/b", "rename holdout/holdout to test"),
    ("train/a train/b odd/a odd/b", "rename odd to val or test, or move it elsewhere"),
    ("train bus car", "train is read as a split: if it is a class, rename the folder, or list the images in a table"),
    ("test control", "no train .*test is read as a split: if it is a class"),
    ("train/blue train/red val/blue Valid/blue", "Valid and val are both the val split"),
    ("blue/train blue/test red/train red/test",
     "blue is a class folder with the splits test, train inside; put the splits outside"),
    (".", "no class folders inside, but 2 images directly in it"),
    ("train test", "no class folders inside, but 2 images directly in it"),
    ("train/blue train/red test", "test: no class folders inside, .*a test folder without classes belongs elsewhere"),
    ("blue red:", r"red: a class folder without images \(it holds nothing\); add some .* or remove the folder"),
    ("Cat cat", r"the classes Cat \(2 images\) and cat \(2 images\) differ only by case; if they are one class"),
    ("caf\u00e9 cafe\u0301", r"the classes 'cafe\\u0301' .* and 'caf\\xe9' .* differ only by Unicode form or spaces"),
    ("train/caf\u00e9 train/a test/cafe\u0301 test/a", r"only in train: 'caf\\xe9'; only in test: 'cafe\\u0301'"),
])  # fmt: skip
def test_folders_that_are_no_classes_are_named(tmp_path, folders, message):
    counts = {folder.rstrip(":"): 0 if folder.endswith(":") else 2 for folder in folders.split()}
    with pytest.raises(UserError) as caught:
        read_source(ImageFolder(root=make_images(tmp_path / "DIR", counts, size=8)))
    assert re.search(message, str(caught.value).replace(str(tmp_path / "DIR"), "DIR")), caught.value
    str(caught.value).encode()  # can be shown


@pytest.mark.parametrize("name", ["red", "DIR"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(tmp_path, monkeypatch, name):
    root = make_images(tmp_path / "DIR", {"blue": 2, "red": 2}, size=8)
    refused = root / name if name == "red" else root
    for function in ("listdir", "scandir"):  # root may read everything
        read = getattr(os, function)

        def pretend(path, read=read):
            if os.fspath(path) == str(refused):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return read(path)

        monkeypatch.setattr(os, function, pretend)
    with pytest.raises(PermissionError) as caught:
        read_source(ImageFolder(root=root))
    message = user_message(caught.value)
    assert message.startswith(f"{refused}: no permission; to read, ask the owner for it; to write, "), message


@pytest.mark.parametrize("folders", [
    ("NAME/blue", "NAME/red"),
    ("NAME/Train/blue", "NAME/Train/red", "NAME/test/blue"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["my images, 2", "it's (1)", "x=1"])
def test_the_folder_of_an_advice_can_be_typed_as_it_is_shown(tmp_path, folders, name):
    counts = {folder.replace("NAME", name): 2 for folder in folders}
    with pytest.raises(UserError) as caught:
        read_source(ImageFolder(root=make_images(tmp_path / "DIR", counts, size=8)))
    advice = re.search("(?:did you mean|e.g.) (.*?)(?:; if|, or list|$)", str(caught.value))[1]
    (typed,) = shlex.split(advice)
    assert OverridesParser.create().parse_override(typed).value() == str(tmp_path / "DIR" / name)


@pytest.mark.parametrize(
    "classes", [("flat", "fold1"), ("patient1", "patient2"), ("batch1", "batch2"), ("fold", "split")]
)
def test_names_of_parts_that_may_be_classes_are_classes(tmp_path, classes):
    assert read_source(ImageFolder(root=make_images(tmp_path, dict.fromkeys(classes, 2), size=8))).classes == list(
        classes
    )


def test_a_class_folder_that_is_no_utf8_is_a_class_of_a_name_that_can_be_written(tmp_path, caplog):
    catalog = read_source(ImageFolder(root=make_images(tmp_path, {"blue": 2, "red\udce9": 2}, size=8)))
    assert catalog.classes == ["blue", r"red\xe9"] and catalog.labels.tolist() == [0, 0, 1, 1]
    assert all(Path(file).is_file() for file in catalog.files)
    assert r"the class is called red\xe9; to change" in caplog.text


def test_the_name_behind_a_link_need_not_be_utf_8(tmp_path):
    """Such a link is what the refusal of a path that is not UTF-8 proposes."""
    (tmp_path / "link").symlink_to(make_images(tmp_path / "lat\udce4in", {"blue": 2, "red": 2}, size=8))
    assert ImageFolder(root=tmp_path / "link").name == r"lat\xe4in"


def test_a_class_folder_in_utf8_keeps_its_name_where_python_reads_ascii(tmp_path):
    root = make_images(tmp_path, {"blue": 2, "caf\u00e9": 2}, size=8)
    code = (
        "import sys; from datamodules.sources.image_folder import ImageFolder; source = ImageFolder(root=sys.argv[1]); "
        "print(len(list(source.images())), ascii(source.classes))"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(root)]
    ran = subprocess.run(command, cwd=PROJECT, env=ascii_only, capture_output=True, text=True, check=True)
    assert ran.stdout.split(maxsplit=1) == ["4", r"['blue', 'caf\xe9']" + "\n"] and ran.stderr == ""  # no warning


def test_classes_of_folders_stay_classes_and_are_mentioned(tmp_path, caplog):
    folders = ("red/day", "red/night", "blue/p1/v1", "blue/p1/v2", "blue/p2")
    catalog = read_source(ImageFolder(root=make_images(tmp_path, dict.fromkeys(folders, 2), size=8)))
    assert catalog.classes == ["blue", "red"] and len(catalog) == 10
    assert (
        "no images directly in blue and red: those in the folders below (p1, p2, day and night) are used" in caplog.text
    )


@pytest.mark.parametrize("folders", [
    "benign/40X benign/100X malignant/40X malignant/100X", "grade1/left grade1/right grade2/left grade2/right",
])  # fmt: skip
def test_outer_folders_that_may_be_classes_are_taken_and_both_readings_named(tmp_path, caplog, folders):
    outer = sorted({folder.partition("/")[0] for folder in folders.split()})
    root = make_images(tmp_path, dict.fromkeys(folders.split(), 2), size=8)
    assert read_source(ImageFolder(root=root)).classes == outer
    assert f"{outer[0]} and {outer[1]} are taken as the classes, but they hold the same folders" in caplog.text
    assert "if those are the classes, list all images in a table, datamodule.table=FILE" in caplog.text


@pytest.mark.parametrize("folders", [
    "bullet_train test_tube car dog", "bullet_train/x test_tube/x car/x dog/x cow/x", "0/p1 0/p2 1/p3 1/p4", "original fake",
    "2021 2022", "test_control test_treated",
])  # fmt: skip
def test_classes_with_words_of_splits_and_numbers_stay_classes(tmp_path, folders):
    outer = sorted({folder.partition("/")[0] for folder in folders.split()})
    root = make_images(tmp_path, dict.fromkeys(folders.split(), 2), size=8)
    assert read_source(ImageFolder(root=root)).classes == outer


def test_single_letters_of_both_cases_are_a_finding(tmp_path):
    catalog = read_source(ImageFolder(root=make_images(tmp_path, {"A": 2, "a": 2, "b": 1}, size=8)))
    assert catalog.classes == ["A", "a", "b"]
    assert catalog.similar_names == ["names: the classes A (2 images) and a (2 images) differ only by case"]


def test_a_relative_root_is_named_and_kept_whole(tmp_path, monkeypatch):
    make_images(tmp_path / "DIR", {"blue": 2, "red": 2}, size=8)
    monkeypatch.chdir(tmp_path)
    assert read_source(ImageFolder(root="DIR")).root == tmp_path / "DIR"
    with pytest.raises(
        UserError, match=rf"datamodule.root=gone: no such folder \(relative to the current folder, {tmp_path}\)"
    ):
        read_source(ImageFolder(root="gone"))
