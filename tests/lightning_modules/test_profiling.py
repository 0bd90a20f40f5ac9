import weakref

import pytest
import torch
from torch import nn

from common.errors import UserError
from lightning_modules import latency
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.surgery import set_frozen
from lightning_modules.profiling import (
    count_macs,
    count_macs_thop,
    count_parameters,
    describe_difference,
    measure_cost,
    measure_latencies,
    peak_memory_mib,
    summary,
)
from tests.support.helpers import FINAL

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr(latency, "LONG_ENOUGH_S", 0.0)


# The study's table, recomputed: name, classes, side of the image, parameters, MACs by thop (docs/results.md shows both).
PUBLISHED = [
    ({"network": "torchvision", "name": "resnet18"}, 1000, 256, 11_689_512, 2_382_254_592),
    ({"network": "torchvision", "name": "resnet50"}, 1000, 256, 25_557_032, 5_398_546_432),
    ({"network": "torchvision", "name": "shufflenet_v2_x0_5"}, 1000, 256, 1_366_792, 57_903_104),
    ({"network": "torchvision", "name": "efficientnet_b0"}, 1000, 256, 5_288_548, 541_643_264),
    ({"network": "torchvision", "name": "mobilenet_v2"}, 1000, 256, 3_504_872, 427_345_920),
    ({"network": "torchvision", "name": "vgg16"}, 1000, 256, 138_357_544, 20_168_270_335),
    ({"network": "torchvision", "name": "vgg19"}, 1000, 256, 143_667_240, 25_604_088_319),
    ({"network": "torchvision", "name": "densenet121"}, 1000, 256, 7_978_856, 3_783_532_544),
    (FINAL, 2, 256, 143_528, 44_046_916),
    ({"network": "simple_cnn", "image_size": 48}, 2, 48, 1_015_450, 24_146_320),
]


@pytest.mark.parametrize(
    ("arguments", "classes", "side", "parameters", "macs"),
    PUBLISHED,
    ids=[row[0].get("name", row[0]["network"]) for row in PUBLISHED],
)
def test_the_published_table_to_the_last_digit(arguments, classes, side, parameters, macs):
    with torch.device("meta"):  # the counts need shapes only
        network = build_network(num_classes=classes, **arguments)
    assert count_parameters(network) == parameters
    assert count_macs_thop(network, side) == macs


# Zhang et al. 2017, table 1 (width 1) and table 2 (0.5x and 0.25x, where one number is for all groups). At width 1
# the paper's numbers are those of the convolutions only, rounded to a million: with the last layer's linear layer three
# of the five would be off.
@pytest.mark.parametrize(
    ("groups", "width", "millions", "within"),
    [
        (1, 1, 143, 0.5),
        (2, 1, 140, 0.5),
        (3, 1, 137, 0.5),
        (4, 1, 133, 0.5),
        (8, 1, 137, 0.5),
        (3, 0.5, 38, 1),
        (3, 0.25, 13, 0.5),
    ],
)
def test_shufflenet_v1_has_the_paper_s_complexity(groups, width, millions, within):
    with torch.device("meta"):
        network = build_network(network="shufflenet_v1", groups=groups, width=width, num_classes=1000)
    convolutions = count_macs(network, 224) - network.fc.weight.numel()
    assert abs(convolutions / 1e6 - millions) <= within


def test_costs_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)
    )
    convolution, linear, norm = 3 * 8 * 9 * 64, 512 * 5, 4 * 8 * 64
    assert count_parameters(network) == 3 * 8 * 9 + 16 + 512 * 5 + 5
    assert count_macs(network, 8) == convolution + linear
    assert count_macs_thop(network, 8) == convolution + linear + norm
    assert type(count_macs(network, 8)) is int
    assert measure_cost(network, 8)["macs_difference"].startswith("thop counts 2,048 more than FlopCounterMode")


def test_latencies_are_of_images_of_the_size_in_batches_of_the_size():
    shapes = set()

    class Recording(nn.Module):
        def forward(self, x):
            shapes.add((tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last)))
            return x

    measure_latencies(Recording(), 16, batch_size=4, device=CPU)
    assert shapes == {((1, 3, 16, 16), True), ((4, 3, 16, 16), True)}


class OwnConv(nn.Conv2d):
    """As timm's Conv2dSame: thop has no rule for this class."""


class OwnNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""


def test_layers_of_derived_classes_cost_what_their_base_class_costs():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    own = nn.Sequential(OwnConv(3, 8, 3, stride=2, bias=False), OwnNorm(8), nn.ReLU())
    by_hand = 15 * 15 * 8 * (3 * 3 * 3) + 4 * 15 * 15 * 8
    assert count_macs_thop(own, 32) == count_macs_thop(plain, 32) == by_hand


