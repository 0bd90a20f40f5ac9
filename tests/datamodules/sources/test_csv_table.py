import json
import ntpath
import os
from dataclasses import asdict
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import DataInfo, RunRecord
from datamodules.sources import csv_table
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from tests.support.helpers import make_images


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path, {"images": 4}, size=16)


def write(root, text):
    (root / "table.csv").write_text(text, encoding="utf-8")
    return root / "table.csv"


def test_all_columns_are_read(root):
    text = "path,label,split,group,weight\nimages/000.png,b,train,p1,2\nimages/001.png,a,val,,\n"
    catalog = read_source(CsvTable(table=write(root, text)))
    assert catalog.classes == ["a", "b"] and catalog.labels.tolist() == [1, 0]
    assert catalog.splits.tolist() == ["train", "val"] and catalog.groups == ["p1", ""]
    assert np.array_equal(catalog.weights, np.array([2, 1], np.float32))
    assert [Path(file).is_file() for file in catalog.files] == [True, True]


@pytest.mark.parametrize(("column", "values", "warned"), [
    ("Set", ("Train", "VALID"), True), ("dataset", ("train", ""), False), ("part", ("train", "left"), False),
    ("split", ("train", "val"), False),
])  # fmt: skip
def test_splits_under_another_name_are_not_drawn_without_a_warning(root, caplog, column, values, warned):
    text = f"path,label,{column}\nimages/000.png,b,{values[0]}\nimages/001.png,a,{values[1]}\n"
    catalog = read_source(CsvTable(table=write(root, text)))
    assert any(catalog.splits) == (column == "split")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    text = f"datamodule.table={root / 'table.csv'}: the column {column!r} holds splits, but is not used as the split"
    assert [warning.startswith(text) for warning in warnings] == [True] * warned


@pytest.mark.parametrize(("columns", "advised"), [("animal,site", True), ("group,site", False)])
def test_a_table_without_groups_says_how_to_name_them(root, caplog, columns, advised):
    caplog.set_level("INFO")
    text = f"path,label,{columns}\nimages/000.png,b,1,lab\nimages/001.png,a,2,lab\n"
    read_source(CsvTable(table=write(root, text)))
    assert ("rename one to group to keep images that share its value in one split" in caplog.text) == advised


def test_path_and_label_are_enough(root):
    catalog = read_source(CsvTable(table=write(root, "\ufeffpath,label\nimages/000.png,b\nimages/001.png,a\n")))
    assert catalog.splits.tolist() == ["", ""] and catalog.weights is None


@pytest.mark.parametrize(("text", "message"), [
    ("file,label\nx,a\n", "line 1: column path is missing; found file, label"),
    ("path,label\nimages/000.png,a\nimages/001.png,\n", "line 3: has no label; add one, or remove the line"),
    ("path,label,split\nimages/000.png,a,late\n", "line 2: split='late'; use train, val, test"),
    ("path,label,group\nimages/000.png,a,nan\n", r"line 2: has no group \(found nan\); leave the value empty"),
    ("path,fine_label,coarse_label\nx,a,b\n", "found path, fine_label, coarse_label; rename the column that holds it to label"),
])  # fmt: skip
def test_wrong_tables_are_named(root, text, message):
    """Further ones are in tests/support/malformed.py."""
    with pytest.raises(UserError, match=message):
        read_source(CsvTable(table=write(root, text)))


def test_what_is_no_table(root):
    with pytest.raises(UserError, match="no such file"):
        read_source(CsvTable(table=root / "nowhere.csv"))
    (root / "binary.csv").write_bytes(b"\x89PNG\r\n\0\0\0")
    with pytest.raises(UserError, match="is it a CSV"):
        read_source(CsvTable(table=root / "binary.csv"))


def test_labels_are_utf8_and_paths_are_bytes(root):
    (root / "images" / "000.png").rename(root / "images" / os.fsdecode(b"\xfc.png"))
    table = root / "table.csv"
    table.write_bytes(b"path,label\nimages/\xfc.png,a\nimages/001.png,b\n")
    assert all(Path(file).is_file() for file in read_source(CsvTable(table=table)).files)
    table.write_bytes(b"path,label\nimages/\xfc.png,gr\xfcn\nimages/001.png,b\n")
    with pytest.raises(UserError, match=r"line 2: label=.*not in UTF-8"):
        read_source(CsvTable(table=table))


