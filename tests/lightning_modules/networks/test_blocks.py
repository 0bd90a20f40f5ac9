"""Cuts of any network, compared with what a forward hook sees in the whole network."""

import copy
import math

import pytest
import torch
from torch import nn

from lightning_modules.checkpoint import load_classifier, load_network
from lightning_modules.networks.blocks import Blocks, as_map
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.heads import OWN
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.surgery import batch_norms
from lightning_modules.networks.truncated import BACKBONES, build_backbone, own_image_size
from lightning_modules.pretrained_weights import load_initial_weights
from lightning_modules.profiling import count_macs, count_macs_thop, count_parameters, summary
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import SHARED

HEAD = {"hidden_dims": [], "dropout": [0.2]}
FEW = ["squeezenet1_1", "lcnet_050"]
MORE = ["mnasnet0_5", "regnet_y_400mf", "tf_efficientnet_lite0", "edgenext_xx_small", "vit_tiny_patch16_224"]
MANY = [
    "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0", "mobilenet_v2", "resnet18",
    "lcnet_075", "tinynet_e", "mobilenetv4_conv_small_050", "repghostnet_050", "mobilenetv3_small_100", "resnet10t",
    "convnext_atto", "efficientvit_b0", "mobilevit_xxs", "levit_128s", "ghostnet_100", "regnety_002", "hardcorenas_a",
    "fbnetc_100", "mobileone_s0", "fastvit_t8", "repvgg_a0", "semnasnet_075", "dla46_c", "swin_tiny_patch4_window7_224",
    "mixer_s16_224", "poolformer_s12", "xcit_nano_12_p16_224", "resnet18.a1_in1k", "convnext_tiny", "cait_xxs24_224",
]  # fmt: skip


def cut(backbone: str, keep: int | str):
    return build_network(network="truncated", backbone=backbone, keep=keep, head=HEAD, num_classes=3)


def side_of(whole: nn.Module) -> int:
    """Return 64 where the network takes such images, else the size that it was made for."""
    try:
        with torch.no_grad():
            copy.deepcopy(whole).to("meta")(torch.empty(2, 3, 64, 64, device="meta"))
    except (RuntimeError, AssertionError):
        return own_image_size(whole)
    return 64


def pooled(output: torch.Tensor, whole: nn.Module) -> torch.Tensor:
    """Average a map or tokens over their positions, as the kind of network wants it, to (B, C)."""
    if output.dim() == 3:
        has_class = math.isqrt(output.shape[1]) ** 2 != output.shape[1]
        return output[:, int(has_class) :].mean(1)
    return output.mean((1, 2) if getattr(whole, "output_fmt", "NCHW") == "NHWC" else (2, 3))


@pytest.mark.parametrize(
    "backbone",
    [
        *FEW,
        *(pytest.param(name, marks=pytest.mark.thorough) for name in MORE),
        *(pytest.param(name, marks=pytest.mark.slow) for name in MANY),
    ],
)
def test_a_cut_gives_what_the_whole_network_has_there(backbone):
    if backbone not in BACKBONES:
        pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    whole = build_backbone(backbone).eval()
    for norm in batch_norms(whole).values():
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    blocks = Blocks(whole).cuts
    keep = blocks[len(blocks) // 2]
    if any(isinstance(m, nn.Sequential) and keep.startswith(f"{n}.conv.") for n, m in whole.named_modules()):
        keep = keep.split(".conv.")[0]
    network, side = cut(backbone, keep).eval(), side_of(whole)
    names, state = network.weight_names(), whole.state_dict()
    own = {name for name in network.state_dict() if not name.startswith("head.")}
    assert set(names) <= set(state) and set(names.values()) == own
    network.load_state_dict({own: state[name] for name, own in names.items()}, strict=False)
    seen = []
    whole.get_submodule(keep).register_forward_hook(lambda _, _inputs, output: seen.append(output.clone()))
    x = torch.randn(2, 3, side, side)
    for mode in (False, True):
        with torch.no_grad():
            torch.manual_seed(1)  # of stochastic depth
            whole.train(mode)(x)
            torch.manual_seed(1)
            given = network.train(mode).backbone(x)
        assert given.dim() == 4 and given.shape[2] == given.shape[3] > 1
        expected = pooled(seen[-1], whole)
        assert torch.allclose(given.mean((2, 3)), expected, atol=1e-5 * float(expected.abs().max()))
    del whole
    assert network.head.linear0.in_features == given.shape[1]
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())  # nothing in it is unused
    network.zero_grad()
    with torch.no_grad():
        logits = network.eval()(x)
        last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert torch.allclose(last, logits, atol=1e-4 * float(logits.abs().max()))
        exported = torch.export.export(network, (x,)).module()
        assert torch.allclose(exported(x), logits, atol=1e-4 * float(logits.abs().max()))
    assert count_macs(network, side) > 0 and count_macs_thop(network, side) > 0
    assert f"{count_parameters(network):,}" in summary(network, side).splitlines()[-1]


