"""python export.py, and its files in python predict.py; with that the formats in inference/export.

Each file is exported once: torch's exporter takes seconds.
"""

import copy
import functools
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import export as script
import predict as predict_script
from common.errors import UserError
from common.run_folder import RunFolder
from datamodules.decode import open_image, resize
from inference.backends import CheckpointBackend, open_backend
from inference.export import export as module
from inference.export import onnx_file
from inference.export.int8 import Int8
from inference.export.onnx_file import OnnxFile
from inference.export.torch_export import TorchExport
from inference.predictor import Predictor
from tests.support.fake_checkpoints import DECISION, MEAN, STD, make_checkpoint, make_odd_images, odd_copies
from tests.support.fake_explained import make_labeled_run
from tests.support.helpers import PROJECT, SHARED, read_csv

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CLI = "import predict; predict.cli.run_cli(predict.main)"


@pytest.fixture
def export(in_process):
    """Run `python export.py ...` in this process; return status, output, errors."""
    return lambda *arguments: in_process(script, *arguments)


@pytest.fixture
def predict(in_process):
    """Run `python predict.py ...` in this process; return status, output, errors."""
    return lambda *arguments: in_process(predict_script, *arguments, "device=cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run with a checkpoint, 18 training and 10 validation images."""
    root = tmp_path_factory.mktemp("images")
    files = make_odd_images(root / "images", 28)
    labels = ["ants" if n % 2 else "bees" for n in range(28)]
    splits = ["train" if n % 3 else "val" for n in range(28)]
    run = make_labeled_run(tmp_path_factory.mktemp("run"), root / "images", files, labels, splits)
    make_checkpoint(run.best_checkpoint)
    return run


@pytest.fixture(scope="module")
def images(run) -> Path:
    """The folder of the run's images."""
    return Path(json.loads(run.record.read_text())["data"]["root"])


@pytest.fixture(scope="module")
def exported(run):
    """Export the run's checkpoint when first asked for; all files are made of one graph of the network."""

    @functools.cache
    def of_format(kind: type = OnnxFile, preprocessing: bool = True) -> module.Exported:
        return module.export(str(run.best_checkpoint), format=kind(), preprocessing=preprocessing)

    network_graph, made = onnx_file.network_graph, {}

    def same_graph(network, image_size):
        key = type(network).__name__, image_size  # of the checkpoint of `run`, or of another test's own
        if key not in made:
            made[key] = network_graph(network, image_size)
        return copy.deepcopy(made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "network_graph", same_graph)
        yield of_format


def table(path) -> tuple[list[dict], np.ndarray]:
    rows = read_csv(path)
    return rows, np.array([[float(row["p_ants"]), float(row["p_bees"])] for row in rows])


@pytest.mark.slow
def test_predict_gives_the_same_table_from_an_onnx_file(exported, run, images, predict, tmp_path):
    for name, ckpt in (("ckpt", run.best_checkpoint), ("onnx", exported().path)):
        status, _, err = predict(f"ckpt={ckpt}", f"images={images}", f"out={tmp_path}/{name}.csv")
        assert (status, err) == (0, "")
    (rows, p), (others, q) = table(tmp_path / "ckpt.csv"), table(tmp_path / "onnx.csv")
    assert np.abs(p - q).max() <= 1e-5 and p.std() > 0.05
    same = ["path", "fingerprint", "label", "predicted", "decided", "abstained", "error"]
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in others]


