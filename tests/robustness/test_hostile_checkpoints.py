"""Untrusted checkpoints: nothing in them runs, fills the memory or names a file elsewhere; each is named."""

import json
import os
import pickle
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from common.untrusted.tensors import read_safetensors
from engine.run.resume import network_of_checkpoint
from inference.predictor import Predictor
from lightning_modules.checkpoint import (
    as_safetensors,
    check_same_network,
    epochs_done,
    load_classifier,
    load_network,
    read_checkpoint,
)
from lightning_modules.pretrained_weights import load_initial_weights
from tests.support.fake_checkpoints import Payload, make_checkpoint

ANY = {"network": "timm"}  # of which no name is known


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "best.ckpt", image_size=16)


def changed(base: Path, path: Path, place: str, value) -> Path:
    """Save the checkpoint with another value at a dotted place; `state_dict.NAME` keeps the dots of its names."""
    state = torch.load(base, weights_only=True)
    node = state
    *above, last = place.split(".", 1) if place.startswith("state_dict.") else place.split(".")
    for key in above:
        node = node[key]
    node[last] = value
    torch.save(state, path)
    return path


def refused(path: Path, *words: str) -> None:
    """Check that everything that opens a checkpoint names it with these words."""
    for load in (load_network, load_classifier, Predictor.from_checkpoint):
        with pytest.raises(UserError, match="evil") as caught:
            load(path)
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "place", ["state_dict", "hyper_parameters", "hyper_parameters.classes", "decision", "callbacks"]
)
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "system"), (eval, "eval"), (exec, "exec"), (Path, "pathlib")]
)
def test_what_would_run_when_it_is_unpickled_is_named_and_does_not(base, tmp_path, canary, place, function, named):
    code = f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    refused(changed(base, tmp_path / "evil.ckpt", place, Payload(function, code)), named, "refers to code")
    with pytest.raises(UserError, match=f"evil.*{named}"):
        epochs_done(tmp_path / "evil.ckpt")


def test_files_that_are_no_archives(tmp_path, canary):
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Payload(os.system, f"touch {canary}")))
    refused(tmp_path / "evil.ckpt", "not a torch archive")
    torch.save(Payload(os.system, f"touch {canary}"), tmp_path / "evil.ckpt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "evil.ckpt", "not a torch archive")

    with pytest.raises(UserError, match=r"evil\.ckpt: not a weights file .*system"):
        load_initial_weights(torch.nn.Linear(2, 2), str(tmp_path / "evil.ckpt"), arguments=ANY, download_to=tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload(os.system, f"touch {canary}"), protocol=4))
    with warnings.catch_warnings(record=True) as shown, pytest.raises(UserError, match="neither a torch archive"):
        warnings.simplefilter("always")  # torch's advice to file an issue would be one
        load_initial_weights(torch.nn.Linear(2, 2), str(tmp_path / "evil.pth"), arguments=ANY, download_to=tmp_path)
    assert not shown


