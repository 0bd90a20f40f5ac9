"""python export.py format=litert: what runs in LiteRT's interpreter is what the checkpoint computes, or nothing is written."""

import json
import logging
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

import export as script
from common.errors import UserError
from common.run_folder import RunFolder
from datamodules.decode import open_image, resize
from inference.backends import CheckpointBackend
from inference.export import microcontroller, preprocessing
from inference.export.export import Exported, export
from inference.export.litert_file import LitertFile, open_litert
from inference.export.litert_golden import read_golden
from inference.export.litert_int8 import LitertInt8
from inference.export.litert_metadata import with_metadata
from inference.export.microcontroller import run_as_microcontroller
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images
from tests.support.fake_explained import make_labeled_run

pytest.importorskip("litert_torch", reason="needs the extra litert", exc_type=ImportError)
# Of what jax and torchao do on import
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run with a checkpoint of a network of 32 pixels, 36 training and 24 validation images."""
    root = tmp_path_factory.mktemp("images")
    files = make_odd_images(root / "images", 60)
    labels = ["ants" if n % 2 else "bees" for n in range(60)]
    splits = ["val" if n % 5 < 2 else "train" for n in range(60)]
    run = make_labeled_run(tmp_path_factory.mktemp("run"), root / "images", files, labels, splits)
    make_checkpoint(run.best_checkpoint, image_size=32, fit="crop", mean=[0.5, 0.1, 0.9])
    return run


@pytest.fixture(scope="module")
def exported(run) -> Exported:
    """The run's checkpoint as a folder of LiteRT."""
    return export(str(run.best_checkpoint), format=LitertFile())


def test_the_file_computes_what_the_checkpoint_does(exported, run):
    assert exported.path == run.best_checkpoint.with_name("best_litert")
    found = exported.verification
    assert found.images == "24 validation images" and found.largest_difference < 1e-5 and found.changed == 0
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = CheckpointBackend(run.best_checkpoint, "cpu")(pixels)
    np.testing.assert_allclose(open_litert((exported.path / "model.tflite").read_bytes())(pixels), expected, atol=1e-5)
    assert exported.latency.threads == 1


def test_the_file_takes_one_image_of_bytes_and_says_what_it_is(exported):
    from ai_edge_litert.interpreter import Interpreter

    file = exported.path / "model.tflite"
    interpreter = Interpreter(str(file))
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["shape"].tolist(), given["dtype"]) == ([1, 32, 32, 3], np.uint8)
    assert (taken["shape"].tolist(), taken["dtype"]) == ([1, 2], np.float32)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode() == "ants\nbees\n" == (exported.path / "labels.txt").read_text()
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["classes"] == ["ants", "bees"] and metadata["image_size"] == 32 and metadata["fit"] == "crop"
    assert metadata["mean"] == [0.5, 0.1, 0.9] and metadata["decision"]["threshold"] == DECISION.threshold


def test_the_file_has_tensorflow_lite_s_metadata(exported):
    from ai_edge_litert.tools import flatbuffer_utils

    content = (exported.path / "model.tflite").read_bytes()
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (entry,) = [each for each in model.metadata if each.name == b"TFLITE_METADATA"]
    found = bytes(model.buffers[entry.buffer].data)
    assert found[4:8] == b"M001" and found.count(b"labels.txt\0") == 1
    (again,) = [each for each in with_metadata_twice(content).metadata if each.name == b"TFLITE_METADATA"]
    assert again.buffer == len(model.buffers)


def with_metadata_twice(content: bytes):
    from ai_edge_litert.tools import flatbuffer_utils

    changed = with_metadata(content, "again", "labels.txt")
    return flatbuffer_utils.read_model_from_bytearray(bytearray(changed))


@pytest.mark.parametrize("name", ["exported", "int8"])
def test_mediapipe_takes_the_file_with_the_names_of_its_classes(name, request):
    mediapipe = pytest.importorskip("mediapipe", reason="needs mediapipe")
    from mediapipe.tasks.python import BaseOptions, vision

    folder = request.getfixturevalue(name).path
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(folder / "model.tflite")), max_results=-1)
    pixels, expected, _ = read_golden(folder / "golden")
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image, probabilities in zip(pixels, expected, strict=True):
            given = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
            found = {
                each.category_name: each.score for each in classifier.classify(given).classifications[0].categories
            }
            assert found == pytest.approx(dict(zip(["ants", "bees"], probabilities, strict=True)), abs=1e-5)


@pytest.fixture(scope="module")
def int8(run, tmp_path_factory) -> Exported:
    """The run's checkpoint as a folder of LiteRT in 8 bits."""
    return export(str(run.best_checkpoint), format=LitertInt8(), out=str(tmp_path_factory.mktemp("int8") / "out"))


