"""What a command takes from a checkpoint that is away from its run."""

import pytest
from omegaconf import OmegaConf

from common.text import quote_override
from engine.run.resume import network_of_checkpoint, settings_of_network
from inference.predictor import Predictor
from lightning_modules.networks.registry import network_arguments
from tests.support.configs import composed
from tests.support.fake_checkpoints import make_checkpoint

CUT = {
    "network": "truncated",
    "backbone": "shufflenet_v2_x0_5",
    "keep": 2,
    "head": {"hidden_dims": [4], "dropout": [0.1, 0.2]},
}


@pytest.mark.parametrize("typed", [
    ["model=shufflenet_mod", "model.keep=stage2.0"],
    ["model=truncated", "model.backbone=mobilenet_v2", "model.keep=4", "model.head={hidden_dims:[8],dropout:[0.0,0.1]}"],
    ["model=shufflenet_v1", "model.groups=2"],
    ["model=shufflenet_v2", "model.width=1.5"],
    ["model=shufflenet_v2_x0_5"],
    ["model=simple_cnn", "model.image_size=16"],
    ["model=timm", "model.name=mobilenetv3_small_100.lamb_in1k"],
])  # fmt: skip
def test_the_settings_of_a_network_give_this_network(typed):
    network = network_arguments(OmegaConf.to_container(composed(*typed).model, resolve=True))
    again = composed(*(quote_override(key, value) for key, value in settings_of_network(network).items()))
    assert network_arguments(OmegaConf.to_container(again.model, resolve=True)) == network


def test_a_checkpoint_by_itself_is_evaluated_with_its_own_network_and_size(train, two_colors, tmp_path):
    described = {"classes": ("blue", "red"), "image_size": 32, "network": CUT, "fit": "pad"}
    best = make_checkpoint(tmp_path / "away" / "best.ckpt", **described, decision=None)
    command = ("stages=[test]", f"ckpt_path={best}", f"datamodule.root={two_colors}", "trainer=cpu")
    ran = train(*command, small=False, to=tmp_path / "run0")
    assert ran.status == 0, ran.err
    files = sorted((two_colors / "test").glob("*/*"))
    predicted = [each.predicted for each in Predictor.from_checkpoint(best).predict(files)]
    right = sum(file.parent.name == name for file, name in zip(files, predicted, strict=True))
    assert (ran.record.test.accuracy.correct, ran.record.test.accuracy.n) == (right, len(files))
    assert ran.record.model.name == "shufflenet_v2_x0_5_keep_2"
    other = train(*command, "model.keep=3", small=False, to=tmp_path / "other")
    head = "'model.head.hidden_dims=[4]' 'model.head.dropout=[0.1,0.2]'"
    its, here = (f"model=truncated model.backbone=shufflenet_v2_x0_5 model.keep={keep} {head}" for keep in (2, 3))
    assert other.status == 1 and f"its network: {its}; this command: {here}. Leave " in other.err, other.err
    assert not other.folder.exists()


def test_what_the_command_line_chooses_is_not_taken_from_a_checkpoint(tmp_path):
    path = make_checkpoint(tmp_path / "best.ckpt", image_size=16)
    assert network_of_checkpoint(path, ()) == ["model=simple_cnn", "model.image_size=16"]
    assert network_of_checkpoint(path, ["model.image_size"]) == ["model=simple_cnn"]
    assert network_of_checkpoint(path, ["model"]) == network_of_checkpoint(path, ["experiment"]) == []
