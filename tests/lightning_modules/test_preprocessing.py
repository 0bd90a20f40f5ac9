"""What the weights were trained with, decided from the settings of a model."""

import importlib.util

import pytest
import torch

from common.errors import UserError
from lightning_modules import pretrained_weights
from lightning_modules.preprocessing import decide_preprocessing
from tests.support.fake_checkpoints import MEAN, STD, make_checkpoint

HALF = [0.5, 0.5, 0.5]
OF_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason='needs timm: pip install -e ".[timm]"')
LITE0 = {"network": "timm", "name": "tf_efficientnet_lite0"}
CUT = {"network": "truncated", "keep": 5, "head": {}}


def decide(ckpt_path=None, **settings):
    usual = {"network": "torchvision", "name": "resnet18", "weights": "auto", "image_size": 256}
    return decide_preprocessing({**usual, **settings}, ckpt_path)


@pytest.mark.parametrize(("settings", "interpolation", "mean", "size"), [
    ({}, "bilinear", MEAN, 224),
    ({"name": "efficientnet_b0", "weights": "imagenet"}, "bicubic", MEAN, 224),
    ({"network": "shufflenet_v2", "width": 0.5, "name": "any"}, "bilinear", MEAN, 224),
    ({**CUT, "backbone": "efficientnet_b0"}, "bicubic", MEAN, 224),
    pytest.param(LITE0, "bicubic", HALF, 224, marks=OF_TIMM),
    pytest.param({**LITE0, "name": "tf_efficientnet_lite0.in1k"}, "bicubic", HALF, 224, marks=OF_TIMM),
    pytest.param({**LITE0, "name": "tf_efficientnet_lite4"}, "bilinear", HALF, 380, marks=OF_TIMM),
    pytest.param({**CUT, "backbone": "tf_efficientnet_lite0"}, "bicubic", HALF, 224, marks=OF_TIMM),
    # of a name that torchvision has, too: timm's weights and not torchvision's, or the other way around
    pytest.param({"network": "timm", "name": "resnet18"}, "bicubic", MEAN, 224, marks=OF_TIMM),
    ({**CUT, "backbone": "resnet18"}, "bilinear", MEAN, 224),
])  # fmt: skip
def test_auto_is_what_the_weights_were_trained_with(settings, interpolation, mean, size):
    found = decide(**settings)
    assert (found.interpolation, found.mean, found.image_size) == (interpolation, mean, 256)
    assert found.std == (STD if mean is MEAN else HALF) and "was trained" in found.source
    assert decide(**settings, image_size="auto").image_size == size


@pytest.mark.parametrize("settings", [
    {"weights": None}, {"network": "simple_cnn"}, {"network": "shufflenet_v1", "groups": 3},
    {"name": "efficientnet_b0", "weights": None},
    {"network": "timm", "name": "no_such_network"}, {"network": "timm", "name": "tf_efficientnet_lite0.no_such_tag"},
])  # fmt: skip
def test_where_nothing_is_known_it_is_imagenets_and_the_size_has_to_be_given(settings):
    found = decide(**settings)
    assert (found.interpolation, found.mean, found.std) == ("bilinear", MEAN, STD) and "ImageNet's" in found.source
    with pytest.raises(UserError, match=r"^model\.image_size=auto: .*give a number of pixels"):
        decide(**settings, image_size="auto")


def test_given_values_win():
    assert decide(normalization=[0.5, 0.25]).mean == HALF and decide(normalization=[0.5, 0.25]).std == [0.25] * 3
    found = decide(normalization=[[0.1, 0.2, 0.3], 1], interpolation="bicubic")
    assert (found.mean, found.std, found.interpolation) == ([0.1, 0.2, 0.3], [1.0] * 3, "bicubic")
    assert found.source == "model.normalization=[[0.1,0.2,0.3],1]; model.interpolation=bicubic"
    assert decide(normalization=[0, 1]).mean == [0.0] * 3  # as networks that take pixels from 0 to 1
    assert decide(normalization="dataset").mean is None
    assert decide(normalization="imagenet", name="efficientnet_b0").interpolation == "bicubic"


def test_a_file_says_it_itself_or_its_network_is_assumed(tmp_path):
    described = make_checkpoint(tmp_path / "best.ckpt", mean=[0.1, 0.2, 0.3], interpolation="bicubic", image_size=48)
    found = decide(weights=str(described), image_size="auto")
    assert (found.mean, found.std, found.interpolation, found.image_size) == ([0.1, 0.2, 0.3], STD, "bicubic", 48)
    assert found.source == f"as model.weights={described} was trained"
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "plain.pth")
    found = decide(weights=str(tmp_path / "plain.pth"), name="efficientnet_b0")
    assert found.interpolation == "bicubic" and found.source.startswith(
        "assumed: as EfficientNet_B0_Weights.IMAGENET1K_V1, "
    )
    assert decide(weights=str(tmp_path / "plain.pth"), network="simple_cnn").mean == MEAN