@pytest.mark.parametrize(
    ("same", "keeps"),
    [
        ("tf_efficientnet_lite0", ["blocks.3", "blocks.3.2", 9]),
        ("tf_efficientnet_lite0", ["bn1", 1]),
        ("edgenext_xx_small", ["stages.1", "stages.1.blocks", "stages.1.blocks.1"]),
        ("vit_tiny_patch16_224", ["blocks", "blocks.11"]),
        ("mnasnet0_5", ["layers.8", "layers.8.2", 4]),
    ],
)
def test_a_block_can_be_asked_for_by_its_name_its_number_or_its_container(same, keeps):
    pytest.importorskip("timm", reason="needs the extra timm")
    with torch.device("meta"):
        names = [list(cut(same, keep).state_dict()) for keep in keeps]
    assert all(each == names[0] for each in names)


@pytest.mark.parametrize(
    ("backbone", "keep", "message"),
    [
        ("tf_efficientnet_lite0", 0, "model.keep=0: tf_efficientnet_lite0 has 18 blocks .bn1, blocks.0.0, .*use 1 to 18"),
        ("tf_efficientnet_lite0", -1, "use 1 to 18"),
        ("tf_efficientnet_lite0", 19, "use 1 to 18"),
        ("tf_efficientnet_lite0", "blocks.3.9", "no such block in tf_efficientnet_lite0; allowed: .*blocks.3.2"),
        ("tf_efficientnet_lite0", "blocks.3.0.conv_dw", "blocks.3.0 of .* is a InvertedResidual, which cannot be cut inside"),
        ("tf_efficientnet_lite0", "classifier", "cannot cut .* after classifier, which gives no feature map"),
        ("lcnet_050", "conv_head", "cannot cut lcnet_050 after conv_head, which gives no feature map"),
        ("regnet_y_400mf", "trunk_output.block1.block1-0.f", "is a ResBottleneckBlock, which cannot be cut inside"),
        ("crossvit_15_240", 3, "cannot be cut, because its blocks were not found"),
        ("lcnet_050.nothing", 3, "timm has no weights of lcnet_050 with the tag 'nothing'; its tags are ra2_in1k"),
        ("lcnet_55", 3, "model.backbone=lcnet_55: unknown; allowed: .*lcnet_050"),
        ("hf-hub:somebody/something", 3, "model.backbone=hf-hub:somebody/something: unknown"),
        ("lcnet_55.in1k", 3, r"unknown to timm.*own: package.*; if it is yours: register=\[lcnet_55.in1k\]; allowed: .*lcnet"),
        ("nets.Mine", 3, r"^the backbone 'nets.Mine' is not one of .*; if it is yours: register=\[nets.Mine\]$"),
        ("", 3, "model.backbone=: has no value"),
        ("lcnet_050", "", "model.keep has no value"),
    ],
)  # fmt: skip
def test_cuts_that_do_not_exist_are_refused(backbone, keep, message):
    pytest.importorskip("timm", reason="needs the extra timm")
    with torch.device("meta"), pytest.raises(NetworkError, match=message):
        cut(backbone, keep)