def place(root, name):
    """Return a table's path for images/000.png, as other programs write it."""
    return {"windows": "images\\000.png", "absolute": f"{root}/images/000.png",
            "up and down": f"{root}/../{root.name}/images/000.png", "without suffix": "images/000",
            "blanks": "images/000.png ", "dot": "./images/000.png"}[name]  # fmt: skip


@pytest.mark.parametrize(("written", "note"), [
    ("windows", "backslashes in a path read as /"), ("absolute", "absolute path below the root"),
    ("up and down", "absolute path below the root"),
    ("blanks", "spaces around a path removed"),
    ("without suffix", "path with .png added"), ("dot", ""),
])  # fmt: skip
def test_paths_are_found_as_other_programs_write_them(root, caplog, written, note):
    text = f"path,label,split\n{place(root, written)},a,Training\nimages/001.png,b,validation\n"
    with caplog.at_level("INFO"):
        catalog = read_source(CsvTable(table=write(root, text)))
    assert [path.removeprefix("./") for path in catalog.paths] == ["images/000.png", "images/001.png"]
    assert catalog.splits.tolist() == ["train", "val"] and note in caplog.text
    assert "split 'Training' as train" in caplog.text


def test_a_name_with_blanks_is_itself_first(root):
    (root / "images" / "000.png").rename(root / "images" / " 000.png ")
    (root / "images" / "002.png").rename(root / "images" / "000.png")
    catalog = read_source(CsvTable(table=write(root, "path,label\nimages/ 000.png ,a\nimages/000.png,b\n")))
    assert list(catalog.paths) == ["images/ 000.png ", "images/000.png"]


@pytest.mark.parametrize(("path", "advice"), [
    ("000.png", "in ROOT: write the path like this, or if all images are there, use datamodule.root=ROOT/images"),
    ("IMAGES/000.PNG", "there is images/000.png in ROOT: write the path like this"),
    ("C:\\Users\\me\\images\\000.png", "there is images/000.png in ROOT: write the path like this"),
    ("deep/x.png", "did you mean datamodule.root=ROOT/images"),
    ("NAME/images/000.png", "did you mean datamodule.root=PARENT"),
    ("ROOT/images/gone.png", "no such file: ROOT/images/gone.png; paths are relative to ROOT, or to another folder with "
     "datamodule.root=DIR"),
    ("/mnt/server/images/000.png", "no such file: /mnt/server/images/000.png; there is images/000.png in ROOT: write the path "
     "like this"),
    ("gone.png", "paths are relative to ROOT, or to another folder with datamodule.root=DIR"),
])  # fmt: skip
def test_a_file_that_lies_elsewhere_is_hinted_at(root, path, advice):
    (root / "images" / "deep").mkdir()
    (root / "images" / "003.png").rename(root / "images" / "deep" / "x.png")
    path = path.replace("NAME", root.name).replace("ROOT", str(root))
    with pytest.raises(UserError) as caught:
        read_source(CsvTable(table=write(root, f"path,label\n{path},a\n")))
    message = str(caught.value).replace(str(root), "ROOT").replace(str(root.parent), "PARENT")
    assert message.endswith(advice), message


@pytest.mark.parametrize(("rows", "message"), [
    ("images/000.png,Cat\nimages/001.png,cat\nimages/002.png,dog\n",
     r"the classes Cat \(1 images\) and cat .* differ only by case"),
    ("images/000.png,1\nimages/001.png,1.0\nimages/002.png,0\n", r"the classes 1 .* and 1\.0 .* differ only by the form"),
    ("images/000.png,01\nimages/001.png,1\nimages/002.png,2\n", r"the classes 01 .* and 1 .* differ only by the form"),
    ("images/000.png,0\nimages/001.png,0.0\nimages/002.png,-1\n", r"the classes 0 .* and 0\.0 .* differ only by the form"),
    ("images/000.png,a\nimages/001.png,nan\n", r"line 3: has no label \(found nan\); add one, or remove the line"),
    ("images/000.png,a\nimages/001.png,<NA>\n", r"line 3: has no label"),
    ("images/000.png,a\n'images/001.png',b\n", "line 3: values are in single quotes; write them in double quotes or in none"),
    ("images/000.png,a\n" * 9 + "images/001.png,b\n" * 2,
     "line 3: images/000.png is already in line 2; 8 more repeat an earlier one: line 4, line 5, line 6, line 7 and 4 more; "
     "keep one line for each image"),
    ("images/000.png,a\nimages/000.png,b\n", "is already in line 2, where it is labeled 'a', here 'b'; keep one of the two"),
])  # fmt: skip
def test_labels_that_contradict_are_refused(root, rows, message):
    with pytest.raises(UserError, match=message):
        read_source(CsvTable(table=write(root, f"path,label\n{rows}")))


