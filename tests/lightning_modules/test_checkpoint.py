import contextlib
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, load_file

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import Decision
from engine.run import checkpoint_io
from engine.run.checkpoint_io import AtomicCheckpointIO, write_checkpoint
from lightning_modules.checkpoint import (
    as_safetensors,
    check_readable,
    epochs_done,
    load_classifier,
    load_network,
    read_checkpoint,
)
from lightning_modules.network_errors import register_by_name
from lightning_modules.networks.registry import build_network
from lightning_modules.pretrained_weights import load_initial_weights
from tests.support.fake_checkpoints import DECISION, make_checkpoint
from tests.support.helpers import PROJECT


def test_the_plain_network_predicts_what_the_classifier_predicts(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt")
    trained, classifier = load_network(path), load_classifier(path)
    images = torch.randn(3, 3, 48, 48)
    assert torch.equal(trained.network(images), classifier(images))
    assert trained.decision == classifier.decision == DECISION
    assert not trained.network.training and trained.description["classes"] == ["ants", "bees"]


@pytest.mark.parametrize("name", [
    "mnasnet0_5", "shufflenet_v2_x1_0",
    *(pytest.param(each, marks=pytest.mark.thorough) for each in ("mobilenet_v3_small", "efficientnet_b0", "resnet18")),
])  # fmt: skip
def test_a_whole_network_of_torchvision_comes_back_from_its_files(tmp_path, name):
    network = {"network": "torchvision", "name": name}
    path = make_checkpoint(tmp_path / "best.ckpt", network=network, image_size=64)
    classifier, trained = load_classifier(path), load_network(path).network
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(trained(images), classifier(images))
    started = build_network(num_classes=2, **network).eval()
    load_initial_weights(started, str(path), arguments=network, classes=["ants", "bees"], download_to=tmp_path)
    torch.testing.assert_close(started(images), trained(images))


def test_a_checkpoint_from_before_there_was_a_fit_squashes(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt", fit="pad")
    assert load_network(path).description["fit"] == load_classifier(path).hparams["fit"] == "pad"
    state = torch.load(path, weights_only=True)
    del state["hyper_parameters"]["fit"]
    torch.save(state, path)
    assert load_network(path).description["fit"] == load_classifier(path).hparams["fit"] == "squash"
    state["hyper_parameters"]["fit"] = "stretch"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"best\.ckpt: its fit is 'stretch' \(one of squash, crop, pad\)"):
        load_network(path)


def test_the_safetensors_file_beside_best_ckpt_is_the_same_network(tmp_path):
    folder = RunFolder(tmp_path)
    classes = ["ants", os.fsdecode(b"b\xffes"), "犬"]  # a name that is not UTF-8 as well
    decision = Decision(temperature=2.0, target_accuracy=0.9)
    make_checkpoint(folder.best_checkpoint, classes=classes, fit="pad", decision=decision)
    write_checkpoint(folder.best_checkpoint, torch.load(folder.best_checkpoint, weights_only=True))
    trained, same = load_network(folder.best_checkpoint), load_network(folder.best_weights)
    assert (same.description, same.decision) == (trained.description, decision)
    images = torch.randn(3, 3, 48, 48)
    assert torch.equal(same.network(images), trained.network(images))
    assert torch.equal(load_classifier(folder.best_weights)(images), trained.network(images))
    # and whoever has only the library and the network's code
    plain = build_network(network="simple_cnn", image_size=48, num_classes=3)
    plain.load_state_dict(load_file(folder.best_weights), strict=True)
    assert torch.equal(plain.to(memory_format=torch.channels_last).eval()(images), trained.network(images))


def test_the_safetensors_file_is_of_the_same_epoch_or_absent(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    make_checkpoint(folder.best_checkpoint)
    checkpoint = torch.load(folder.best_checkpoint, weights_only=True)
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder.last_checkpoint)
    assert not folder.best_weights.exists()
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder.best_checkpoint)
    assert folder.best_weights.is_file()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_io, "as_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(checkpoint | {"epoch": 5}, folder.best_checkpoint)
    assert epochs_done(folder.best_checkpoint) == 6 and not folder.best_weights.exists()


def test_the_same_weights_are_the_same_bytes(tmp_path):
    checkpoint = torch.load(make_checkpoint(tmp_path / "best.ckpt"), weights_only=True)
    assert len({as_safetensors(checkpoint) for _ in range(10)}) == 1


def test_a_safetensors_file_with_a_damaged_weight_is_refused(tmp_path):
    """Its header is sound, so that the library reads it."""
    content = as_safetensors(torch.load(make_checkpoint(tmp_path / "best.ckpt"), weights_only=True))
    path = tmp_path / "best.safetensors"
    path.write_bytes(content)
    load_network(path)
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 0x40]) + content[-1:])
    load(path.read_bytes())
    with pytest.raises(UserError, match=r"best\.safetensors: not a checkpoint, or a damaged one .*data_sha256"):
        load_network(path)


