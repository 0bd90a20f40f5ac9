import os

import numpy as np
import pytest

from common.errors import UserError
from datamodules.sources.csv_table import CsvTable
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
    assert [file.is_file() for file in catalog.files] == [True, True]


def test_path_and_label_are_enough(root):
    catalog = read_source(CsvTable(table=write(root, "\ufeffpath,label\nimages/000.png,b\nimages/001.png,a\n")))
    assert catalog.splits.tolist() == ["", ""] and catalog.weights is None


@pytest.mark.parametrize(("text", "message"), [
    ("", "line 0: column path, label is missing; found nothing"),
    ("path,label\n", "there are no rows"),
    ("file,label\nx,a\n", "line 1: column path is missing; found file, label"),
    ("path,label,label\nx,a,a\n", "line 1: column label appears twice"),
    ("path,label\nimages/000.png,a\nimages/001.png,a\n", "a single class"),
    ("path,label\nimages/000.png,a\nimages/009.png,b\n", "line 3: no such file"),
    ("path,label\nimages/000.png,a\nimages/000.png,b\n", "line 3: images/000.png is in line 2 already"),
    ("path,label\nimages/000.png,a\nimages/001.png\n", "line 3: values are missing or too many"),
    ("path,label\nimages/000.png,a\nimages/001.png,\n", "line 3: path and label are needed"),
    ("path,label\n../000.png,a\n", "line 2: .* leaves the folder"),
    ("path,label\n/etc/passwd,a\n", "line 2: .* leaves the folder"),
    ("path,label,split\nimages/000.png,a,dev\n", "line 2: split='dev'; use train, val, test"),
    ("path,label,weight\nimages/000.png,a,-1\n", "line 2: weight='-1.0'"),
    ("path,label,weight\nimages/000.png,a,nan\n", "line 2: weight='nan'"),
    ("path,label,weight\nimages/000.png,a,much\n", "line 2: weight='much'"),
])  # fmt: skip
def test_wrong_tables_are_named(root, text, message):
    with pytest.raises(UserError, match=message):
        read_source(CsvTable(table=write(root, text)))


def test_what_is_no_table(root):
    with pytest.raises(UserError, match="no such file"):
        read_source(CsvTable(table=root / "nowhere.csv"))
    (root / "binary.csv").write_bytes("path,label".encode("utf-16"))
    with pytest.raises(UserError, match="is it a CSV in UTF-8"):
        read_source(CsvTable(table=root / "binary.csv"))


def test_labels_are_utf8_and_paths_are_bytes(root):
    (root / "images" / "000.png").rename(root / "images" / os.fsdecode(b"\xfc.png"))
    table = root / "table.csv"
    table.write_bytes(b"path,label\nimages/\xfc.png,a\nimages/001.png,b\n")
    assert all(file.is_file() for file in read_source(CsvTable(table=table)).files)
    table.write_bytes(b"path,label\nimages/\xfc.png,gr\xfcn\nimages/001.png,b\n")
    with pytest.raises(UserError, match=r"line 2: label=.*not in UTF-8"):
        read_source(CsvTable(table=table))
