import subprocess
import sys

import pytest
import torch

from lightning_modules.checkpoint import load_classifier, load_network
from tests.support.fake_checkpoints import DECISION, make_checkpoint
from tests.support.helpers import PROJECT


def test_the_network_alone_says_what_the_classifier_says(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt")
    trained, classifier = load_network(path), load_classifier(path)
    images = torch.randn(3, 3, 48, 48)
    assert torch.equal(trained.network(images), classifier(images))
    assert trained.decision == classifier.decision == DECISION
    assert not trained.network.training and trained.description["classes"] == ["ants", "bees"]


def test_the_network_alone_needs_no_lightning(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt")
    code = (
        "import sys; from pathlib import Path; from lightning_modules.checkpoint import load_network;"
        "load_network(Path(sys.argv[1])); print('lightning' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("change", "words"), [
    ({"network": "os.system"}, "names a network that cannot be built here: .*'os.system' is not one of"),
    ({"network": "torchvision", "name": "resnet19"}, "names a network that cannot be built here: .*resnet18"),
    ({"network": "simple_cnn"}, "names a network that cannot be built here"),
    ({"network": "simple_cnn", "image_size": 32}, "the weights do not fit the network that it names .simple_cnn"),
    ({"network": "simple_cnn", "image_size": 48, "depth": 3}, "cannot be built here"),
    ("simple_cnn", "its network is 'simple_cnn' .a network of this project and its settings"),
])  # fmt: skip
def test_a_network_that_is_not_ours_or_does_not_fit(tmp_path, change, words):
    path = make_checkpoint(tmp_path / "best.ckpt")
    state = torch.load(path, weights_only=True)
    state["hyper_parameters"]["network"] = change
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"best\.ckpt: .*{words}"):
        load_network(path)