def test_values_in_place_of_classes_are_refused(root):
    """Numbers are classes where they repeat: of 42 images 21 different ones do, on average, and of 41 not."""
    make_images(root, {"many": 42}, size=16)
    for images, message in (
        (42, None),
        (41, r"21 different numbers for 41 images, such as 0\.0e-3: .* regression is not"),
    ):
        rows = "".join(f"many/{i:03}.png,{i % 21}.{i % 21}e-3\n" for i in range(images))
        table = CsvTable(table=write(root, f"path,label\n{rows}"))
        if message is None:
            assert len(read_source(table).classes) == 21
        else:
            with pytest.raises(UserError, match=message):
                read_source(table)


@pytest.mark.parametrize("first, hint", [
    ("ROOT/images/deep/003.png", "below ROOT/images: add datamodule.root=ROOT/images"),
    ("deep/003.png", "leaves the folder"),
])  # fmt: skip
def test_a_table_beside_the_folder_of_its_absolute_paths_names_that_folder(root, first, hint):
    (root / "images" / "deep").mkdir()
    (root / "images" / "003.png").rename(root / "images" / "deep" / "003.png")
    (root / "tables" / "deep").mkdir(parents=True)
    (root / "tables" / "deep" / "003.png").touch()
    rows = f"path,label\n{first},a\nROOT/images/000.png,b\nROOT/images/001.png,b\n".replace("ROOT", str(root))
    with pytest.raises(UserError) as caught:
        read_source(CsvTable(table=write(root / "tables", rows)))
    assert hint in str(caught.value).replace(str(root), "ROOT")
    if "add" in hint:
        assert len(read_source(CsvTable(table=root / "tables" / "table.csv", root=root / "images")).paths) == 3


def test_labels_that_may_be_meant_are_kept(root):
    rows = "".join(f"images/00{i}.png,{label}\n" for i, label in enumerate(("None", "NA", "1", "-1")))
    assert read_source(CsvTable(table=write(root, f"path,label\n{rows}"))).classes == ["-1", "1", "NA", "None"]


def test_a_class_folder_named_like_a_missing_value_is_a_class_in_the_table_of_its_run(tmp_path):
    """Only there: in another table, nan is what pandas writes for a missing label."""
    root = make_images(tmp_path / "data", {"nan": 3, "NA": 3, "None": 3}, size=16)
    folders = read_source(ImageFolder(root=str(root)))
    assert folders.similar_names == [
        "names: the class nan (3 images) is named like a missing label; if it is one, remove its images"
    ]
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    lines = [
        f"{path},{folders.classes[label]},train" for path, label in zip(folders.paths, folders.labels, strict=True)
    ]
    run.splits.write_text("\n".join(["path,label,split", *lines]))
    record = RunRecord(data=DataInfo(root=str(root), classes=folders.classes))
    run.record.write_text(json.dumps(asdict(record)))
    for given in (None, str(root)):
        assert read_source(CsvTable(table=run.splits, root=given)).classes == folders.classes == ["NA", "None", "nan"]
    run.splits.rename(tmp_path / "run" / "mine.csv")
    with pytest.raises(UserError, match=r"has no label \(found nan\)"):
        read_source(CsvTable(table=tmp_path / "run" / "mine.csv", root=str(root)))


class WindowsFolder(PureWindowsPath):
    """C:/data, the only folder of an imaginary disk."""

    def absolute(self):
        return self

    resolve = absolute


def test_on_windows_paths_with_drives_and_backslashes_become_those_of_other_systems(monkeypatch):
    monkeypatch.setattr(csv_table, "Path", PureWindowsPath)
    monkeypatch.setattr(csv_table, "PurePath", PureWindowsPath)
    monkeypatch.setattr(csv_table, "os", SimpleNamespace(path=ntpath, sep="\\"))
    monkeypatch.setattr(csv_table, "is_file", lambda path: path == PureWindowsPath("C:/data/cat/0.png"))
    finder = csv_table.FileFinder(WindowsFolder("C:/data"))
    for written in (r"C:\data\cat\0.png", "C:/data/cat/0.png", r"cat\0.png", "cat/0.png"):
        assert finder.find(written) == "cat/0.png"
    assert finder.find(r"C:\other\cat\0.png") is None
