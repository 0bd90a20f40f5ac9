"""What export.py does before a format writes."""

import contextlib
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.progress import Progress
from inference.backends import CheckpointBackend, ModelDescription
from inference.export import export as export_module
from inference.export.export import _calibration_images, export
from inference.export.int8 import Int8, quantize
from inference.export.onnx_file import NORMALIZED, OnnxFile
from inference.export.verify import Verification
from inference.export.web import web_folder
from inference.image_inputs import ImageInputs
from tests.support.fake_checkpoints import DECISION, make_checkpoint
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


def test_training_images_calibrate_and_those_of_other_splits_never(tmp_path, monkeypatch):
    for name in "abcde":
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    images = list(ImageInputs(str(tmp_path)))
    monkeypatch.setattr(export_module, "N_CALIBRATION", 3)
    found = _calibration_images(Int8(), {"val": images[:1], "": images[:1], "train": images}, None, DESCRIPTION)
    assert [each.file.name for each in found] == ["a.png", "c.png", "e.png"]
    for given, words in ((None, "those of the run are not available"), ("x.csv", "images=x.csv has none")):
        with pytest.raises(
            UserError, match=f"format=onnx_int8 needs training images, and {words}; give some: images=DIR"
        ):
            _calibration_images(Int8(), {"val": images, "test": images}, given, DESCRIPTION)


@pytest.mark.parametrize(("agreement", "resizing", "words"), [
    (0.9, 1e-4, None), (0.899, 0.0, "is below least_agreement=0.9: "), (np.nan, 0.0, "is below least_agreement=0.9: "),
    (1.0, 1.1e-4, "resizing inside the file changes a probability by 1.1e-04"), (1.0, np.nan, "changes a probability by nan"),
])  # fmt: skip
@pytest.mark.parametrize("format", [Int8(), First()], ids=["int8", "first"])
def test_a_file_that_agrees_too_little_or_gives_nan_is_refused(format, agreement, resizing, words):
    found = Verification(9, "9 images", 0.1, 1, 0, 0, 0, agreement=agreement, resizing=resizing)
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext() as caught:
        export_module._check_agreement(format, found, 1e-4, 0.9)
    if words and "below" in words:
        assert ("calibrate on training images more like those" in str(caught.value)) == format.calibrates


@pytest.mark.parametrize(("format", "instead"), [
    (OnnxFile("native"), "format.resize=pillow"), (Int8("native"), "format=onnx"), (Int8(), "format=onnx"),
], ids=["onnx", "int8, native", "int8"])  # fmt: skip
def test_what_is_proposed_in_place_of_an_inexact_file_is_exact(format, instead):
    found = Verification(9, "9 images", 0.1, 1, 0, 0, 0, agreement=0.0, resizing=0.0)
    with pytest.raises(UserError, match=f"use {instead}, which is exact"):
        export_module._check_agreement(format, found, 1e-4, 0.9)


def test_test_images_that_are_given_are_refused(tmp_path, monkeypatch):
    """Made-up images in their place would be no answer to what was asked."""
    allow_any_agreement(monkeypatch)
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("path,split\na.png,test\n")
    with pytest.raises(UserError, match="has only images of the split test; give validation images"):
        export(str(checkpoint), format=First(), images=str(tmp_path / "table.csv"))
    assert export(str(checkpoint), format=First(), images=str(tmp_path / "table.csv"), further=["test"]).further


class Unrounded(First):
    """A file of which the network before rounding is known: the checkpoint's."""

    def open_unrounded(self, model):
        checkpoint = CheckpointBackend(self.checkpoint, "cpu")
        return lambda pixels: checkpoint(np.stack([model.description.pixels(Image.fromarray(p)) for p in pixels]))


class Exact(Unrounded):
    """A file that computes what the checkpoint computes."""

    exact = True

    def open(self, path, model):
        return self.open_unrounded(model)


@pytest.mark.parametrize(("format", "n"), [(Exact(), 2), (First(), 3)], ids=["exact", "other"])
def test_an_exact_file_is_compared_on_fewer_images(tmp_path, monkeypatch, format, n):
    allow_any_agreement(monkeypatch)
    monkeypatch.setattr(export_module, "N_VERIFICATION", 2)
    monkeypatch.setattr(export_module, "N_INEXACT", 3)
    format.checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    lines = [f"{split}{row}.png,{split}" for split in ("val", "test") for row in range(4)]
    for line in lines:
        Image.new("RGB", (9, 7)).save(tmp_path / line.partition(",")[0])
    (tmp_path / "table.csv").write_text("\n".join(["path,split", *lines]))
    made = export(str(format.checkpoint), format=format, images=str(tmp_path / "table.csv"), further=["test"])
    assert [made.verification.images, *(each.images for each in made.further)] == [
        f"{n} of 4 validation images", "3 of 4 test images",
    ]  # fmt: skip
    assert made.latency.batch_size == 1 and made.size == 7


class Checked(First):
    """A file that takes images of the network's own size and has a part that is wrong."""

    resizes = False

    def open(self, path, model):
        self.sizes, computes = set(), super().open(path, model)
        return lambda pixels: (self.sizes.add(pixels.shape[1:]), computes(pixels))[1]

    def check(self, path, model):
        assert path.is_file()
        raise UserError("its second part is wrong")


