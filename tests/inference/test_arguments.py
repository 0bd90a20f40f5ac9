from pathlib import Path

import pytest

from common.errors import UserError
from inference.arguments import check_export_arguments, check_predict_arguments, checkpoint_argument


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """A folder with a checkpoint and one without, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "empty", "whole/checkpoints", "search/retrained/lr-1_seed-1/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "best.ckpt").write_text("")
    for place in ("whole", "search/retrained/lr-1_seed-1"):
        (tmp_path / place / "checkpoints" / "best.ckpt").write_text("")
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize(("ckpt", "words"), [
    (None, "ckpt is not set"),
    ("", "ckpt is not set"),
    ("run", "ckpt=run: is a folder; give the file, ckpt=run/best.ckpt"),
    ("whole", "is a folder; give the file, ckpt=whole/checkpoints/best.ckpt"),
    ("search", "is a folder; give the file, ckpt=search/retrained/lr-1_seed-1/checkpoints/best.ckpt"),
    ("search/retrained", "is a folder; give the file, ckpt=search/retrained/lr-1_seed-1/checkpoints/best.ckpt"),
    ("empty", "is a folder; give the file, ckpt=RUN/checkpoints/best.ckpt"),
    ("nowhere.ckpt", "nowhere.ckpt: no such checkpoint; a run keeps its own in RUN/checkpoints/best.ckpt"),
    ("best.onnx", "is an exported file already; give the checkpoint it was made from"),
    ("best.pt2", "is an exported file for other programs; give a checkpoint, "),
    ("best_litert/model.tflite", "is an exported file for other programs; give a checkpoint, "),
])  # fmt: skip
def test_what_is_no_checkpoint(ckpt, words):
    with pytest.raises(UserError, match=words):
        checkpoint_argument(ckpt)


def test_an_exported_file_is_allowed_where_it_can_be_used():
    with pytest.raises(UserError, match=r"nowhere\.onnx: no such checkpoint; make it with python export\.py"):
        checkpoint_argument("nowhere.onnx", exported=True)
    assert checkpoint_argument("run/best.ckpt", exported=True).name == "best.ckpt"


@pytest.mark.parametrize(("values", "words"), [
    ((0, False, 60), "batch_size=0: use a whole number of 1 or more"),
    (("many", False, 60), "batch_size=many: use a whole number"),
    ((16, True, 0), "explain_most=0: use a whole number"),
    ((16, True, "few"), "explain_most=few: use a whole number"),
    ((16, True, 60, 1.5), "threshold=1.5: use a probability from 0 to 1"),
    ((16, True, 60, "x"), "threshold=x: use a probability from 0 to 1"),
    ((16, True, 60, True), "threshold=true: use a probability from 0 to 1"),
    ((16, "maybe", 60), "explain=maybe: use true or false"),
])  # fmt: skip
def test_wrong_settings_of_predict(values, words):
    with pytest.raises(UserError, match=words):
        check_predict_arguments(*values)


@pytest.mark.parametrize("threshold", [None, 0, 0.5, 1])
def test_settings_of_predict_that_are_accepted(threshold):
    check_predict_arguments(1, True, 1, threshold)


@pytest.mark.parametrize(("suffix", "preprocessing", "out", "expected"), [
    (".onnx", True, None, "run/best.onnx"),
    (".onnx", False, None, "run/best_network.onnx"),
    ("_int8.onnx", True, None, "run/best_int8.onnx"),
    (".pt2", True, "other", "other/best.pt2"),
    (".onnx", True, "other/NAME.ONNX", "other/NAME.ONNX"),
    (".pt2", True, "a.onnx", "a.onnx/best.pt2"),
])  # fmt: skip
def test_where_an_exported_file_goes(suffix, preprocessing, out, expected):
    settings = {"suffix": suffix, "preprocessing": preprocessing, "out": out, "largest_difference": 1e-4}
    assert str(check_export_arguments("run/best.ckpt", **settings)) == expected


def test_where_an_exported_folder_goes():
    settings = {"suffix": "_web", "preprocessing": True, "largest_difference": 1e-4, "is_folder": True}
    for out, expected in ((None, "run/best_web"), ("site", "site"), ("a/b.c", "a/b.c"), (".", str(Path.cwd()))):
        assert str(check_export_arguments("run/best.ckpt", out=out, **settings)) == expected


@pytest.mark.parametrize(("changes", "words"), [
    ({"ckpt": None}, "ckpt is not set"),
    ({"ckpt": "best.onnx"}, "is an exported file already"),
    ({"out": "file/x"}, r"out=file/x/best.onnx: cannot be written \(.*/file is a file\); use out=FILE or out=DIR"),
    ({"preprocessing": "yes"}, "preprocessing=yes: use true or false"),
    ({"largest_difference": -1}, "largest_difference=-1: use a number of 0 or more"),
    ({"largest_difference": float("nan")}, "largest_difference=nan"),
    ({"largest_difference": None}, "largest_difference=None"),
    ({"largest_difference": True}, "largest_difference=True"),
    ({"out": ["a"]}, r"out=\['a'\]: is not one path; use out=FILE or out=DIR"),
])  # fmt: skip
def test_wrong_settings_of_export(changes, words):
    settings = {"suffix": ".onnx", "preprocessing": True, "out": None, "largest_difference": 1e-4}
    settings |= {"ckpt": "run/best.ckpt"} | changes
    with pytest.raises(UserError, match=words):
        check_export_arguments(settings.pop("ckpt"), **settings)