def test_weights_that_two_layers_share_are_written_twice():
    weight = torch.randn(4, 4)
    described = {
        "hyper_parameters": {"classes": ["a", "b"]},
        "state_dict": {"network.a": weight, "network.b": weight.T},
    }
    written = load(as_safetensors(described))
    assert torch.equal(written["a"], weight) and torch.equal(written["b"], weight.T)


class Tied(torch.nn.Module):
    """Three convolutions of the same weights, which torch writes once."""

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3)
        self.steps = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)))
        for step in self.steps:
            step.weight = self.steps[0].weight
        self.head = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        return self.head(self.steps(self.stem(images)).mean((2, 3)))


def test_a_network_whose_layers_share_weights_comes_back(tmp_path):
    name = f"{Tied.__module__}.{Tied.__qualname__}"
    register_by_name([name], "register")
    path = make_checkpoint(tmp_path / "best.ckpt", network={"network": name})
    state = torch.load(path, weights_only=True)["state_dict"]
    assert sum(tensor.nbytes for tensor in state.values()) > path.stat().st_size
    images = torch.randn(2, 3, 48, 48)
    plain = Tied(num_classes=2)
    plain.load_state_dict({key.removeprefix("network."): tensor for key, tensor in state.items()})
    for load_it in (lambda: load_network(path).network, lambda: load_classifier(path)):
        torch.testing.assert_close(load_it()(images), plain(images))


@pytest.mark.thorough
def test_networks_need_only_torchvision_and_checkpoints_no_lightning(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt")
    code = (
        "import importlib, pkgutil, sys; from pathlib import Path; import lightning_modules.networks as package\n"
        "for each in pkgutil.iter_modules(package.__path__): importlib.import_module(f'{package.__name__}.{each.name}')\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
        "from lightning_modules.checkpoint import load_network; load_network(Path(sys.argv[1]))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    of_networks, of_checkpoint = map(set, map(str.split, done.stdout.splitlines()))
    rooms = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert of_networks & rooms == {"lightning_modules"}
    assert "torchvision" in of_networks and not of_networks & {"lightning", "torchmetrics", "timm"}
    assert of_checkpoint & rooms == {"lightning_modules", "common"} and "lightning" not in of_checkpoint


@pytest.mark.parametrize(("change", "words"), [
    ({"network": "os.system"}, "its network cannot be built here: the network 'os.system' is not one of this project"),
    ({"network": "torchvision", "name": "res\nnet\u202e"}, "model.name=res net *: unknown"),
    ({"network": "torchvision", "name": "resnet19"}, "model.name=resnet19: unknown; did you mean resnet18"),
    ({"network": "simple_cnn"}, "its network cannot be built here"),
    ({"network": "simple_cnn", "image_size": 32}, "the weights do not fit the network named in it .simple_cnn"),
    ({"network": "simple_cnn", "image_size": 48, "depth": 3}, "cannot be built here"),
    ("simple_cnn", "its network is 'simple_cnn' .a network of this project and its settings"),
])  # fmt: skip
def test_a_network_that_is_unknown_or_does_not_fit(tmp_path, change, words):
    path = make_checkpoint(tmp_path / "best.ckpt")
    state = torch.load(path, weights_only=True)
    state["hyper_parameters"]["network"] = change
    torch.save(state, path)
    with pytest.raises(UserError, match=rf"best\.ckpt: .*{words}"):
        load_network(path)


@pytest.mark.parametrize(("change", "words"), [
    ({}, None),
    ({"range": (-3.4e38, 200.0, False)}, r"its range is .* which a checkpoint cannot have; .*datamodule\.range=LOW,HIGH"),
    ({"network": {"network": "my.Own", "width": 70_000}}, "this run: its network.width is 70000 .*; change it$"),
    ({"classes": ["a", "b" * 1001]}, "this run: its classes is .*; change it$"),
])  # fmt: skip
def test_what_no_checkpoint_can_have_is_refused_before_training(tmp_path, change, words):
    path = make_checkpoint(tmp_path / "best.ckpt")
    described = torch.load(path, weights_only=True)["hyper_parameters"] | change
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
        check_readable(described)


@pytest.mark.parametrize(("schema", "words"), [
    (None, "written by version 0.1.0 and readable only there"),
    (1, "has schema 1; this version reads schema 2"), ([2], "has schema"),
])  # fmt: skip
def test_a_checkpoint_of_another_version_gets_one_line(tmp_path, schema, words):
    path = make_checkpoint(tmp_path / "best.ckpt")
    state = torch.load(path, weights_only=True)
    del state["hyper_parameters"]["schema"]
    if schema is not None:
        state["hyper_parameters"]["schema"] = schema
    torch.save(state, path)
    network = build_network(**state["hyper_parameters"]["network"], num_classes=2)
    for read in (
        load_network, load_classifier,
        lambda path: load_initial_weights(network, str(path), arguments={"network": "timm"}, download_to=tmp_path),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"best\.ckpt: {words}") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["best.onnx", "best.PT2", "model.tflite"])
def test_an_exported_file_is_not_called_damaged(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"anything")
    for read in (read_checkpoint, epochs_done):
        with pytest.raises(UserError, match="is an exported file; give the checkpoint it was made from"):
            read(path)