@pytest.fixture(scope="module")
def int8_folder(int8):
    """The folder of `int8`."""
    return int8.path


def test_int8_takes_the_same_bytes_and_its_cost_has_a_verdict(run, int8):
    from ai_edge_litert.interpreter import Interpreter

    found = int8
    assert (
        found.verification.agreement > 0.95
        and found.calibrated_on == 36
        and 1e-5 < found.verification.largest_difference < 0.2
    )
    assert found.verification.describe_cost("int8").startswith("int8 costs ")
    file = found.path / "model.tflite"
    interpreter = Interpreter(str(file))
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["shape"].tolist(), given["dtype"], given["quantization"]) == ([1, 32, 32, 3], np.uint8, (1.0, 0))
    assert taken["dtype"] == np.float32
    names = [each["op_name"] for each in interpreter._get_ops_details()]
    assert names[0] == "QUANTIZE" and names.count("DEQUANTIZE") == 1 and "CAST" not in names
    assert zipfile.ZipFile(file).namelist() == ["labels.txt", "metadata.json"]
    assert file.stat().st_size < 0.4 * run.best_checkpoint.stat().st_size


def run_example(folder, *arguments) -> tuple[int, str]:
    """Run examples/classify.py in a process that knows the folder only; return its status and what it printed."""
    command = [sys.executable, "-I", "examples/classify.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + (done.stderr if done.returncode > 1 or not done.stdout else "")


@pytest.mark.parametrize("name", ["exported", "int8"])
def test_golden_images_check_another_machine_with_the_folder_only(name, request, run, tmp_path):
    found = request.getfixturevalue(name)
    folder = shutil.copytree(found.path, tmp_path / "folder")
    golden = json.loads((folder / "golden" / "expected.json").read_text())
    assert golden["images"] == "20 of 24 validation images" and golden["image_size"] == 32
    pixels = np.fromfile(folder / "golden" / "images.bin", np.uint8).reshape(20, 32, 32, 3)
    checkpoint = CheckpointBackend(run.best_checkpoint, "cpu")(pixels)
    np.testing.assert_allclose(golden["checkpoint"], checkpoint, atol=1e-5)
    assert np.abs(np.array(golden["probabilities"]) - checkpoint).max() <= found.verification.largest_difference + 1e-5
    assert (golden["tolerance"], golden["needed"]) == ((1e-4, 20) if name == "exported" else (0.05, 18))
    listed = json.loads((folder / "export.json").read_text())["files"]
    assert {"golden/images.bin", "golden/expected.json", "examples/classify.py", "examples/Classifier.kt"} < set(listed)
    assert run_example(folder) == (
        0,
        f"20 of 20 golden images agree within {golden['tolerance']:g}; {golden['needed']} have to\n",
    )
    content = (folder / "model.tflite").read_bytes()
    damaged = int8_damages(content)["channels"] if name == "int8" else with_other_floats(content)
    (folder / "model.tflite").write_bytes(damaged)
    status, out = run_example(folder)
    assert status == 1 and 0 <= int(out.split()[0]) < golden["needed"], out


def with_other_floats(content: bytes) -> bytes:
    """Return a file in floats with its largest weights a tenth larger."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    largest = max(model.buffers, key=lambda each: 0 if each.data is None else len(each.data))
    largest.data = (np.asarray(largest.data, np.uint8).view(np.float32) * np.float32(1.1)).view(np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_example_resizes_as_training_does(exported, tmp_path, fit, interpolation):
    folder = shutil.copytree(exported.path, tmp_path / "folder")
    golden = json.loads((folder / "golden" / "expected.json").read_text()) | {
        "fit": fit,
        "interpolation": interpolation,
    }
    (folder / "golden" / "expected.json").write_text(json.dumps(golden))
    script = (folder / "examples" / "classify.py").read_text().split("\nif len(sys.argv)")[0]
    example = {"__file__": str(folder / "examples" / "classify.py")}
    exec(script, example)
    for file in make_odd_images(tmp_path / "images", 7):
        if file.name.startswith("005"):  # 16 bits, which Pillow turns white by itself
            with pytest.raises(SystemExit, match="has more than 8 bits per channel"):
                example["read"](file)
            continue
        expected = np.asarray(resize(open_image(file), 32, fit, interpolation)).astype(int)
        assert np.abs(example["read"](file) - expected).max() <= 1, file


def test_golden_images_may_be_made_up(run, exported, tmp_path, monkeypatch):
    content = (exported.path / "model.tflite").read_bytes()
    monkeypatch.setattr(LitertFile, "convert", lambda self, model: content)
    format = LitertFile(golden_images="synthetic")
    folder = export(str(run.best_checkpoint), format=format, out=str(tmp_path / "out")).path
    assert json.loads((folder / "golden" / "expected.json").read_text())["images"] == "16 synthetic images"
    assert format.describe(True).endswith("golden/ holds 16 synthetic images")
    with pytest.raises(UserError, match=r"format\.golden_images=none: use run or synthetic"):
        LitertFile(golden_images="none")


def int8_damages(content: bytes) -> dict[str, bytes]:
    """Return an int8 file with other damages: channels turned, another normalization, the largest weights turned around."""
    from ai_edge_litert.tools import flatbuffer_utils

    def changed(change):
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        (graph,) = model.subgraphs
        constants = {index: model.buffers[each.buffer] for index, each in enumerate(graph.tensors)}
        change(graph, constants)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def normalization(graph, constants):
        operator = next(each for each in graph.operators if len(each.inputs) == 3)  # the first convolution
        weight = constants[operator.inputs[1]]
        weight.data = (-np.asarray(weight.data, np.uint8).view(np.int8)).view(np.uint8)

    def channels(graph, constants):
        for operator in [each for each in graph.operators if len(each.inputs) == 3][1:2]:  # the network's first one
            weight = constants[operator.inputs[1]]
            shape = graph.tensors[operator.inputs[1]].shape
            weight.data = np.asarray(weight.data, np.uint8).reshape(shape)[..., ::-1].flatten()

    def one_weight(graph, constants):
        largest = max(constants.values(), key=lambda each: 0 if each.data is None else len(each.data))
        largest.data = np.asarray(largest.data, np.uint8)[::-1].copy()

    return {"normalization": changed(normalization), "channels": changed(channels), "weight": changed(one_weight)}


def test_an_int8_file_that_is_broken_is_refused_and_nothing_is_written(run, int8_folder, tmp_path, monkeypatch):
    honest = (int8_folder / "model.tflite").read_bytes()
    for name, content in int8_damages(honest).items():
        monkeypatch.setattr(LitertInt8, "convert", lambda self, model, content=content: content)
        with pytest.raises(UserError, match=r"below least_agreement=0\.9: .*nothing was written.*use format=litert,"):
            export(str(run.best_checkpoint), format=LitertInt8(), out=str(tmp_path / "out"))
        assert not list(tmp_path.iterdir()), name


@pytest.mark.parametrize("format", [LitertFile, LitertInt8])
def test_what_is_converted_is_bound_by_largest_difference_also_before_rounding(run, int8_folder, tmp_path, format):
    content = (int8_folder / "model.tflite").read_bytes()

    class Other(format):
        """Convert to a file that is rounded."""

        def convert(self, model):
            return content

        def open_unrounded(self, model):
            return None if self.exact else open_litert(content)

    before = "before rounding to 8 bits, on " if format is LitertInt8 else r"\): "
    with pytest.raises(UserError, match=before + r"24 val.*above largest_difference=0\.0001; nothing was written"):
        export(str(run.best_checkpoint), format=Other(), out=str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def other_mean(network, monkeypatch):
    network.normalize.bias += 0.02


def channels_turned(network, monkeypatch):
    network.register_forward_pre_hook(lambda module, images: images[0].flip(-1))


def other_weight(network, monkeypatch):
    weight = next(network.network.parameters())
    weight.data.view(-1)[0] += 0.05


def no_softmax(network, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, axis: self)


@pytest.mark.parametrize(("format", "damage"), [
    *((LitertFile, damage) for damage in (other_mean, channels_turned, other_weight, no_softmax)),
    *((LitertInt8, damage) for damage in (other_mean, channels_turned)),
])  # fmt: skip
def test_a_file_that_differs_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch, format, damage):
    class Damaged(preprocessing.FixedSizeNetwork):
        def __init__(self, *given):
            super().__init__(*given)
            with torch.no_grad():
                damage(self, patch)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "FixedSizeNetwork", Damaged)
        convert = format.convert

        def undone_after(self, model):  # so that the checkpoint is computed as ever
            try:
                return convert(self, model)
            finally:
                patch.undo()

        patch.setattr(format, "convert", undone_after)
        bounds = r"(above largest_difference=0\.0001; |below least_agreement=0\.9: .*)nothing was written"
        with pytest.raises(UserError, match=bounds):
            export(str(run.best_checkpoint), format=format(), out=str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


class Unconvertible(torch.nn.Module):
    """Compute eigenvalues, for which there is no operator."""

    def forward(self, x):
        return torch.linalg.eigvals(x[:, 0, :2, :2]).real


def test_what_cannot_be_converted_has_a_reason_and_a_way_out(run, tmp_path, monkeypatch, in_process):
    class Other(preprocessing.FixedSizeNetwork):
        def __init__(self, network, description):
            super().__init__(Unconvertible(), description)

    monkeypatch.setattr(preprocessing, "FixedSizeNetwork", Other)
    # absl's handler, which comes with jax, closes pytest's capture when Hydra configures logging
    monkeypatch.setattr("absl.logging.PythonHandler.close", logging.Handler.close)
    monkeypatch.setattr(
        "common.progress.SILENCE_S", 600.0
    )  # how far it is, which a slow machine shows, is not looked at
    ckpt = f"ckpt={run.best_checkpoint}"
    status, out, err = in_process(script, ckpt, "format=litert", f"out={tmp_path}/out")
    assert status == 1 and len(err.splitlines()) == 1, err
    assert (
        "cannot be converted to LiteRT (RuntimeError: Lowering not found: aten.linalg_eig.default)" in err
        and "format=onnx" in err
    )
    assert not out and not list(tmp_path.iterdir())
    status, _, err = in_process(script, ckpt, "format=litert", "preprocessing=false", f"out={tmp_path}/out")
    assert status == 1 and "preprocessing=false: format=litert has normalization and softmax in the file" in err


def with_operator(content: bytes, name: str) -> bytes:
    """Return a file whose softmax is another operator."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.builtinCode, code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name), 127
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class TestMicrocontroller:
    """tflite-micro runs the int8 file."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tflite_micro", reason="needs tflite-micro")

    def test_it_gives_the_same_answers_and_takes_so_much_ram(self, int8):
        found = run_as_microcontroller(int8.path / "model.tflite", *read_golden(int8.path / "golden"), 1)
        assert found.images == 20 and found.largest_difference < 0.005
        assert found.largest_difference_fast < 0.02 and found.changed == 0
        assert found.arena_bytes == found.activation_bytes + found.own_bytes and found.own_bytes > 0
        content = (int8.path / "model.tflite").read_bytes()
        from tflite_micro import runtime

        runtime.Interpreter.from_bytes(content, arena_size=found.arena_bytes)
        with pytest.raises(RuntimeError):
            runtime.Interpreter.from_bytes(content, arena_size=found.arena_bytes - 1024)
        assert json.loads((int8.path / "microcontroller.json").read_text())["arena_bytes"] == found.arena_bytes
        kib = found.arena_bytes / 1024
        assert "; fits in " in found.describe(kib) and "; does not fit in " in found.describe(kib - 1)

    def test_an_operator_that_it_does_not_know_is_named(self, int8, tmp_path):
        file = tmp_path / "model.tflite"
        file.write_bytes(with_operator((int8.path / "model.tflite").read_bytes(), "GELU"))
        with pytest.raises(UserError, match=r"^it has no operator GELU$"):
            run_as_microcontroller(file, *read_golden(int8.path / "golden"), 1)

    def test_a_file_that_does_not_run_there_is_written_with_the_reason(self, run, int8, tmp_path, monkeypatch):
        content = (int8.path / "model.tflite").read_bytes()
        monkeypatch.setattr(LitertInt8, "convert", lambda self, model: content)
        format = LitertInt8(ram_kib=64)
        monkeypatch.setattr(microcontroller, "PROCESS", tmp_path / "missing.py")
        folder = export(str(run.best_checkpoint), format=format, out=str(tmp_path / "out")).path
        assert "\ndoes not run in tflite-micro: status 2: " in format.describe(True)
        assert (folder / "model.tflite").is_file() and not (folder / "microcontroller.json").exists()


def test_without_tflite_micro_a_line_names_it_and_ram_kib_is_refused(run, int8, tmp_path, monkeypatch):
    content = (int8.path / "model.tflite").read_bytes()
    monkeypatch.setattr(LitertInt8, "convert", lambda self, model: content)
    monkeypatch.setattr(microcontroller, "PACKAGE", "no_such_package")
    format = LitertInt8()
    export(str(run.best_checkpoint), format=format, out=str(tmp_path / "out"))
    assert '\nnot run as on a microcontroller: pip install -e ".[litert]" installs tflite-micro' in format.describe(
        True
    )
    with pytest.raises(UserError, match=r"format\.ram_kib=64: no_such_package is not installed.*\[litert\]"):
        LitertInt8(ram_kib=64)
    with pytest.raises(UserError, match=r"format\.ram_kib=0: use a number of KiB above 0"):
        LitertInt8(ram_kib=0)