def test_a_format_checks_what_it_writes_besides_the_network(tmp_path, monkeypatch):
    allow_any_agreement(monkeypatch)
    checkpoint, format = make_checkpoint(tmp_path / "best.ckpt"), Checked()
    with pytest.raises(UserError, match="its second part is wrong"):
        export(str(checkpoint), format=format)
    side = CheckpointBackend(checkpoint, "cpu").description.image_size
    assert format.sizes == {(side, side, 3)} and list(tmp_path.iterdir()) == [checkpoint]


def test_each_comparison_is_shown_by_what_it_compares(tmp_path, monkeypatch):
    """Counts to 200, to 2,000 and to 2,000 again under one name look like a loop."""
    allow_any_agreement(monkeypatch)
    shown, format = [], Unrounded()
    format.checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    for name in "abc":
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    (tmp_path / "table.csv").write_text("path,split\na.png,test\nb.png,val\nc.png,val\n")
    progress = Progress()
    monkeypatch.setattr(progress, "set", shown.append)
    monkeypatch.setattr(progress, "count", lambda done, total: shown.append(f"{done}/{total}"))
    export(
        str(format.checkpoint), format=format, images=str(tmp_path / "table.csv"), further=["test"], progress=progress
    )
    begun = next(place for place, text in enumerate(shown) if "comparing" in text)
    before, file = (f"the {what} with the checkpoint on " for what in ("network before rounding", "file"))
    for text, n in ((f"{before}validation images", 2), (f"{before}images", 16), (f"{file}validation images", 2),
                    (f"{file}test images", 1)):  # fmt: skip
        of_pass, begun = shown[begun : begun + n + 1], begun + n + 1
        assert of_pass == [f"format=first: comparing {text}", *(f"{k}/{n}" for k in range(1, n + 1))]
    assert "comparing" not in "".join(shown[begun:])


class Calibrated(First):
    """A file that is calibrated."""

    calibrates = True

    def write(self, model, path):
        model.progress.set("calibrating")
        path.write_text(str(len(list(model.calibration_images()))))


@pytest.fixture
def phases(tmp_path, monkeypatch):
    """Export three images in a format; return what the screen would name and count."""
    checkpoint, shown, progress = make_checkpoint(tmp_path / "best.ckpt"), [], Progress()
    for name in "abc":
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(progress, "set", shown.append)
    monkeypatch.setattr(progress, "count", lambda done, total: shown.append(f"{done}/{total}"))

    def made(format):
        export(str(checkpoint), format=format, images=str(tmp_path), progress=progress)
        return shown

    return made


def test_images_to_calibrate_with_are_counted(phases, monkeypatch):
    allow_any_agreement(monkeypatch)
    shown = phases(Calibrated())
    begun = shown.index("format=first: writing best_first.txt")
    assert shown[begun + 1 : begun + 5] == ["calibrating", "1/3", "2/3", "3/3"]


def test_the_screen_counts_while_onnxruntime_measures_ranges(caplog):
    """Its advice was kept off the screen together with the count: 41 seconds of silence."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((NORMALIZED, ["N", 3, 4, 4]), ("logits", ["N", 2, 1, 1]))
    ]
    weights = numpy_helper.from_array(np.ones((2, 3, 4, 4), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Conv", [NORMALIZED, "weights"], ["logits"])], "g", *[[e] for e in ends], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def batches():
        logging.getLogger("common.progress").info("1 of 1 image")
        logging.info("what a library has to say")
        yield np.ones((1, 3, 4, 4), np.float32)

    with caplog.at_level(logging.INFO):
        quantized = quantize(model, batches())
        logging.info("afterwards")
    assert caplog.messages == ["1 of 1 image", "afterwards"]
    assert "QuantizeLinear" in {node.op_type for node in quantized.graph.node}


@pytest.mark.thorough
def test_each_phase_of_writing_a_page_is_shown(phases, monkeypatch, tmp_path):
    """The screen showed only `writing`, for minutes."""
    monkeypatch.setattr(web_folder, "find_runtime", lambda given, cache: {})  # and its network has no maps
    shown = phases(web_folder.WebFolder(str(tmp_path)))
    assert [text.removeprefix("format=web: ") for text in shown if text.startswith("format=web")] == [
        "writing best_web",
        "reading onnxruntime-web, or fetching it by npm",
        "computing the gradients of the classes, for Grad-CAM",
        "converting the network to ONNX",
        "converting the preprocessing to ONNX",
        "opening the file",
        "comparing the file with the checkpoint on images",
        "comparing the file with the checkpoint on images",  # made-up ones, which have color
        "latency",
    ]


class Described(First):
    """A file of what a format gets to write."""

    def write(self, model, path):
        path.write_text(json.dumps(model.description.as_metadata()))


def test_a_file_decides_by_a_threshold_of_one_s_own(tmp_path, monkeypatch):
    allow_any_agreement(monkeypatch)
    checkpoint, out = str(make_checkpoint(tmp_path / "best.ckpt")), tmp_path / "out_first.txt"
    for threshold in (None, 0):
        export(checkpoint, format=Described(), threshold=threshold, out=str(out))
        written = ModelDescription.from_metadata(json.loads(out.read_text())).decision
        unpromised = replace(DECISION, delta=None)  # the checkpoint's probabilities are not the file's
        assert written == (unpromised if threshold is None else replace(unpromised, threshold=threshold))
    before = out.read_bytes()
    with pytest.raises(UserError, match="threshold=2: use a probability from 0 to 1"):
        export(checkpoint, format=Described(), threshold=2, out=str(out))
    assert out.read_bytes() == before