@pytest.mark.parametrize(("place", "value", "words"), [
    ("hyper_parameters.classes", [f"c{index}" for index in range(100_001)], ["100,001 classes"]),
    ("hyper_parameters.classes", ["a", "\ud800"], ["its classes", "names"]),
    ("hyper_parameters.image_size", 2**40, ["its image_size is 1099511627776", "1 to 4096"]),
    ("hyper_parameters.network.image_size", 4096, ["fit the network"]),
    ("hyper_parameters.network", {"network": "os.system"}, ["network"]),
    ("hyper_parameters.network", {"network": "torchvision", "name": "../../evil"}, ["network", "resnet18"]),
    ("hyper_parameters.network", {"network": "timm", "name": "hf-hub:evil/model"}, ["network", "hf-hub:evil/model"]),
    ("hyper_parameters.network", {"network": "timm", "name": "local-dir:/tmp"}, ["network", "local-dir"]),
    ("hyper_parameters.network", {"network": "truncated", "backbone": "vgg16", "keep": 3,
     "head": {"hidden_dims": [10**12], "dropout": [0.1, 0.1]}}, ["network.head", "65,536"]),
    ("hyper_parameters.network", {"network": "simple_cnn", "image_size": 16, "dropout": [[[[1]]]]}, ["network.dropout"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(1).expand(32, 3, 3, 3), ["from fewer numbers"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 5, 5), ["fit the network", "(32, 3, 5, 5)"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 3, 3).to_sparse(), ["not a checkpoint"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 3, 3, dtype=torch.complex64), ["fit the network"]),
    ("decision", {"temperature": 1.0, "target_accuracy": 0.9, "fitted_on": [[]]}, ["its decision", "fitted_on"]),
    ("decision", {"temperature": 1.0, "target_accuracy": 0.9, "positive_class": "fox"}, ["decision.positive_class", "'fox'"]),
    ("callbacks", Payload(bytearray, 2**60), ["evil"]),
])  # fmt: skip
def test_absurd_sizes_are_named_before_memory_is_taken(base, tmp_path, place, value, words):
    refused(changed(base, tmp_path / "evil.ckpt", place, value), *words)


@pytest.mark.parametrize(("place", "value"), [
    ("network.network", "evil.Network"), ("network.head", {"name": "evil.Head"}), ("network.backbone", "evil.Backbone"),
    ("network.head", {"_target_": "os.system"}), ("network.dropout", "${oc.env:HOME}"), ("network.weights", "evil/hub"),
    ("network.network", "../datamodule/elpv"), ("network.keep=1 seed", 1),
])  # fmt: skip
def test_a_command_takes_only_plain_settings_of_a_network(base, tmp_path, place, value):
    assert network_of_checkpoint(base, ())
    assert network_of_checkpoint(changed(base, tmp_path / "evil.ckpt", f"hyper_parameters.{place}", value), ()) == []


def test_layers_that_are_the_same_numbers_only_in_the_file(tmp_path):
    head = {"hidden_dims": [512] * 8, "dropout": [0.1] * 9}
    network = {"network": "truncated", "backbone": "shufflenet_v2_x0_5", "keep": 1, "head": head}
    path = make_checkpoint(tmp_path / "evil.ckpt", network=network)
    load_network(path)
    state = torch.load(path, weights_only=True)
    weights = state["state_dict"]
    one = next(tensor for tensor in weights.values() if tensor.shape == (512, 512))
    weights.update({name: one for name, tensor in weights.items() if tensor.shape == one.shape})
    torch.save(state, path)
    refused(path, "MiB in a smaller file")


def rewritten(base: Path, path: Path, change, method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(base) as old, zipfile.ZipFile(path, "w", method) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    return path


def test_archives_that_unfold_in_memory(base, tmp_path):
    big = rewritten(
        base,
        tmp_path / "evil.ckpt",
        lambda name, data: b"\0" * 2**26 if "data/0" in name else data,
        zipfile.ZIP_DEFLATED,
    )
    assert big.stat().st_size < 2**20
    refused(big, "is compressed")
    refused(
        rewritten(base, tmp_path / "evil.ckpt", lambda name, data: data[:16] if "data/0" in name else data),
        "record size",
    )
    same = rewritten(base, tmp_path / "evil.ckpt", lambda _, data: data)
    read_checkpoint(same)


def test_a_billion_references_to_one_list(base, tmp_path):
    value = [1]
    for _ in range(60):
        value = [value, value]
    for place in (
        "hyper_parameters.classes",
        "hyper_parameters.mean",
        "hyper_parameters.network.x",
        "decision",
        "epoch",
    ):
        path = changed(base, tmp_path / "evil.ckpt", place, value)
        with pytest.raises(UserError, match="evil") as caught:
            epochs_done(path) if place == "epoch" else read_checkpoint(path)
        assert len(str(caught.value)) < 1000


@pytest.fixture(scope="module")
def tensors(base):
    """Return the weights and the texts of a safetensors file as a run writes it."""
    path = base.with_name("base.safetensors")
    path.write_bytes(as_safetensors(torch.load(base, weights_only=True)))
    return read_safetensors(path)


def as_file(header: dict, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.mark.parametrize(("content", "words"), [
    (b"", ["not a safetensors file, or cut off"]),
    (b"not weights", ["not a safetensors file, or cut off"]),
    ((2**40).to_bytes(8, "little") + b"{", ["not a safetensors file, or cut off"]),
    ((2**24).to_bytes(8, "little") + b"{", ["not a safetensors file, or cut off"]),
    (as_file({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, bytes(4)), ["not a safetensors file"]),
    (as_file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}}, bytes(4)), ["not a safetensors file"]),
    (as_file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
              "v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), ["not a safetensors file"]),
    (as_file({"w": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), ["not a safetensors file"]),
    (as_file({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)), ["'w' holds F8_E4M3"]),
    (as_file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), ["not a checkpoint of this project"]),
    (as_file({"__metadata__": {"classes": "[" * 100_000}}), ["not a checkpoint of this project"]),
])  # fmt: skip
def test_safetensors_files_that_are_none(tmp_path, content, words):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    refused(path, *words)
    if "project" not in words[0]:
        with pytest.raises(UserError, match=r"model\.weights=.*evil.*: not a weights file"):
            load_initial_weights(torch.nn.Linear(2, 2), str(path), arguments=ANY, download_to=tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"classes": "5"}, ["its classes is 5"]), ({"classes": '["a", "a"]'}, ["no name twice"]),
    ({"mean": "[NaN, 0, 0]"}, ["its mean", "three numbers"]), ({"std": "[1e999, 1, 1]"}, ["its std"]),
    ({"image_size": "9" * 5000}, ["without image_size"]), ({"image_size": "1e3"}, ["its image_size is 1000.0"]),
    ({"network": '{"network": "os.system"}'}, ["cannot be built here"]), ({"schema": "99"}, ["has schema 99"]),
    ({"network": "{" * 50_000}, ["without network"]), ({"decision": "[]"}, ["its decision"]),
    ({"fit": '"stretch"'}, ["its fit"]), ({"range": "[1]"}, ["its range"]),
    ({"w": torch.zeros(2)}, ["the network has no w"]), ({"features.block1.0.weight": None}, ["is missing"]),
    ({"features.block1.0.weight": torch.zeros(32, 3, 5, 5)}, ["(32, 3, 5, 5)"]),
    ({"features.block1.0.weight": torch.zeros(32, 3, 3, 3, dtype=torch.int64)}, ["torch.int64"]),
])  # fmt: skip
def test_the_description_and_the_weights_in_a_safetensors_file_are_checked_alike(tensors, tmp_path, change, words):
    weights, texts = tensors
    load_all = {**weights, **texts} | change
    save_file(
        {name: value for name, value in load_all.items() if isinstance(value, torch.Tensor)},
        tmp_path / "evil.safetensors",
        {name: value for name, value in load_all.items() if isinstance(value, str)},
    )
    refused(tmp_path / "evil.safetensors", *words)


