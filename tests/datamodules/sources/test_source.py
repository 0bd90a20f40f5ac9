import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.locks import locked
from datamodules.sources.source import ImageRow, Source, read_source
from datamodules.sources.unpacked import Record, UnpackedSource, _unpack


class Cells(Source):
    name, root, license, citation = "cells", "DIR", "CC0", "Somebody 2026"

    def __init__(self, *rows, classes=None):
        self.rows, self.classes = rows, classes

    def images(self):
        return self.rows


def test_a_row_has_what_its_source_gives_and_defaults_for_the_rest():
    catalog = read_source(Cells(ImageRow("a.png", "x"), ImageRow("b.png", "y", "val", "p1", 2.0, {"site": "north"})))
    assert ([*catalog.paths], catalog.classes, catalog.labels.tolist()) == (["a.png", "b.png"], ["x", "y"], [0, 1])
    assert (catalog.splits.tolist(), catalog.groups, catalog.weights.tolist()) == (["", "val"], ["", "p1"], [1, 2])
    assert (catalog.name, catalog.license, catalog.citation) == ("cells", "CC0", "Somebody 2026")
    assert catalog.files[0] == str(Path("DIR/a.png").absolute())


def test_classes_keep_the_order_of_the_source():
    catalog = read_source(Cells(ImageRow("a", "small"), ImageRow("b", "large"), classes=["small", "large"]))
    assert catalog.classes == ["small", "large"] and catalog.labels.tolist() == [0, 1] and catalog.weights is None


def test_values_of_numpy_become_plain_ones():
    rows = [ImageRow(name, np.str_(name), weight=np.float32(2)) for name in "ab"]
    for classes in (None, list(np.array(["b", "a"]))):
        catalog = read_source(Cells(*rows, classes=classes))
        assert {type(name) for name in catalog.classes} == {str} and catalog.weights.tolist() == [2, 2]


def test_a_column_of_subsets_may_begin_at_a_later_row():
    catalog = read_source(Cells(ImageRow("a", "x"), ImageRow("b", "y", subsets={"site": "north"})))
    assert catalog.subsets == {"site": ["", "north"]}


OTHER = ImageRow("b", "y")


@pytest.mark.parametrize(("rows", "message"), [
    ([], "test_source.Cells: lists no images of root=DIR; its images.. must yield an ImageRow for each image"),
    ([ImageRow("a", "x"), ImageRow("b", "x")], r"Cells: a single class \(x\)"),
    ([("a", "x"), OTHER], r"Cells: row 1: .* is not an ImageRow; yield ImageRow\(path, label"),
    ([ImageRow("a", "x"), ImageRow("b", 1)], "row 2: path and label must be texts; found path='b' label=1"),
    ([ImageRow("", "x"), OTHER], "row 1: has no path; add one, or remove the line"),
    ([ImageRow("a", "x", group=0), OTHER], "row 1: group='0': must be a text"),
    ([ImageRow("a", "x", group=None), OTHER], "row 1: group='None': must be a text"),
    ([ImageRow("a", "x", subsets=None), OTHER], "row 1: subsets=None: use a dict of texts"),
    ([ImageRow("a", "x", subsets={"site": 1}), OTHER], "row 1: subsets={'site': 1}: use a dict of texts"),
    ([ImageRow("a", "x "), OTHER], "row 1: label='x ': remove the spaces"),
    ([ImageRow("a", "x" * 1001), OTHER], r"row 1: label='x{60}'\.\.\.: has 1,001 characters; at most 1,000 are possible"),
    ([ImageRow("a", "x\0y"), OTHER], r"row 1: label='x\\x00y': remove the NUL bytes in the name"),
    ([ImageRow("a", "x", "late"), OTHER], "row 1: split='late'; use train, val, test"),
    ([ImageRow("a", "x", weight=-1), OTHER], "row 1: weight='-1'; use a number of 0 or more"),
    ([ImageRow("a", "x", weight="0,5"), OTHER], "weight='0,5'; use a number of 0 or more with a decimal point, not a comma"),
    ([ImageRow("a", "x", weight=0), OTHER._replace(weight=0)], "every weight is 0"),
    ([ImageRow("../a", "x"), OTHER], r"row 1: path='../a' leaves the folder DIR"),
    ([ImageRow("/a", "x"), OTHER], "row 1: path='/a' leaves the folder DIR"),
    ([ImageRow("a", "x"), OTHER, ImageRow("./a", "y")], "row 3: a is already in row 1"),
])  # fmt: skip
def test_rows_that_cannot_be_used_are_named(rows, message):
    with pytest.raises(UserError, match=f"^datamodule.source=.*{message}"):
        read_source(Cells(*rows))


def test_a_source_without_a_root_is_named():
    source = Cells(ImageRow("a", "x"), OTHER)
    source.root = None
    with pytest.raises(UserError, match="Cells: has no root, the folder"):
        read_source(source)


def test_a_label_that_the_source_does_not_declare_is_named():
    with pytest.raises(UserError, match="row 2: label='z' is none of the classes x, y"):
        read_source(Cells(ImageRow("a", "x"), ImageRow("b", "z"), classes=["x", "y"]))


def test_a_source_without_its_method_is_named():
    with pytest.raises(UserError, match=r"^datamodule\.source=.*Source: its class needs a method images"):
        read_source(Source())


def test_a_source_of_unpacked_images_without_its_methods_is_named(tmp_path):
    source = UnpackedSource()
    source.cache = tmp_path
    with pytest.raises(UserError, match=r"^datamodule\.source=.*UnpackedSource: its class needs a method version"):
        read_source(source)
    source.version = lambda: "1"
    with pytest.raises(UserError, match=r"^datamodule\.source=.*UnpackedSource: its class needs a method records"):
        read_source(source)


def test_only_what_no_process_writes_any_more_is_removed(tmp_path):
    """Of folders without a write for a day: one whose lock is held, as during a download, stays."""
    for name in ("mine", "left", "loading"):
        folder = tmp_path / f"{name}.building-host-1-x"
        folder.mkdir()
        (folder / "images.csv").touch()
        os.utime(folder / "images.csv", (0, 0))
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, format="PPM")  # a format that decoding does not read
    with locked(tmp_path / "loading.lock"):
        _unpack([Record(content.getvalue(), "a", "train")], tmp_path / "mine")
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["loading.building-host-1-x", "mine"]
    assert [each.suffix for each in (tmp_path / "mine").rglob("*") if each.is_file()].count(".unknown") == 1


@pytest.mark.parametrize(("labels", "joined"), [
    (("cat", "dog", "cat;dog", "bird, dog"), "bird, dog (1 images) and cat;dog (1 images)"),
    (("['cat']", "['cat', 'dog']", "['owl']", "owl/dog"), "['cat', 'dog'] (1 images) and owl/dog (1 images)"),
    (("cat", "Cat, wild", "Smith, John", "Smith, Ann"), None),
    (("[", "]", "+", ",", "'"), None),
])  # fmt: skip
def test_labels_that_combine_others_are_a_finding(labels, joined):
    found = read_source(Cells(*(ImageRow(str(k), label) for k, label in enumerate(labels)))).similar_names
    assert [text.partition(": an image has one label")[0] for text in found] == ([f"names: {joined}"] if joined else [])


def test_names_that_the_user_did_not_give_are_a_finding():
    rows = [ImageRow(str(k), name) for k, name in enumerate(("Polish", "polish", "x"))]
    assert read_source(Cells(*rows)).similar_names == [
        "names: the classes Polish (1 images) and polish (1 images) differ only by case"
    ]
