import subprocess
import sys

import pytest
import torch

from common.errors import UserError
from lightning_modules.checkpoint import load_classifier, load_network
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
    ({"network": "torchvision", "name": "resnet19"}, "model.name=resnet19: unknown; did you mean resnet18"),
    ({"network": "simple_cnn"}, "its network cannot be built here"),
    ({"network": "simple_cnn", "image_size": 32}, "the weights do not fit the network that it names .simple_cnn"),
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


@pytest.mark.parametrize(("schema", "words"), [
    (None, "written by version 0.1.0, which reads it"), (1, "of schema 1; this version reads schema 2"), ([2], "of schema"),
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
        lambda path: load_initial_weights(network, str(path), backbone=None, download_to=tmp_path),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"best\.ckpt: {words}") as error:
            read(path)
        assert "\n" not in str(error.value)
