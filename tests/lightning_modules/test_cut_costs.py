import pytest
import torch
from safetensors.torch import save

from lightning_modules.activation_memory import peak_activations
from lightning_modules.cut_costs import HEAD, cut_costs
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