@pytest.mark.parametrize(("key", "value"), [
    ("classes", 5), ("classes", ["a", "a", "b"]),
    ("image_size", 10**9), ("mean", [1]), ("std", [0, 1, 1]), ("decision", {"x": []}),
])  # fmt: skip
def test_the_description_in_an_onnx_file_is_checked_alike(tmp_path, key, value):
    onnx = pytest.importorskip("onnx", reason='onnx is not installed: pip install -e ".[onnx]"')
    shapes = {"x": ["N", 3, 8, 8], "y": ["N", 3]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [onnx.helper.make_node(*each) for each in (("GlobalAveragePool", "x", "m"), ("Flatten", "m", "y"))]
    opset = onnx.helper.make_opsetid("", 18)  # the newest one may be unknown to onnxruntime
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[opset])
    model.ir_version = 8
    good = {"classes": ["a", "b", "c"], "image_size": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "decision": None}
    for described, wrong in ((good, False), (good | {key: value}, True)):
        onnx.helper.set_model_props(model, {name: json.dumps(each) for name, each in described.items()})
        onnx.save(model, tmp_path / "evil.onnx")
        if not wrong:
            assert Predictor.from_checkpoint(tmp_path / "evil.onnx", "cpu").classes == good["classes"]
            continue
        with pytest.raises(UserError, match=rf"evil\.onnx.*its {key}"):
            Predictor.from_checkpoint(tmp_path / "evil.onnx", "cpu")


def test_the_state_of_an_optimizer_has_the_shapes_of_the_weights(base, tmp_path):
    state = torch.load(base, weights_only=True)
    for moment, wrong in ((torch.zeros(32, 3, 3, 3), False), (torch.zeros(7), True), ([[1]], True)):
        torch.save(
            state | {"optimizer_states": [{"state": {0: {"exp_avg": moment, "step": torch.tensor(1.0)}}}]},
            tmp_path / "x.ckpt",
        )
        context = pytest.raises(UserError, match=r"x\.ckpt: exp_avg of its optimizer") if wrong else nullcontext()
        with context:
            check_same_network(
                tmp_path / "x.ckpt", state["hyper_parameters"]["network"], state["hyper_parameters"]["classes"]
            )
