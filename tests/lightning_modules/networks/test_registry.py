import sys

import pytest
import torch
import torchvision
from torch import nn

from lightning_modules.networks import heads
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.registry import build_network, pretrained_name
from lightning_modules.networks.shufflenet_v1 import channel_shuffle
from lightning_modules.networks.surgery import batch_norms, set_frozen, shuffle_order, smallest_image_size
from lightning_modules.networks.torchvision_models import pool_by_products
from lightning_modules.networks.truncated import BACKBONES
from tests.support.helpers import FINAL

HEAD = {"hidden_dims": [], "dropout": [0.2]}


class StudyNetwork(nn.Module):
    """The study's own way of building its final network."""

    def __init__(self, num_classes):
        super().__init__()
        children = list(torchvision.models.shufflenet_v2_x0_5(weights=None).children())
        self.model = nn.Sequential(
            *children[:-2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, 2)
        )
        self.dropout = nn.Dropout(0.02)
        self.fc = nn.Linear(2, num_classes)

    def forward(self, x):
        return self.fc(self.dropout(self.model(x)))


def test_shufflenet_mod_is_the_study_s_network():
    torch.manual_seed(0)
    study, ours = StudyNetwork(2), build_network(num_classes=2, **FINAL)
    theirs = study.state_dict()
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in theirs.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(ours.eval()(x), study.eval()(x))
    dropouts = [m.p for m in ours.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [m.p for m in study.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.02]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet_of_mine"}, "no such network; name your own as .*; allowed: .*truncated"),
        ({"keep": 0}, "model.keep=0.*use 1 to 7"),
        ({"keep": 8}, "model.keep=8.*use 1 to 7"),
        ({"keep": 7}, "cannot cut shufflenet_v2_x0_5 after fc"),
        ({"backbone": "shufflenet_v3"}, "model.backbone=shufflenet_v3: unknown; allowed: resnet18"),
        ({"keep": "stage9"}, "model.keep=stage9: no such layer in shufflenet_v2_x0_5; allowed: conv1"),
        (
            {"keep": "stage2.9"},
            "model.keep=stage2.9: no such layer in shufflenet_v2_x0_5's stage2; allowed: stage2.0, stage2.1,",
        ),
        ({"keep": "stage2.0.branch1"}, "is a InvertedResidual, which cannot be cut inside; use model.keep=stage2.0 or"),
        (
            {"backbone": "efficientnet_b0", "keep": "features.5.0.block.0"},
            "model.keep=features.5.0.block.0: features.5.0 of efficientnet_b0 is a MBConv, .*use model.keep=features.5.0",
        ),
        (
            {"backbone": "mobilenet_v2", "keep": "feature.3"},
            "model.keep=feature.3: no such layer in mobilenet_v2's features; allowed: features.0, features.1,",
        ),
        (
            {"backbone": "squeezenet1_1", "keep": "classifier"},
            "model.keep=classifier: no such layer in squeezenet1_1's feat",
        ),
        (
            {"backbone": "squeezenet1_1", "keep": "3.squeeze"},
            "model.keep=3.squeeze: features.3 of squeezenet1_1 is a Fire",
        ),
        ({"backbone": "vgg16", "keep": 32}, "vgg16 has 31 blocks"),
        ({"head": {"hidden_dims": [2], "dropout": [0.2]}}, "model.head.dropout"),
        (
            {"depth": 3},
            "model.depth: unknown for the network 'truncated'; allowed: backbone, keep, head, network, name, ",
        ),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(NetworkError, match=message), torch.device("meta"):
        build_network(num_classes=2, **FINAL | change)


def test_every_backbone_can_be_cut_and_its_features_are_known():
    for backbone in BACKBONES:
        with torch.device("meta"):
            network = build_network(network="truncated", backbone=backbone, keep=2, head=HEAD, num_classes=3).eval()
            assert network(torch.randn(2, 3, 64, 64)).shape == (2, 3)
            channels = network.backbone(torch.randn(1, 3, 64, 64)).shape[1]
        assert network.head.linear0.in_features == channels


@pytest.mark.parametrize(("keep", "children"), [(4, 4), ("layer1", 5), ("layer2.0", 6)])
def test_a_cut_keeps_what_comes_before_and_its_names(keep, children):
    network = build_network(network="truncated", backbone="resnet18", keep=keep, head=HEAD, num_classes=2)
    whole = torchvision.models.resnet18(weights=None).eval()
    assert len(network.backbone) == children
    names = network.weight_names()
    assert set(names) <= set(whole.state_dict())
    state = {names[name]: tensor for name, tensor in whole.state_dict().items() if name in names}
    network.load_state_dict(state, strict=False)
    x = torch.randn(1, 3, 64, 64)
    expected = whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))
    for block in {4: [], "layer1": [whole.layer1], "layer2.0": [whole.layer1, whole.layer2[0]]}[keep]:
        expected = block(expected)
    assert torch.equal(network.backbone.eval()(x), expected)