@pytest.mark.thorough
def test_the_file_resizes_as_pillow_does_and_takes_batches_of_any_size(exported, run, images):
    checkpoint = CheckpointBackend(run.best_checkpoint, "cpu")
    session = onnxruntime.InferenceSession(exported().path)
    assert [(i.name, i.type) for i in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [o.name for o in session.get_outputs()] == ["probabilities"]
    for file in sorted(images.iterdir()):
        image = open_image(file)
        expected = checkpoint(np.array(resize(image, 48))[None])
        actual = session.run(None, {"images": np.asarray(image)[None]})[0]
        assert np.abs(actual - expected).max() <= 1e-5, file
    for shape in ((1, 1, 1, 3), (3, 48, 48, 3), (7, 500, 20, 3)):
        batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        one_by_one = np.concatenate([session.run(None, {"images": pixels[None]})[0] for pixels in batch])
        np.testing.assert_allclose(session.run(None, {"images": batch})[0], one_by_one, atol=1e-6)


@pytest.mark.thorough
def test_without_preprocessing_it_computes_logits_of_normalized_images(exported, run, images, predict, tmp_path):
    path = exported(preprocessing=False).path
    assert path.name == "best_network.onnx"
    session = onnxruntime.InferenceSession(path)
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("normalized", [3, 48, 48])]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for name, ckpt in (("ckpt", run.best_checkpoint), ("onnx", path)):
        predict(f"ckpt={ckpt}", f"images={images}", f"out={tmp_path}/{name}.csv")
    assert np.abs(table(tmp_path / "ckpt.csv")[1] - table(tmp_path / "onnx.csv")[1]).max() <= 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize(("fit", "interpolation"), [
    pytest.param("crop", "bilinear", marks=pytest.mark.slow), ("pad", "bilinear"), ("squash", "bicubic"),
])  # fmt: skip
def test_the_file_resizes_and_normalizes_as_training_does(exported, images, tmp_path, fit, interpolation):
    best = make_checkpoint(tmp_path / "best.ckpt", fit=fit, interpolation=interpolation, mean=[0.5, 0.1, 0.9])
    made = module.export(str(best), format=OnnxFile(), images=str(images))
    assert made.verification.n == 28 and made.verification.largest_difference <= 1e-5
    described = open_backend(made.path).description
    assert (described.fit, described.interpolation, described.mean) == (fit, interpolation, [0.5, 0.1, 0.9])
    session, model = onnxruntime.InferenceSession(made.path), Predictor.from_checkpoint(best, "cpu")
    generator = np.random.default_rng(0)
    for width, height in ((1, 1), (48, 48), (3, 150), (150, 3), (97, 31), (31, 97), (2, 600), (641, 480), (480, 641)):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (predicted,) = model.predict(pixels)
        actual = session.run(None, {"images": pixels[None]})[0][0]
        np.testing.assert_allclose(
            actual, list(predicted.probabilities.values()), atol=1e-5, err_msg=f"{width} x {height}"
        )


@pytest.mark.thorough
def test_with_the_runtime_s_own_resize_the_difference_is_measured_and_binds_nothing(run, images, tmp_path):
    native, out = OnnxFile("native"), str(tmp_path / "native.onnx")
    made = module.export(str(run.best_checkpoint), format=native, images=str(images), out=out, largest_difference=1e-9)
    assert native.describe(True).endswith("; ONNX IR version 8, opset 18")
    assert made.verification.n == 28 and 1e-9 < made.verification.largest_difference < 0.05
    assert "Resize" in {node.op_type for node in onnx.load(made.path).graph.node}


def test_what_a_file_can_be_made_of_is_checked(run, tmp_path):
    for kind, given, message in (
        (OnnxFile, {"resize": "cubic"}, "format.resize=cubic: use pillow or native"),
        (Int8, {"reduce_range": 7}, "format.reduce_range=7: use true or false"),
    ):
        with pytest.raises(UserError, match=message):
            kind(**given)
    padded = make_checkpoint(tmp_path / "best.ckpt", fit="pad")
    with pytest.raises(UserError, match=r"cannot be used for a network with datamodule\.fit=pad"):
        module.export(str(padded), format=OnnxFile("native"))
    with pytest.raises(UserError, match="has no effect with preprocessing=false"):
        module.export(str(run.best_checkpoint), format=OnnxFile("native"), preprocessing=False)


@pytest.mark.thorough
def test_the_latency_of_the_file_is_measured_on_one_thread(exported, monkeypatch):
    opened = []
    usual = onnxruntime.InferenceSession

    def session(path, options=None, **more):
        opened.append(options.intra_op_num_threads)
        return usual(path, options, **more)

    assert exported().latency.threads == 1 and exported().latency.batch_size == 1
    assert 0 < exported().latency.latency_p50_ms <= exported().latency.latency_p95_ms
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert OnnxFile().open_on_one_thread(exported().path, None)(np.zeros((1, 48, 48, 3), np.uint8)).shape == (1, 2)
    assert opened == [1]