def test_measuring_leaves_the_network_unchanged_and_keeps_nothing_alive():
    network = build_network(num_classes=2, **FINAL).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_cost(network, 64)
    latencies = measure_latencies(network, 64, batch_size=4, device=CPU)
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert network.training and not any(m._forward_hooks for m in network.modules())
    alive = weakref.ref(network)
    del network
    assert alive() is None
    assert [entry["batch_size"] for entry in latencies] == [1, 4]
    for entry in latencies:
        assert 0 < entry["latency_p50_ms"] <= entry["latency_p95_ms"]
        assert entry["repeats"] >= 5 and entry["warm_up"] >= 1
        assert entry["device"] == "cpu" and entry["threads"] == torch.get_num_threads()


def test_a_forward_pass_that_fails_leaves_nothing_behind():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

        def forward(self, x):
            self.layers(x)
            raise RuntimeError("broken")

    network = Broken()
    for count in (count_macs, count_macs_thop):
        with pytest.raises(RuntimeError, match="broken"):
            count(network, 8)
    assert list(network.state_dict()) == ["layers.0.weight", "layers.0.bias"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_the_difference_between_the_counts_is_one_sentence():
    assert "agree" in describe_difference(5, 5)
    assert "2 more" in describe_difference(5, 7) and "batch norms" in describe_difference(5, 7)
    assert "3 fewer" in describe_difference(8, 5) and "attention" in describe_difference(8, 5)


def test_trainable_parameters_are_those_of_the_head_when_frozen():
    network = build_network(num_classes=2, **FINAL)
    whole = measure_cost(network, 32)
    set_frozen(network, True)
    assert count_parameters(network, trainable=True) == 192 * 2 + 2 + 2 * 2 + 2
    assert measure_cost(network, 32) == whole | {"parameters_trainable": count_parameters(network, trainable=True)}


def test_peak_memory_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 2, 1, bias=False))
    side = 64
    weights = (3 * 8 + 8 * 2) * 4
    image = 3 * side * side * 4
    activations = 2 * 8 * side * side * 4  # what goes into a ReLU and what comes out are alive together
    assert peak_memory_mib(network, side) == pytest.approx((weights + image + activations) / 2**20, abs=0.002)


def test_the_weights_of_a_linear_layer_are_counted_once():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100))
    parameters, image, logits = 3 * 32 * 32 * 100 + 100, 3 * 32 * 32, 100
    assert peak_memory_mib(network, 32) == pytest.approx((parameters + image + logits) * 4 / 2**20, abs=0.002)


def layers_of(text):
    """Read the summary: name -> type, output, parameters, MACs."""
    return {name: (kind, output, int(parameters.replace(",", "")), int(macs.replace(",", "")))
            for name, kind, output, parameters, macs in map(str.split, text.splitlines()[1:])}  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [FINAL, {"network": "torchvision", "name": "resnet18"}], ids=["final", "resnet18"]
)
def test_the_summary_has_each_layer_and_the_totals_of_the_record(arguments):
    network = build_network(num_classes=2, **arguments)
    before = list(network.state_dict())
    layers = layers_of(summary(network, 64))
    assert layers["total"][2:] == (count_parameters(network), count_macs(network, 64))
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    assert tuple(sum(layers[name][i] for name in leaves) for i in (2, 3)) == layers["total"][2:]
    assert set(layers) == {name or "total" for name, _ in network.named_modules()}
    assert list(network.state_dict()) == before and not any(m._forward_hooks for m in network.modules())


def test_a_layer_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 7 * 7, 5))
    layers = layers_of(summary(network, 16))
    assert layers["0"] == ("Conv2d", "8x7x7", 3 * 8 * 9 + 8, 3 * 9 * 8 * 49)
    assert layers["2"] == ("Linear", "5", 392 * 5 + 5, 392 * 5)


class Looks(nn.Module):
    """A network of the user's own whose forward pass depends on its numbers, so that shapes are not enough to run it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x.mean((2, 3)) if x.sum().item() >= 0 else x[:, :, 0, 0])


def test_a_network_that_looks_at_its_numbers_is_counted_too():
    costs = measure_cost(Looks(), 8)
    assert costs["macs"] == costs["macs_thop"] == 3 * 2 and costs["parameters"] == 3 * 2 + 2
    assert summary(Looks(), 8).splitlines()[-1].split()[-2:] == ["8", "6"]


def test_a_network_that_cannot_be_copied_is_refused_by_name(tmp_path):
    network = torch.nn.Conv2d(3, 2, 3)
    with (
        (tmp_path / "kept").open("w") as network.kept,
        pytest.raises(UserError, match="Conv2d: cannot be copied, which"),
    ):
        count_macs(network, 8)