def test_features_of_a_network_are_cut_by_their_names_as_well():
    by_number = build_network(network="truncated", backbone="mobilenet_v2", keep=4, head=HEAD, num_classes=2)
    by_name = build_network(network="truncated", backbone="mobilenet_v2", keep="features.3", head=HEAD, num_classes=2)
    assert by_number.weight_names() == by_name.weight_names()


@pytest.mark.parametrize(
    ("name", "parameters"), [("shufflenet_v1", 1_865_728), ("shufflenet_v2", 2_278_604), ("simple_cnn", None)]
)
def test_own_networks_have_the_right_number_of_classes(name, parameters):
    arguments = {"shufflenet_v2": {"width": 1.0}, "simple_cnn": {"image_size": 48}}.get(name, {})
    network = build_network(network=name, num_classes=1000, **arguments)
    assert network.eval()(torch.randn(2, 3, 48, 48)).shape == (2, 1000)
    assert parameters is None or sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("width", "published"), [(0.5, 1.366792), (1.0, 2.278604), (1.5, 3.503624), (2.0, 7.393996)])
def test_shufflenet_v2_comes_in_four_widths(width, published):
    network = build_network(network="shufflenet_v2", width=width, num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(published, abs=1e-9)
    assert pretrained_name({"network": "shufflenet_v2", "width": width}) == f"shufflenet_v2_x{width}".replace(".", "_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "shufflenet_v2", "width": 3}, "model.width=3"),
        ({"network": "shufflenet_v1", "groups": 5}, "model.groups=5"),
        ({"network": "shufflenet_v1", "groups": 8, "width": 0.5}, "model.groups=8 with model.width=0.5"),
        ({"network": "simple_cnn", "image_size": 4}, "the smallest is 8"),
        ({"network": "torchvision", "name": "resnet19"}, "model.name=resnet19: unknown; allowed: resnet18"),
    ],
)
def test_other_impossible_networks_are_refused(arguments, message):
    with pytest.raises(NetworkError, match=message):
        build_network(num_classes=2, **arguments)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shufflenet_v1_has_the_widths_that_its_file_and_its_refusal_name(groups):
    widths = (0.25, 0.5, 1.0) if groups in (1, 3) else (1.0,)
    for width in (0.25, 0.5, 1.0):
        if width in widths:
            build_network(network="shufflenet_v1", groups=groups, width=width, num_classes=2)
        else:
            with pytest.raises(
                NetworkError, match=r"; use model\.width=1, or model\.groups=1 or 3, which also have 0\.5 and"
            ):
                build_network(network="shufflenet_v1", groups=groups, width=width, num_classes=2)


@pytest.mark.parametrize("name", ["hf-hub:someone/something", "local-dir:/tmp", "mobilenet_small_of_mine"])
def test_timm_takes_no_network_from_elsewhere(name):
    pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(NetworkError, match="timm has no network of this name"):
        build_network(network="timm", name=name, num_classes=2)


def test_timm_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r'pip install -e "\.\[timm\]"'):
        build_network(network="timm", name="lcnet_050", num_classes=2)


@pytest.mark.parametrize(("name", "smallest"), [("vgg16", 32), ("densenet121", 29), ("resnet18", 1)])
def test_the_smallest_image_of_a_network_is_what_it_can_take(name, smallest):
    with torch.device("meta"):
        network = build_network(network="torchvision", name=name, num_classes=2).eval()
        assert smallest_image_size(network, smallest + 8, start=max(smallest - 2, 1)) == smallest
        network(torch.randn(1, 3, smallest, smallest))
        if smallest > 1:
            with pytest.raises(RuntimeError):
                network(torch.randn(1, 3, smallest - 1, smallest - 1))


