import pytest
import torch
import torchvision
from torch import nn

from lightning_modules.cost import count_macs, count_macs_thop, count_parameters, measure_cost
from lightning_modules.networks import build_network
from tests.helpers import FINAL


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


def test_shufflenet_mod_costs_what_was_published():
    assert measure_cost(build_network(num_classes=2, **FINAL), 256) == {
        "parameters": 143_528,
        "macs_thop": 44_046_916,
        "macs": 38_947_204,
    }


def test_costs_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)
    )
    convolution, linear, norm = 3 * 8 * 9 * 64, 512 * 5, 4 * 8 * 64
    assert count_parameters(network) == 3 * 8 * 9 + 16 + 512 * 5 + 5
    assert count_macs(network, 8) == convolution + linear
    assert count_macs_thop(network, 8) == convolution + linear + norm


def test_measuring_leaves_the_network_as_it_was():
    network = build_network(num_classes=2, **FINAL).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_cost(network, 64)
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert network.training and not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet_of_mine"}, "not one of this project's networks: .*truncated"),
        ({"keep": 0}, "model.keep=0.*use 1 to 7"),
        ({"keep": 8}, "model.keep=8.*use 1 to 7"),
        ({"keep": 7}, "cannot cut shufflenet_v2_x0_5 after fc"),
        ({"backbone": "shufflenet_v3"}, "unknown backbone"),
        ({"head": {"widths": [2], "dropout": [0.2]}}, "model.head.dropout"),
        ({"depth": 3}, "model.depth: the network 'truncated' takes"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_network(num_classes=2, **FINAL | change)
