import logging
import os
import shutil

import pytest

from common.atomic_io import write_csv
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from inference.image_inputs import (
    ImageInputs,
    RunImages,
    count_test_evaluation,
    is_run,
    resolve_images,
    training_images,
)
from tests.support.fake_explained import make_explained_run, make_labeled_run
from tests.support.fake_runs import change_record, make_run
from tests.support.helpers import make_images


@pytest.fixture
def root(tmp_path):
    root = make_images(tmp_path / "images", {"red": 3, "red/deeper": 1, ".hidden": 2, "blue": 2}, size=8)
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red.jpg").write_bytes(b"")
    return root


@pytest.fixture
def checkpoint(tmp_path, two_colors):
    """Of a run on two_colors: train 24, val 12, test 14 images."""
    return make_explained_run(tmp_path / "run", two_colors)


def paths(*arguments, **options) -> list[str]:
    return [image_input.path for image_input in ImageInputs(*arguments, **options)]


def test_files_that_are_no_images_by_their_suffix_are_counted(root, caplog):
    (root / "blue" / "scan.ppm").touch()
    assert len(paths(str(root))) == 7
    assert [each.getMessage() for each in caplog.records] == [
        f"images={root}: skipped 2 files by suffix: 1 .ppm, 1 .txt"
    ]


def test_an_image_that_is_named_more_than_once_is_taken_once(root, caplog, monkeypatch):
    one = f"{root}/red/001.png"
    assert paths([one, f"{root}/red", f"{root}/blue", one])[:2] == [one, f"{root}/red/000.png"]
    inputs = ImageInputs([one, f"{root}/red", one])
    assert len(inputs) == 4 and [len(list(inputs)) for _ in range(2)] == [4, 4]
    assert "2 images named more than once; each is taken once" in caplog.text
    monkeypatch.chdir(root)
    assert paths(["red/000.png", f"{root}/red/000.png", "./red/../red/000.png"]) == ["red/000.png"]


def test_a_folder_is_searched_in_the_order_of_its_paths(root):
    found = paths(str(root))
    assert found == sorted(found)
    assert [path.removeprefix(f"{root}/") for path in found] == [
        "blue/000.png", "blue/001.png", "red.jpg", "red/000.png", "red/001.png", "red/002.png", "red/deeper/000.png"
    ]  # fmt: skip


def test_an_image_a_pattern_and_a_list_keep_their_order(root):
    one, pattern = f"{root}/red/001.png", f"{root}/*/000.png"
    assert paths(one) == [one]
    assert paths(pattern) == [f"{root}/blue/000.png", f"{root}/red/000.png"]
    assert paths([one, pattern, f"{root}/blue"])[0] == one and len(ImageInputs([one, pattern, f"{root}/blue"])) == 4
    assert len(paths(f"{root}/**")) == 8  # only files, each once; notes.txt was named
    (root / "a[1].png").write_bytes(b"")
    assert paths(f"{root}/a[1].png") == [f"{root}/a[1].png"]


def test_a_label_that_is_not_in_utf_8_is_refused_as_in_training(root):
    (root / "t.csv").write_bytes("path,label\nred/000.png,red\nblue/000.png,b\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.csv: line 3: label='b\?': not in UTF-8; save the table as UTF-8$"):
        ImageInputs(str(root / "t.csv"))