def test_channel_shuffle_by_hand_and_as_torchvision_s():
    assert channel_shuffle(torch.arange(6).view(1, 6, 1, 1), 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    x = torch.randn(2, 12, 3, 3)
    assert torch.equal(channel_shuffle(x, 2), torchvision.models.shufflenetv2.channel_shuffle(x, 2))
    network = build_network(network="shufflenet_v1", num_classes=2)
    assert shuffle_order(network) == ([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11], 3)
    assert shuffle_order(build_network(network="torchvision", name="resnet18", num_classes=2)) is None


def test_the_first_pointwise_layer_of_stage_2_is_not_grouped_and_all_others_are():
    network = build_network(network="shufflenet_v1", groups=4, num_classes=2)
    pointwise = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [m.groups for m in pointwise] == [1] + [4] * (len(pointwise) - 1)


@pytest.mark.parametrize("name", ["truncated", "torchvision", "shufflenet_v1", "simple_cnn"])
def test_a_frozen_backbone_does_not_change_and_the_head_learns(name):
    arguments = {"truncated": FINAL, "torchvision": {"name": "mobilenet_v2"}, "simple_cnn": {"image_size": 48}}.get(
        name, {}
    )
    network = build_network(**{"network": name, "num_classes": 2} | arguments).train()
    set_frozen(network, True)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(4, 3, 48, 48)).square().sum().backward()
    optimizer.step()
    changed = {
        key.split(".")[0] for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert len(changed) == 1 and changed <= {"head", "fc", "classifier"}
    set_frozen(network, False)
    assert all(p.requires_grad for p in network.parameters()) and all(m.training for m in network.modules())


@pytest.mark.parametrize("network", [
    {"network": "torchvision", "name": "mnasnet0_5"}, {"network": "torchvision", "name": "mobilenet_v3_small"},
    {"network": "truncated", "backbone": "tf_efficientnet_lite0", "keep": 2, "head": HEAD},
    {"network": "timm", "name": "tinynet_e"}, FINAL,
])  # fmt: skip
def test_forty_batches_are_enough_for_the_statistics_of_every_network(network):
    if network["network"] == "timm" or network.get("backbone") == "tf_efficientnet_lite0":
        pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    built = build_network(num_classes=2, **network).train()
    norm, inputs = next(iter(batch_norms(built).values())), []
    norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for _ in range(40):
        built(5 + torch.randn(4, 3, 64, 64))
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=0.05, atol=0.02)


class SlowHead(nn.Module):
    """Average over more batches than the networks of this project."""

    def __init__(self, features, num_classes):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(features, momentum=0.01), nn.Linear(features, num_classes)


def test_settings_of_the_built_in_head_are_refused_with_what_removes_them(monkeypatch):
    monkeypatch.setitem(heads.OWN, "mine.SlowHead", SlowHead)
    removed = "unknown for the head mine.SlowHead, .*; remove it with ~model.head.dropout ~model.head.hidden_dims$"
    with pytest.raises(NetworkError, match=removed):
        build_network(num_classes=2, **FINAL | {"head": HEAD | {"name": "mine.SlowHead"}})


def test_a_network_whose_signature_hides_num_classes_needs_a_function_around_it(monkeypatch):
    monkeypatch.setitem(heads.OWN, "mine.resnet", torchvision.models.resnet18)
    with pytest.raises(
        NetworkError, match=r"mine.resnet: needs the argument num_classes, .*its \*\* hides it, so write a "
    ):
        build_network(num_classes=2, network="mine.resnet")
    monkeypatch.setitem(
        heads.OWN, "mine.resnet", lambda num_classes: torchvision.models.resnet18(num_classes=num_classes)
    )
    assert build_network(num_classes=2, network="mine.resnet").fc.out_features == 2


def test_batch_norms_of_the_user_s_own_average_as_they_say(monkeypatch):
    monkeypatch.setitem(heads.OWN, "mine.SlowHead", SlowHead)
    monkeypatch.setitem(heads.OWN, "mine.SlowNetwork", lambda *, num_classes: SlowHead(8, num_classes))
    cut = {"network": "truncated", "backbone": "mobilenet_v3_small", "keep": 2, "head": {"name": "mine.SlowHead"}}
    built = build_network(num_classes=2, **cut)
    assert built.head.norm.momentum == 0.01 and {n.momentum for n in batch_norms(built.backbone).values()} == {0.1}
    assert build_network(num_classes=2, network="mine.SlowNetwork").norm.momentum == 0.01


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (2, 2), (13, 10), (1, 20)])
def test_pooling_by_products_is_torch_s_own(size):
    x = torch.randn(2, 3, *size, dtype=torch.float32, requires_grad=True)
    pooled, expected = pool_by_products(x, (7, 7)), torch.nn.functional.adaptive_avg_pool2d(x, (7, 7))
    torch.testing.assert_close(pooled, expected)
    weights = torch.randn_like(expected)
    (gradient,), (own,) = (torch.autograd.grad((each * weights).sum(), x) for each in (pooled, expected))
    torch.testing.assert_close(gradient, own)
