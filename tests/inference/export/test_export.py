"""What export.py does before a format writes."""

import pytest
from PIL import Image

from common.errors import UserError
from inference.backends import ModelDescription
from inference.export.export import _calibration_images, export
from inference.export.int8 import Int8
from inference.image_inputs import ImageInputs
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.fake_format import First, allow_any_agreement

DESCRIPTION = ModelDescription(["a", "b"], 8, [0.5] * 3, [0.5] * 3, decision=None)


def test_files_that_cannot_be_read_are_skipped_in_calibration_as_in_comparison(tmp_path, caplog):
    for name in "abc":
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    splits = {"": list(ImageInputs(str(tmp_path)))}
    found = _calibration_images(Int8(), splits, str(tmp_path), DESCRIPTION)
    assert [each.file.name for each in found] == ["a.png", "c.png"] and "skipped: " in caplog.text
    for name in "ac":
        (tmp_path / f"{name}.png").write_text("no image")
    with pytest.raises(UserError, match="images to calibrate with: none can be read; give others: images=DIR"):
        _calibration_images(Int8(), splits, str(tmp_path), DESCRIPTION)


def test_test_images_that_are_given_are_refused(tmp_path, monkeypatch):
    """Made-up images in their place would be no answer to what was asked."""
    allow_any_agreement(monkeypatch)
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("path,split\na.png,test\n")
    with pytest.raises(UserError, match="has only images of the split test; give validation images"):
        export(str(checkpoint), format=First(), images=str(tmp_path / "table.csv"))
    assert export(str(checkpoint), format=First(), images=str(tmp_path / "table.csv"), further=["test"]).further