def test_a_table_has_labels_splits_and_groups(root):
    rows = [("red/001.png", "red", "val", "p1"), ("blue/000.png", "", "test", "")]
    columns = ["path", "label", "split", "Group"]
    write_csv(root / "list.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    found = list(ImageInputs(f"{root}/list.csv"))
    assert [(p.path, p.label, p.split, p.group) for p in found] == rows
    assert all(p.file.is_file() for p in found)


def test_a_run_s_predictions_have_the_groups_of_its_splits(tmp_path):
    """Their table has none: their accuracy was that of single images, unlike the one in the record."""
    run = RunFolder(make_run(tmp_path / "run", n={"test": 4}, data={"root": str(tmp_path)}))
    assert [each.group for each in ImageInputs(str(run.predictions("test")))] == [""] * 4
    rows = [{"path": f"0/test/{i:05}.png", "label": "cat", "split": "test", "group": f"p{i // 2}"} for i in range(3)]
    write_csv(run.splits, ["path", "label", "split", "group"], reversed(rows))
    found = list(ImageInputs(str(run.predictions("test"))))
    assert [(each.split, each.group) for each in found] == [("test", name) for name in ("p0", "p0", "p1", "")]


def test_a_table_elsewhere_has_a_root_or_absolute_paths(root, tmp_path):
    write_csv(tmp_path / "list.csv", ["path"], [{"path": "red/001.png"}, {"path": f"{root}/blue/000.png"}])
    found = list(ImageInputs(str(tmp_path / "list.csv"), root=str(root)))
    assert [p.file for p in found] == [root / "red/001.png", root / "blue/000.png"]


def test_a_run_s_table_finds_the_run_s_images(root, tmp_path):
    run = make_labeled_run(tmp_path / "run", root, [root / "red/001.png"], ["red"], ["val"])
    assert [p.file for p in ImageInputs(str(run.splits))] == [root / "red/001.png"]
    change_record(run.path, data={"root": "/gone"})
    with pytest.raises(UserError, match=r"no longer in /gone.*root=DIR"):
        ImageInputs(str(run.splits))


@pytest.mark.parametrize("path", ["../a.png", "red/../../a.png", "", "a\0b"])
def test_a_relative_path_may_not_leave_its_folder(root, tmp_path, path):
    rows = [{"path": "red/001.png", "label": "", "split": ""}, {"path": path, "label": "red", "split": ""}]
    write_csv(root / "list.csv", list(rows[0]), rows)
    with pytest.raises(UserError, match=r"^images=.*list\.csv: line 3: .*(stay below|NUL)"):
        ImageInputs(f"{root}/list.csv")
    run = make_labeled_run(tmp_path / "run", root, [root / "red/001.png"], ["red"], ["test"])
    write_csv(run.splits, list(rows[0]), rows)
    with pytest.raises(UserError, match=r"^images=.*splits\.csv: line 3: .*(stay below|NUL)"):
        RunImages(run, None)


def test_wrong_inputs_are_found_before_anything_is_read(root, tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "all.ZIP").touch()
    (tmp_path / "other.csv").write_text("file\na.png\n")
    (tmp_path / "short.csv").write_text("path,label\na.png\n")
    for images, options, words in (
        (None, {}, "images is not set"),
        ("", {}, "images is not set"),
        ([], {}, "images is not set"),
        (str(tmp_path / "empty"), {}, "no images in it or below"),
        ("/nowhere", {}, "images=/nowhere: no such file or folder"),
        ([str(root / "red"), ""], {}, "one of them is empty"),
        ([str(root / "red"), None], {}, "one of them is empty"),
        (str(tmp_path / "pipe"), {}, "/pipe: not a file but a pipe or device"),
        (str(tmp_path / "all.ZIP"), {}, "/all.ZIP: is an archive; unpack it"),
        (3, {}, "images=3: no such file or folder"),
        (f"{root}/*.tif", {}, "no file matches"),
        (f"{root}/*/", {}, "no file matches the pattern; for a folder, give its name only"),
        (str(tmp_path / "other.csv"), {}, "column path is missing; found file"),
        (str(tmp_path / "short.csv"), {}, "short.csv: line 2: values are missing"),
        (str(root), {"root": str(root)}, "is only for the relative paths of a table"),
    ):
        with pytest.raises(UserError, match=r"^(images|root)") as caught:
            ImageInputs(images, **options)
        assert words in str(caught.value), images
    write_csv(root / "list.csv", ["path"], [{"path": "a.png"}])
    with pytest.raises(UserError, match="root=/nowhere: no such folder"):
        ImageInputs(f"{root}/list.csv", root="/nowhere")


def test_a_folder_that_cannot_be_read_is_logged_once(root, monkeypatch, caplog):
    from datamodules.sources import image_folder

    scandir = image_folder.os.scandir

    def refuse(folder):
        if str(folder).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(image_folder.os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(paths(str(root))) == 6
    assert len([text for text in caplog.messages if "deeper" in text and "Permission denied" in text]) == 1


def test_a_run_means_its_test_images(checkpoint, tmp_path, two_colors):
    run = RunFolder(tmp_path / "run")
    found = resolve_images(str(run.path), None)
    assert isinstance(found, RunImages) and len(found) == 14 and len(list(found)) == len(list(found)) == 14
    assert {image_input.split for image_input in found} == {"test"} and found.images_folder == two_colors
    assert all(p.file.is_file() and p.label == p.file.parent.name for p in found)
    assert isinstance(resolve_images(str(two_colors), None), ImageInputs) and not is_run(RunFolder(two_colors))
    assert len(resolve_images(str(run.splits), None)) == 50


@pytest.mark.parametrize("missing", ["result.json", "splits.csv"])
def test_the_figures_of_a_run_that_was_copied_in_part_are_no_images(made, missing):
    assert list(made.path.glob("*.png")) and len(resolve_images(str(made.path), None)) == 14
    (made.path / missing).unlink()
    with pytest.raises(
        UserError, match=f"^images={made.path}: the folder of a run without {missing}, .*copy that file"
    ):
        resolve_images(str(made.path), None)


def test_a_table_of_splits_that_was_copied_in_part_is_not_all_test_images(made):
    lines = made.splits.read_text().splitlines(keepends=True)
    assert sum(",test," in line for line in lines) == 14
    made.splits.write_text("".join(lines[: 1 + next(n for n, line in enumerate(lines) if ",test," in line)]))
    with pytest.raises(UserError, match=r"splits\.csv has 1 test images, and result\.json 14: copied in part"):
        resolve_images(str(made.path), None)


def test_a_run_without_test_metrics_means_its_validation_images(checkpoint, tmp_path, two_colors):
    make_run(tmp_path / "run", epochs=0, n={"val": 12}, data={"root": str(two_colors)})
    found = resolve_images(str(tmp_path / "run"), None)
    assert found.split == "val" and len(found) == 12
    RunFolder(tmp_path / "run").write_splits({"path": ["a.png"], "label": ["red"], "split": ["train"]})
    with pytest.raises(UserError, match=r"splits\.csv has no val images; name others: images=.*splits\.csv"):
        resolve_images(str(tmp_path / "run"), None)


def test_the_images_of_a_checkpoint_s_run_or_why_there_are_none(checkpoint, tmp_path, two_colors):
    found, reason = training_images(checkpoint)
    assert len(found) == 24 and reason == ""
    elsewhere = tmp_path / "elsewhere" / "net.ckpt"
    elsewhere.parent.mkdir()
    shutil.copy(checkpoint, elsewhere)
    found, reason = training_images(elsewhere)
    assert not found and "not in the folder of a run" in reason
    change_record(tmp_path / "run", data={"root": str(tmp_path / "moved")})
    found, reason = training_images(checkpoint)
    assert not found and "are no longer in" in reason and "root=DIR" in reason
    assert len(training_images(checkpoint, str(two_colors))[0]) == 24
    (tmp_path / "empty").mkdir()
    found, reason = training_images(checkpoint, str(tmp_path / "empty"))
    assert not found and "are not where they were" in reason


def test_test_evaluations_are_counted_in_the_run_of_the_checkpoint(checkpoint, tmp_path):
    run = RunFolder(tmp_path / "run")
    change_record(run.path, test={"test_evaluations": 1})
    assert [count_test_evaluation(run), count_test_evaluation(run)] == [2, 3]
    assert RunRecord.read(run).test.test_evaluations == 3


def test_a_record_that_cannot_be_written_counts_nothing(checkpoint, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("inference.image_inputs.increment_test_evaluations", refuse)
    assert count_test_evaluation(RunFolder(tmp_path / "run")) is None
    assert "could not write" in caplog.text and "Permission denied" in caplog.text


def test_tables_of_other_programs_name_the_same_images(root, caplog):
    (root / "list.csv").write_text("Path;Label;Split\nred\\001.png; red;Testing\n", encoding="utf-16")
    with caplog.at_level("INFO"):
        (found,) = ImageInputs(f"{root}/list.csv")
    assert (found.path, found.label, found.split) == ("red/001.png", "red", "test")
    assert caplog.text.count("list.csv: interpreted: text in UTF-16; delimited by semicolons") == 1


def test_what_systems_keep_beside_files_is_no_image(root):
    make_images(root, {"red/@eaDir/000.png": 1, "__MACOSX/red": 1}, size=8)
    expected = [str(root / "blue" / f"00{n}.png") for n in range(2)]
    assert not [path for path in paths(str(root)) + paths(f"{root}/**/*.png") if "@eaDir" in path or "__MACOSX" in path]
    assert paths(f"{root}/blue/*") == expected
    assert len(paths(f"{root}/red/@eaDir/*/*.png")) == 1  # which is named


def test_an_image_in_several_lines_of_a_table_counts_once(root, caplog):
    """As of a table with a line for each box in an image: twice the images would be a shorter interval."""
    lines = ["red/000.png,red", "./red/000.png,red", f"{root}/red/000.png,red", "red/001.png,red", "red/001.png,red"]
    (root / "boxes.csv").write_text("\n".join(["path,label", *lines, ""]))
    inputs = ImageInputs(f"{root}/boxes.csv")
    assert len(inputs) == 2 and [[each.file.name for each in inputs] for _ in range(2)] == [["000.png", "001.png"]] * 2
    assert "3 images named more than once; each is taken once" in caplog.text
    (root / "boxes.csv").write_text("path,label\nred/000.png,red\n./red/000.png,blue\n")
    with pytest.raises(UserError, match=r"^images=.*line 3: \./red/000\.png has two labels; keep one of the lines"):
        ImageInputs(f"{root}/boxes.csv")


def test_a_table_of_images_elsewhere_is_refused(root):
    (root / "moved.csv").write_text("path\n001.png\n")
    message = "none of its files exists, e.g. 001.png; there is (blue|red)/001.png in .*: write the path like this, or"
    with pytest.raises(UserError, match=f"^images={root}/moved.csv: {message}"):
        ImageInputs(f"{root}/moved.csv")