def test_a_checkpoint_keeps_its_own(tmp_path):
    path = str(make_checkpoint(tmp_path / "a.ckpt", mean=[0.1, 0.2, 0.3], interpolation="bicubic"))
    for given in (
        {},
        {"normalization": [[0.1, 0.2, 0.3], STD]},
        {"normalization": "dataset", "interpolation": "bicubic"},
    ):
        found = decide(path, **given, image_size="auto")
        assert (found.mean, found.std, found.interpolation, found.image_size) == ([0.1, 0.2, 0.3], STD, "bicubic", 48)
    for given in ({"normalization": "imagenet"}, {"normalization": [0.1, 0.2]}, {"interpolation": "bilinear"}):
        with pytest.raises(
            UserError, match=rf"^ckpt_path={path}: was trained with .*remove model\.{next(iter(given))}$"
        ):
            decide(path, **given)
    usual = str(make_checkpoint(tmp_path / "b.ckpt"))
    with pytest.raises(UserError, match=r"which is not model\.normalization=dataset"):
        decide(usual, normalization="dataset")
    weights = str(make_checkpoint(tmp_path / "weights.ckpt", mean=[0.1, 0.2, 0.3]))
    with pytest.raises(UserError, match=r"which is not model\.normalization=dataset"):  # but those of its weights
        decide(path, normalization="dataset", weights=weights)


@pytest.mark.parametrize(("settings", "reason"), [
    ({"normalization": [[0.5, 0.5], [0.5, 0.5]]}, r"model.normalization=\[\[0.5,0.5\],\[0.5,0.5\]\]: its mean has 2 numbers"),
    ({"normalization": [0.5, 0]}, "its std has 0; use numbers above 0"),
    ({"normalization": [0.5, [0.5, 0.5, 0]]}, "its std has 0; use numbers above 0"),
    ({"normalization": [1.01, 0.5]}, "its mean has 1.01, as if for pixels from 0 to 255"),
    ({"normalization": [0.5, [0.5, 0.5, -1]]}, "its std has -1; use numbers above 0"),
    ({"normalization": [-0.5, 0.5]}, "its mean has -0.5; use numbers from 0 to 1"),
    ({"normalization": [0.5, float("nan")]}, "its std has nan, which is not a finite number"),
    ({"normalization": [float("inf"), 1]}, "its mean has inf"),
    ({"normalization": ["a", 0.5]}, "its mean has 'a'"),
    ({"normalization": [None, 0.5]}, "its mean has None"),
    ({"normalization": [True, 0.5]}, "its mean has True"),
    ({"normalization": [[], 0.5]}, "its mean has 0 numbers"),
    ({"normalization": [[0.5, [0.5], 0.5], 0.5]}, "which is not a finite number"),
    ({"normalization": [[123.7, 116.3, 103.5], [58.4, 57.1, 57.4]]}, "its mean has 123.7, as if for pixels from 0 to 255"),
    ({"normalization": [0.5, 58]}, "its std has 58, as if for pixels from 0 to 255"),
    ({"normalization": "imagnet"}, "did you mean imagenet?"),
    ({"normalization": None}, "use one of auto, imagenet, dataset, or mean and std"),
    ({"normalization": 0.5}, "use one of auto"),
    ({"normalization": [0.5, 0.5, 0.5]}, "use one of auto"),
    ({"interpolation": "cubic"}, "model.interpolation=cubic: did you mean bicubic?"),
    ({"interpolation": None}, "model.interpolation=null: "),
    ({"image_size": "large"}, "model.image_size=large: use a whole number of pixels, or auto"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(settings, reason):
    with pytest.raises(UserError, match=reason) as raised:
        decide(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("described", [
    {"mean": torch.zeros(3)}, {"mean": 0.5}, {"std": [0, 1, 1]}, {"mean": [0.5]}, {"input_size": 7.5}, {"input_size": []},
    {"image_size": "large"}, {"interpolation": ["bicubic"]}, {"interpolation": "random"}, {"image_size": 10**9},
])  # fmt: skip
def test_an_odd_description_of_others_is_refused_in_one_line(monkeypatch, described):
    usual = {"mean": HALF, "std": HALF, "input_size": [3, 64, 64], "interpolation": "lanczos"}
    monkeypatch.setattr(pretrained_weights, "describe_weights", lambda policy: usual | described)
    with pytest.raises(UserError, match=r"^model\.weights=a/b: its \w+ is ") as raised:
        decide(weights="a/b")
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(pretrained_weights, "describe_weights", lambda policy: usual)
    found = decide(weights="a/b", image_size="auto")
    assert (found.image_size, found.interpolation) == (64, "bicubic") and found.source.endswith("(with lanczos)")