@pytest.mark.parametrize(("backbone", "keep", "size"), [
    ("lcnet_050.ra2_in1k", "blocks.2.1", 48), pytest.param("vit_tiny_patch16_224", 2, 224, marks=pytest.mark.thorough),
])  # fmt: skip
def test_a_checkpoint_gives_the_cut_back(backbone, keep, size, tmp_path):
    pytest.importorskip("timm", reason="needs the extra timm")
    network = {"network": "truncated", "backbone": backbone, "keep": keep, "head": HEAD}
    path = make_checkpoint(tmp_path / "best.ckpt", network=network, image_size=size)
    trained, classifier = load_network(path), load_classifier(path)
    assert classifier.hparams["network"] == network
    images = torch.randn(3, 3, size, size)
    assert torch.equal(trained.network(images), classifier(images))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real weights beside the project")
def test_real_weights_of_the_whole_network_fit_a_cut(tmp_path):
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    from safetensors.torch import load_file

    state = load_file(SHARED / "weights" / "tf_efficientnet_lite0.safetensors")
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    whole.load_state_dict(state, strict=False)  # it has no num_batches_tracked
    torch.save(state, tmp_path / "lite0.pth")
    network = cut("tf_efficientnet_lite0", "blocks.3.0").eval()
    load_initial_weights(network, str(tmp_path / "lite0.pth"), arguments={"network": "timm"}, download_to=tmp_path)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        _, maps = whole.eval().forward_intermediates(x, indices=[2])  # timm's own way: after blocks.2
        assert torch.equal(network.backbone[:2](x), whole.bn1(whole.conv_stem(x)))
        assert torch.allclose(network.backbone(x), whole.blocks[3][0](maps[0]), atol=1e-6)


def test_a_row_of_layers_can_be_cut_after_each_pooling():
    pytest.importorskip("timm", reason="needs the extra timm")
    with torch.device("meta"):
        assert Blocks(build_backbone("vgg11")).cuts == [f"features.{index}" for index in (2, 5, 10, 15, 20)]


@pytest.mark.parametrize("keep", [3, "blocks.3"])
def test_blocks_that_are_not_found_are_refused_with_the_reason(keep):
    pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(NetworkError, match=f"model.keep={keep}: .*; no further blocks were found .symbolically traced"):
        cut("test_vit", keep)


class Noisy(torch.nn.Module):
    """A network whose own forward does something else in training."""

    def __init__(self, *, num_classes: int, kind: str):
        super().__init__()
        self.a, self.b, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3), torch.nn.Linear(5, num_classes)
        self.kind = kind

    def forward(self, x):
        x = self.a(x)
        if self.kind == "dropout":
            x = torch.nn.functional.dropout(x, 0.5, self.training)
        elif self.training:
            x = x + torch.rand_like(x)
        return self.fc(self.b(x).mean((2, 3)))


@pytest.mark.parametrize("kind", ["dropout", "if"])
def test_a_cut_does_in_training_and_in_evaluation_what_the_whole_network_does(monkeypatch, kind):
    monkeypatch.setitem(OWN, f"noisy.{kind}.Net", lambda *, num_classes: Noisy(num_classes=num_classes, kind=kind))
    network = cut(f"noisy.{kind}.Net", "b")
    whole, x, found = Noisy(num_classes=2, kind=kind), torch.randn(2, 3, 16, 16), []
    missing, unexpected = whole.load_state_dict(network.backbone.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("fc.") for name in missing)
    whole.b.register_forward_hook(lambda _, _inputs, output: found.append(output))
    for mode in (True, False):
        torch.manual_seed(1)
        whole.train(mode)(x)
        torch.manual_seed(1)
        assert torch.equal(network.train(mode).backbone(x), found[-1])
    assert not torch.equal(*found)


def test_a_token_of_the_class_before_those_of_the_patches_is_found_by_their_number():
    tokens = torch.randn(2, 1 + 3 * 3, 5)
    features, to_map = as_map(tokens[:1].shape, torch.nn.Identity())  # which says nothing about tokens
    assert features == 5 and torch.equal(to_map(tokens).flatten(2), tokens[:, 1:].transpose(1, 2))
