import json

import pytest

from common.atomic_io import write_csv
from inference.image_inputs import ImageInputs
from tests.support.helpers import make_images


@pytest.fixture
def root(tmp_path):
    root = make_images(tmp_path / "images", {"red": 3, "red/deeper": 1, ".hidden": 2, "blue": 2}, size=8)
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red.jpg").write_bytes(b"")
    return root


def paths(*arguments, **options) -> list[str]:
    return [source.path for source in ImageInputs(*arguments, **options)]


def test_a_folder_is_searched_in_the_order_of_its_paths(root):
    found = paths(str(root))
    assert found == sorted(found)
    assert [path.removeprefix(f"{root}/") for path in found] == [
        "blue/000.png", "blue/001.png", "red.jpg", "red/000.png", "red/001.png", "red/002.png", "red/deeper/000.png"
    ]  # fmt: skip


def test_a_image_a_pattern_and_a_list_keep_their_order(root):
    one, pattern = f"{root}/red/001.png", f"{root}/*/000.png"
    assert paths(one) == [one]
    assert paths(pattern) == [f"{root}/blue/000.png", f"{root}/red/000.png"]
    assert paths([one, pattern, f"{root}/blue"])[0] == one and len(ImageInputs([one, pattern, f"{root}/blue"])) == 5
    assert len(paths(f"{root}/**")) == 8  # files alone, each once; notes.txt was named
    (root / "a[1].png").write_bytes(b"")
    assert paths(f"{root}/a[1].png") == [f"{root}/a[1].png"]


def test_a_table_says_label_and_split(root):
    rows = [
        {"path": "red/001.png", "label": "red", "split": "val"},
        {"path": "blue/000.png", "label": "", "split": "test"},
    ]
    write_csv(root / "list.csv", ["path", "label", "split"], rows)
    found = list(ImageInputs(f"{root}/list.csv"))
    assert [(p.path, p.label, p.split) for p in found] == [
        ("red/001.png", "red", "val"), ("blue/000.png", "", "test")
    ]  # fmt: skip
    assert all(p.file.is_file() for p in found)


def test_a_table_elsewhere_has_a_root_or_absolute_paths(root, tmp_path):
    write_csv(tmp_path / "list.csv", ["path"], [{"path": "red/001.png"}, {"path": f"{root}/blue/000.png"}])
    found = list(ImageInputs(str(tmp_path / "list.csv"), root=str(root)))
    assert [p.file for p in found] == [root / "red/001.png", root / "blue/000.png"]


def test_a_run_s_table_finds_the_run_s_images(root, tmp_path):
    run, record = tmp_path / "run", {"schema": 1, "status": "finished", "run": {}}
    run.mkdir()
    write_csv(run / "splits.csv", ["path", "label", "split"], [{"path": "red/001.png", "label": "red", "split": "val"}])
    (run / "result.json").write_text(json.dumps(record | {"data": {"root": str(root)}}))
    assert [p.file for p in ImageInputs(str(run / "splits.csv"))] == [root / "red/001.png"]
    (run / "result.json").write_text(json.dumps(record | {"data": {"root": "/gone"}}))
    with pytest.raises(ValueError, match=r"not at /gone any more.*root=DIR"):
        ImageInputs(str(run / "splits.csv"))


@pytest.mark.parametrize("path", ["../a.png", "red/../../a.png", "", "a\0b"])
def test_a_relative_path_may_not_leave_its_folder(root, path):
    write_csv(root / "list.csv", ["path"], [{"path": "red/001.png"}, {"path": path}] if path else [{"path": ""}])
    if not path:
        (root / "list.csv").write_text("path,label\nred/001.png,\n,red\n")
    with pytest.raises(ValueError, match=r"list\.csv, line 3: path=.*stay below"):
        ImageInputs(f"{root}/list.csv")


def test_what_is_wrong_is_said_before_anything_is_read(root, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("file\na.png\n")
    (tmp_path / "latin.csv").write_bytes("path\nä.png\n".encode("latin-1"))
    for images, options, words in (
        (None, {}, "nothing is given"),
        ([], {}, "nothing is given"),
        (str(tmp_path / "empty"), {}, "no images in it or below"),
        ("/nowhere", {}, "images=/nowhere: no such file or folder"),
        (f"{root}/*.tif", {}, "fits no file"),
        (f"{root}/*/", {}, "fits no file; a folder is given without a pattern"),
        (str(tmp_path / "other.csv"), {}, "the column path is missing; found file"),
        (str(tmp_path / "latin.csv"), {}, "not a CSV in UTF-8"),
        (str(root), {"root": str(root)}, "is of the relative paths of a table"),
    ):
        with pytest.raises(ValueError, match=r"^(images|root)") as caught:
            ImageInputs(images, **options)
        assert words in str(caught.value), images
    write_csv(root / "list.csv", ["path"], [{"path": "a.png"}])
    with pytest.raises(ValueError, match="root=/nowhere: no such folder"):
        ImageInputs(f"{root}/list.csv", root="/nowhere")


def test_a_folder_that_cannot_be_read_is_said_once(root, monkeypatch, caplog):
    from datamodules.sources import image_folder

    scandir = image_folder.os.scandir

    def refuse(folder):
        if str(folder).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(image_folder.os, "scandir", refuse)
    assert len(paths(str(root))) == 6
    assert caplog.text.count("deeper: left out, the folder cannot be read (Permission denied)") == 1
