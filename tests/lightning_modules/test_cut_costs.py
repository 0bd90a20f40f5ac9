import warnings

import pytest
import torch
from safetensors.torch import save

from lightning_modules.activation_memory import peak_activations
from lightning_modules.cut_costs import HEAD, cut_costs
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.heads import OWN
from lightning_modules.networks.registry import build_network
from lightning_modules.profiling import count_macs_thop, count_parameters


@pytest.mark.parametrize(
    "backbone",
    [
        *("squeezenet1_1", "simple_cnn"),
        *(
            pytest.param(n, marks=pytest.mark.thorough)
            for n in ("shufflenet_v2_x0_5", "mnasnet0_5", "lcnet_050", "vit_tiny_patch16_224")
        ),
    ],
)
def test_a_cut_costs_what_the_network_costs_that_is_built_of_it(backbone):
    if backbone.endswith(("050", "224")):
        pytest.importorskip("timm", reason="needs the extra timm")
    sizes, count, costs, refused = cut_costs(backbone, num_classes=3)
    assert sizes == ((224,) if backbone.startswith("vit") else (256, 128)) and count == len(costs) >= 3
    assert refused.keys() == ({256, 128} if backbone.startswith("vit") else set())
    for cost in (costs[0], costs[len(costs) // 2], costs[-1]):
        for keep in {cost.keep, cost.number or cost.keep}:
            with torch.device("meta"):
                network = build_network(network="truncated", backbone=backbone, keep=keep, head=HEAD, num_classes=3)
            assert count_parameters(network) == cost.parameters
            assert tuple(count_macs_thop(network, size) for size in sizes) == cost.macs
            assert tuple(peak_activations(network, size) for size in sizes) == cost.activations
            assert network.head.linear0.in_features == cost.features
    content = save({name: torch.zeros(w.shape, dtype=w.dtype) for name, w in network.state_dict().items()})
    assert costs[-1].weight_bytes == len(content) - 8 - int.from_bytes(content[:8], "little")
    assert cut_costs(backbone, only_last=True, num_classes=3).cuts == costs[-1:]


def test_a_size_that_is_too_small_is_left_out_with_the_reason():
    found = cut_costs("squeezenet1_1", (8, 64))
    assert found.sizes == (64,) and found.refused.keys() == {8} and "too small" in found.refused[8]
    assert found == cut_costs("squeezenet1_1", (64,))._replace(refused=found.refused)


class Own(torch.nn.Module):
    """A network of the user's own: 28 pixels a side give maps of 7 x 7, which its head or its positions may want."""

    def __init__(self, *, num_classes: int, then: str):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 4, 4, 4)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 1), torch.nn.ReLU())
        self.then, self.fc = then, torch.nn.Linear(5 * 7 * 7 if then == "flatten" else 5, num_classes)
        if then == "positions":
            self.positions = torch.nn.Parameter(torch.zeros(1, 50, 4))
        elif then == "numpy":
            self.scale = self.fc.weight.detach().numpy().std()
        elif then == "weights":  # loads those of a file, with a warning for each on torch's meta device
            self.load_state_dict(
                {name: torch.zeros(value.shape, device="cpu") for name, value in self.state_dict().items()}
            )
        elif then == "scripted":
            self.body = torch.jit.script(self.body)
        elif then == "lazy":
            self.body = torch.nn.Sequential(torch.nn.LazyConv2d(5, 1), torch.nn.ReLU())
        elif then == "gray":
            self.patch = torch.nn.Conv2d(1, 4, 4, 4)

    def forward(self, x):
        x = self.patch(x)
        if self.then == "positions":  # and a token of the class before those of the patches
            x = torch.nn.functional.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, 0)) + self.positions
            return self.fc(self.body(x[:, 1:].transpose(1, 2).unflatten(2, (7, 7))).mean((2, 3)))
        x = self.body(x)
        if self.then == "numbers" and x.sum() > 100:
            x = x / 2
        return self.fc(x.flatten(1) if self.then == "flatten" else x.mean((2, 3)))


@pytest.mark.parametrize(("then", "sizes"), [
    ("", (32, 64)), ("flatten", (32, 64)), ("numbers", (32, 64)), ("numpy", (32, 64)), ("positions", (28,)),
    ("weights", (32, 64)),
])  # fmt: skip
def test_a_network_of_the_users_own_is_measured_up_to_its_last_block_at_sizes_that_it_takes(monkeypatch, then, sizes):
    """What follows the last block is not kept: it may want other images, or numbers."""
    monkeypatch.setitem(OWN, f"own.{then}.Net", lambda *, num_classes: Own(num_classes=num_classes, then=then))
    found = cut_costs(f"own.{then}.Net", (32, 64))
    assert found.sizes == sizes
    (last,) = found.cuts[-1:]
    assert (last.keep, last.features) == ("body", 5)
    positions = 50 * 4 if then == "positions" else 0
    assert last.parameters == (3 * 16 + 1) * 4 + positions + (4 + 1) * 5 + (5 + 1) * 2
    network = build_network(network="truncated", backbone=f"own.{then}.Net", keep="body", head=HEAD, num_classes=2)
    assert count_parameters(network) == last.parameters
    assert tuple(count_macs_thop(network, size) for size in sizes) == last.macs


@pytest.mark.parametrize(("then", "message"), [
    ("lazy", r"^model\.backbone=own\.lazy\.Net: has lazy layers"),
    pytest.param("scripted", r"^model\.keep=2: cannot cut .* after body", marks=pytest.mark.filterwarnings("ignore:.*script")),
    ("gray", r"^model\.keep=1: .* takes no image of 256 x 256 pixels \(.+\)\. Cut elsewhere; the blocks are patch, body$"),
])  # fmt: skip
def test_what_is_wrong_with_a_network_of_the_users_own_is_named(monkeypatch, then, message):
    monkeypatch.setitem(OWN, f"own.{then}.Net", lambda *, num_classes: Own(num_classes=num_classes, then=then))
    with pytest.raises(NetworkError, match=message):
        build_network(
            network="truncated", backbone=f"own.{then}.Net", keep=1 + (then == "scripted"), head=HEAD, num_classes=2
        )


def test_weights_that_a_network_of_the_users_own_loads_itself_give_no_warnings(monkeypatch):
    monkeypatch.setitem(OWN, "own.weights.Net", lambda *, num_classes: Own(num_classes=num_classes, then="weights"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cut_costs("own.weights.Net", (32,))
    assert not [each for each in seen if "no-op" in str(each.message)]