def test_the_file_describes_itself(exported):
    texts = onnxruntime.InferenceSession(exported().path).get_modelmeta().custom_metadata_map
    metadata = {name: json.loads(text) for name, text in texts.items()}
    assert metadata["classes"] == ["ants", "bees"] and metadata["image_size"] == 48
    assert metadata["decision"] == asdict(DECISION) and open_backend(exported().path).description.decision == DECISION
    assert metadata["mean"] == MEAN and metadata["std"] == STD
    assert metadata["format"] == "onnx" and metadata["version"]
    assert str(PROJECT).encode() not in exported().path.read_bytes()  # torch's exporter notes stack traces


def test_it_is_verified_on_the_run_s_validation_images(exported):
    found = exported().verification
    assert found.n == found.n_labeled == 10 and found.images == "10 validation images"
    assert 0 < found.largest_difference <= 1e-5 and found.changed == 0
    assert found.correct_checkpoint == found.correct_exported


def test_predicting_with_an_onnx_file_needs_no_torch(exported, images, tmp_path):
    code = (
        "import builtins, sys\nload = builtins.__import__\ndef without_torch(name, *rest, **named):\n"
        "    assert name.split('.')[0] != 'torch', name\n    return load(name, *rest, **named)\n"
        f"builtins.__import__ = without_torch\n{CLI}"
    )
    arguments = [f"ckpt={exported().path}", f"images={images}", f"out={tmp_path}/out.csv"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and len(read_csv(tmp_path / "out.csv")) == 28, done.stderr


@pytest.mark.slow
def test_int8_is_calibrated_on_train_and_measured_on_val(exported, images, predict, tmp_path):
    path, verification, calibrated_on, *_ = exported(Int8)
    assert path.name == "best_int8.onnx" and calibrated_on == 18
    assert [(each.domain, each.version) for each in onnx.load(path).opset_import] == [("", 18)]
    assert verification.n == 10 and 1e-5 < verification.largest_difference < 0.2
    assert "of 10, 95% interval" in verification.describe_accuracies()
    status, _, _ = predict(f"ckpt={path}", f"images={images}", f"out={tmp_path}/int8.csv")
    assert status == 0 and len(read_csv(tmp_path / "int8.csv")) == 28
    assert path.stat().st_size < 0.5 * exported().path.stat().st_size


def rename(graph, old, new):
    """Rename what operators take, also those in a branch."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for attribute in node.attribute:
            rename(attribute.g, old, new)


def insert(graph, kind, *constants, of="images", **attributes):
    """Put an operator behind a value, for all that takes it."""
    rename(graph, of, "changed")
    graph.initializer.extend(constants)
    node = onnx.helper.make_node(kind, [of, *(each.name for each in constants)], ["changed"], **attributes)
    makers = [index for index, each in enumerate(graph.node) if of in each.output]
    graph.node.insert(makers[0] + 1 if makers else 0, node)


def other_normalization(graph):
    insert(graph, "Div", onnx.helper.make_tensor("two", onnx.TensorProto.UINT8, (), [2]))


def channels_turned(graph):
    insert(graph, "Gather", onnx.helper.make_tensor("order", onnx.TensorProto.INT64, (3,), [2, 1, 0]), axis=3)


def other_resize(graph):
    """Take every fourth pixel."""
    named = {"starts": [0, 0], "ends": [9999, 9999], "axes": [1, 2], "steps": [4, 4]}
    insert(graph, "Slice", *(onnx.helper.make_tensor(n, onnx.TensorProto.INT64, (2,), v) for n, v in named.items()))


def other_weight(graph):
    """Turn around the largest tensor."""
    tensors = [each for each in graph.initializer if each.name.startswith("network/")]
    largest = max(tensors, key=lambda each: len(each.raw_data))
    array = onnx.numpy_helper.to_array(largest)
    largest.raw_data = array.flatten()[::-1].tobytes()


def not_a_number(graph):
    insert(graph, "Mul", onnx.helper.make_tensor("nan", onnx.TensorProto.FLOAT, (), [np.nan]), of="logits")


def damage_before_writing(patch, kind, path, damage):
    """Have a format write another file with a damage, and not export again."""

    def write(self, model, to):
        made = onnx.load(path)
        damage(made.graph)
        del made.metadata_props[-1]  # the checksum
        onnx.save(made, to)

    patch.setattr(kind, "write", write)


DAMAGES = [other_normalization, channels_turned, other_resize, other_weight, not_a_number]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [OnnxFile, Int8])
@pytest.mark.thorough
def test_a_file_that_is_broken_is_refused_and_nothing_is_written(exported, run, tmp_path, monkeypatch, kind, damage):
    damage_before_writing(monkeypatch, kind, exported(kind).path, damage)
    words = {
        OnnxFile: r"above largest_difference=0\.0001; nothing was written",
        Int8: r"(resizing inside the file .*above largest_difference=0\.0001; nothing was|"
        r"agreement of the probabilities \S+ .*below least_agreement=0\.9: .*nothing was written.*format=onnx)",
    }
    with pytest.raises(UserError, match=words[kind]):
        module.export(str(run.best_checkpoint), format=kind(), out=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_gray_images_do_not_hide_that_channels_are_turned(exported, run, tmp_path, monkeypatch):
    damage_before_writing(monkeypatch, OnnxFile, exported().path, channels_turned)
    Image.linear_gradient("L").save(tmp_path / "gray.png")
    with pytest.raises(UserError, match=r"16 synthetic images: .*above largest_difference"):
        module.export(str(run.best_checkpoint), format=OnnxFile(), images=str(tmp_path), out=str(tmp_path / "out.onnx"))
    assert not (tmp_path / "out.onnx").exists()


def test_what_int8_rounds_is_bound_by_largest_difference(exported, run, tmp_path, monkeypatch):
    damage_before_writing(monkeypatch, Int8, exported(Int8).path, lambda graph: None)
    monkeypatch.setattr(Int8, "open_unrounded", lambda *given: lambda pixels: np.full((len(pixels), 2), 0.5))
    with pytest.raises(
        UserError, match=r"before rounding to 8 bits, on 10 val.*above largest_difference=0\.0001; nothing"
    ):
        module.export(str(run.best_checkpoint), format=Int8(), out=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_honest_int8_file_is_written_with_its_agreement(exported, export, run, tmp_path, monkeypatch):
    damage_before_writing(monkeypatch, Int8, exported(Int8).path, lambda graph: None)
    arguments = f"ckpt={run.best_checkpoint}", "format=int8", f"out={tmp_path}/a.onnx"
    status, out, err = export(*arguments)
    assert (status, err) == (0, "") and (tmp_path / "a.onnx").is_file()
    assert "agreement of the probabilities 0.9" in out and "; 10 images prove little" in out and "int8 costs " in out
    status, _, err = export(*arguments, "least_agreement=2")
    assert status == 1 and "least_agreement=2: use a number of 1 or less, e.g. 0.9" in err


@pytest.mark.slow
def test_a_program_of_torch_export_runs_without_this_project(exported, run):
    path, verification, *_ = exported(TorchExport)
    assert path.name == "best.pt2" and verification.largest_difference <= 1e-5
    code = (
        "import json, sys, torch\nextra = {'justenough.json': ''}\n"
        "module = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "print(module(torch.zeros(2, 31, 77, 3, dtype=torch.uint8)).sum().item(), 'datamodules' in sys.modules)\n"
        "print(json.loads(json.loads(extra['justenough.json'])['classes']))"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=run.path, capture_output=True, text=True, check=True)
    total, imported = done.stdout.splitlines()[0].split()
    assert str(PROJECT).encode() not in path.read_bytes()
    assert float(total) == pytest.approx(2) and imported == "False"
    assert done.stdout.splitlines()[1] == "['ants', 'bees']"


def test_what_the_command_prints(exported, export, run, tmp_path):
    made, elsewhere = exported(preprocessing=False).path, tmp_path / "elsewhere.ckpt"
    shutil.copy(run.best_checkpoint, elsewhere)
    place = tmp_path / "new, it's [1] = é" / "net.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxFile, "write", lambda self, model, to: shutil.copy(made, to))
        patch.setattr("inference.export.verify.FLAT", 0.02)  # their variance is 0.011
        status, out, err = export(f"ckpt={elsewhere}", "preprocessing=false", f'out="{place}"')
    assert (status, err) == (0, "")
    assert "not in the folder of a run" in out and "compared with the checkpoint on 16 synthetic images: " in out
    assert (
        "0 of 16 predictions differ; the probabilities of the checkpoint hardly differ between images, so this" in out
    )
    assert f"{place}: " in out and "normalized images (N, 3, S, S) in, logits out" in out
    assert list(place.parent.iterdir()) == [place]
    *_, argument, _ = shlex.split(
        out[out.index("python predict.py ") :].splitlines()[0]
    )  # as the shell and Hydra read it
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert (override.key_or_group, override.value()) == ("ckpt", str(place))
    status, _, err = export(f"ckpt={elsewhere}", "format=int8")  # the older name
    assert status == 1 and "format=onnx_int8 needs training images" in err and "images=DIR" in err


def test_errors_are_one_line(export, run, tmp_path, monkeypatch):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    ckpt = f"ckpt={run.best_checkpoint}"
    for arguments, words in (
        ([], "ckpt is not set"),
        ([f"ckpt={tmp_path}/text.ckpt"], "text.ckpt: not a checkpoint"),
        ([ckpt, "format=onx"], "format=onx: no such choice; did you mean onnx or onnx_int8?"),
        ([ckpt, "images=/nowhere"], "images=/nowhere: no such file or folder"),
    ):
        status, _, err = export(*arguments)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = export(ckpt)
    assert status == 1 and 'onnxscript is not installed; install it with pip install -e ".[onnx]"' in err


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs ../shared: real images and weights")
def test_two_hundred_real_images_of_odd_sizes_and_modes(train, export, predict, tmp_path):
    weights = SHARED / "weights" / "shufflenet_v2_x0_5_trunk.pth"
    photos = SHARED / "data" / "ants_bees"
    ran = train(f"model.weights={weights}", "trainer.max_epochs=1", "stages=[fit]", "model.image_size=256", root=photos)
    best = RunFolder(ran.folder).best_checkpoint
    status, _, err = export(f"ckpt={best}")
    assert (ran.status, status) == (0, 0), ran.err + err
    files = odd_copies(sorted(photos.rglob("*.jpg")), tmp_path / "odd", 200)
    for name, ckpt in (("ckpt", best), ("onnx", best.with_suffix(".onnx"))):
        assert predict(f"ckpt={ckpt}", f"images={tmp_path}/odd", f"out={tmp_path}/{name}.csv")[0] == 0
    tables = [
        np.array([float(row["p_ants"]) for row in read_csv(tmp_path / f"{name}.csv")]) for name in ("ckpt", "onnx")
    ]
    assert len(tables[0]) == len(files) == 200 and tables[0].std() > 0.01
    assert np.abs(tables[0] - tables[1]).max() <= 1e-5
    session = onnxruntime.InferenceSession(best.with_suffix(".onnx"))
    outputs = [session.run(None, {"images": np.asarray(open_image(file))[None]})[0][0, 0] for file in files]
    assert np.abs(tables[0] - outputs).max() <= 1e-5  # resized in the graph


def test_a_file_with_a_damaged_weight_is_refused(exported, tmp_path):
    """Its structure is sound, so that onnxruntime computes with it."""
    content = exported().path.read_bytes()
    weights = max((each.raw_data for each in onnx.load(exported().path).graph.initializer), key=len)
    at = content.index(weights) + len(weights) // 2
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
    onnx.checker.check_model(onnx.load(path))
    with pytest.raises(
        UserError, match=r"damaged\.onnx: not an ONNX file of export\.py, or a damaged one.*do not fit sha256"
    ):
        open_backend(path)


def test_a_file_whose_outputs_do_not_fit_its_classes(exported, tmp_path):
    model = onnx.load(exported().path)
    for entry in model.metadata_props:
        entry.value = '["ants", "bees", "wasps"]' if entry.key == "classes" else entry.value
        entry.value = "null" if entry.key == "decision" else entry.value
    del model.metadata_props[-1]  # the checksum
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: not an ONNX file of export\.py.*for 3 classes.*export it again"):
        open_backend(tmp_path / "other.onnx")
