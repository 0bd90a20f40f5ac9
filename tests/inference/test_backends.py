"""Checkpoints as backends; ONNX files, which take time to make, are in tests/integration/test_export.py."""

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from inference.backends import ModelDescription, open_backend, softmax
from inference.predictor import Predictor
from tests.support.fake_checkpoints import DECISION, MEAN, STD, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt")


def test_a_checkpoint_computes_what_its_network_does(checkpoint):
    backend = open_backend(checkpoint, "cpu")
    assert backend.description == ModelDescription(["ants", "bees"], 48, MEAN, STD, DECISION)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    normalized = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = backend.network(torch.tensor(normalized, dtype=torch.float32).permute(0, 3, 1, 2))
    np.testing.assert_allclose(backend(pixels), softmax(logits.numpy()), atol=1e-6)
    assert backend(pixels).std(axis=0).max() > 0.01  # the predictions do differ


def test_a_description_survives_as_metadata():
    description = ModelDescription(["ä", 'b"'], 32, MEAN, STD, replace(DECISION, positive_class="ä"))
    assert ModelDescription.from_metadata(description.as_metadata()) == description
    without = replace(description, decision=None)
    assert ModelDescription.from_metadata(without.as_metadata()) == without
    padded = replace(description, fit="pad")
    texts = padded.as_metadata()
    assert ModelDescription.from_metadata(texts) == padded
    del texts["fit"]  # as in a file that was made before there was a choice
    assert ModelDescription.from_metadata(texts) == description


@pytest.mark.parametrize(("changes", "words"), [
    ({"classes": None}, "its classes is missing"),
    ({"mean": "[1, 2"}, "not JSON"),
    ({"classes": '["ants"]'}, "its classes is"),
    ({"image_size": "1000000"}, "its image_size is 1000000"),
    ({"decision": '{"temperature": 0, "target_accuracy": 1, "positive_class": "ants"}'}, r"its decision\.temperature is 0"),
    ({"decision": '{"temperature": "1", "target_accuracy": 1}'}, "its decision is .*Expected `float`"),
    ({"decision": "[" * 2000}, "not JSON"),
    ({"fit": '"stretch"'}, "its fit is 'stretch' .one of squash, crop, pad."),
    ({"fit": '["pad"]'}, "its fit is"),
])  # fmt: skip
def test_a_description_is_not_trusted(changes, words):
    texts = ModelDescription(["ants", "bees"], 32, MEAN, STD, DECISION).as_metadata() | changes
    with pytest.raises(UserError, match=words):
        ModelDescription.from_metadata({name: text for name, text in texts.items() if text is not None})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "xla", "meta"])
def test_a_device_that_is_not_here(checkpoint, device):
    with pytest.raises(UserError, match=f"device={device}: not available .*use auto, cpu"):
        open_backend(checkpoint, device)


def test_onnxruntime_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "best.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r'onnxruntime is not installed; install it with pip install -e "\.\[onnx\]"'):
        open_backend(tmp_path / "best.onnx")


@pytest.mark.parametrize("register", [None, 1, "own.Network"])
def test_a_register_that_is_no_list(checkpoint, register):
    with pytest.raises(UserError, match=rf"register={register}: use a list of full names"):
        Predictor.from_checkpoint(checkpoint, "cpu", register)


def make_onnx(path, size):
    """Make an ONNX file of a network of 8 x 8 pixels whose description names this size; return its path."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["normalized"], ["mean"], axes=[1, 3], keepdims=0),
        helper.make_node("Slice", ["mean", "start", "end", "axis"], ["logits"]),
    ]
    constants = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 2), ("axis", 1))
    ]
    ends = [
        [helper.make_tensor_value_info(name, kind, shape)]
        for name, shape in (("normalized", ["n", 3, 8, 8]), ("logits", ["n", 2]))
    ]
    graph = helper.make_graph(nodes, "network", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, ModelDescription(["ants", "bees"], size, MEAN, STD, None).as_metadata())
    onnx.save(model, path)
    return path


def test_an_onnx_file_whose_description_names_another_size(tmp_path):
    backend = open_backend(make_onnx(tmp_path / "8.onnx", 8), "cpu")
    assert backend(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 2)
    for device in ("gpu", "cuda:", "cuda:-1", "CUDA"):
        with pytest.raises(UserError, match=f"^device={device}: "):
            open_backend(tmp_path / "8.onnx", device)
    with pytest.raises(
        UserError, match=r"9\.onnx: not an .* input has the shape \['n', 3, 8, 8\], for an image_size of 9"
    ):
        open_backend(make_onnx(tmp_path / "9.onnx", 9), "cpu")


@pytest.mark.parametrize("kind", ["onnx", "ckpt"])
def test_a_predictor_can_be_sent_to_another_process(checkpoint, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_onnx(tmp_path / "8.onnx", 8)
    model = Predictor.from_checkpoint("8.onnx" if kind == "onnx" else checkpoint, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    sent = pickle.dumps(model)
    monkeypatch.chdir("/")  # the other process may have another folder
    assert pickle.loads(sent).predict(image) == model.predict(image)


def test_files_of_another_kind(tmp_path):
    """Those of checkpoints are in tests/robustness/test_hostile_checkpoints.py."""
    with pytest.raises(UserError, match=r"gone\.ckpt: no such checkpoint"):
        open_backend(tmp_path / "gone.ckpt")
    pytest.importorskip("onnxruntime")
    (tmp_path / "b.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"b\.onnx: not an ONNX file of export\.py"):
        open_backend(tmp_path / "b.onnx")
