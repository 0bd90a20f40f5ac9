"""Names and refusals; test_export.py makes files."""

import pytest

from inference.export.arguments import check_export_arguments
from inference.export.export import export

COMMON = {"images": None, "root": None, "largest_difference": 1e-4}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with a checkpoint, where the test stands in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").write_text("")
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize(("format", "preprocessing", "out", "expected"), [
    ("onnx", True, None, "run/best.onnx"),
    ("onnx", False, None, "run/best_network.onnx"),
    ("int8", True, None, "run/best_int8.onnx"),
    ("torch_export", True, "other", "other/best.pt2"),
    ("onnx", True, "other/NAME.ONNX", "other/NAME.ONNX"),
    ("torch_export", True, "a.onnx", "a.onnx/best.pt2"),
])  # fmt: skip
def test_where_a_file_goes(run, format, preprocessing, out, expected):
    asked = {"format": format, "preprocessing": preprocessing, "out": out, "largest_difference": 1e-4}
    assert str(check_export_arguments("run/best.ckpt", **asked)) == expected


@pytest.mark.parametrize(("changes", "words"), [
    ({"ckpt": None}, "ckpt: nothing is given"),
    ({"ckpt": "best.pt2"}, "is an exported file already"),
    ({"ckpt": "run"}, "ckpt=run: is a folder; give the file, ckpt=run/best.ckpt"),
    ({"out": "file/x"}, r"out=file/x/best.onnx: cannot be written \(.*/file is a file\)"),
    ({"format": "tensorrt"}, r"no such format; .*Allowed: int8, onnx, torch_export"),
    ({"preprocessing": "yes"}, "use true or false"),
    ({"largest_difference": -1}, "largest_difference=-1: use a number of 0 or more"),
    ({"largest_difference": float("nan")}, "largest_difference=nan"),
    ({"largest_difference": None}, "largest_difference=None"),
])  # fmt: skip
def test_settings_that_are_none(run, changes, words):
    settings = {"ckpt": "run/best.ckpt", "format": "onnx", "preprocessing": True, "out": None, **COMMON, **changes}
    with pytest.raises(ValueError, match=words):
        export(settings.pop("ckpt"), **settings)
