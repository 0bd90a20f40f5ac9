import pytest
import torch

from lightning_modules.cut_costs import HEAD, cut_costs
from lightning_modules.networks.registry import build_network
from lightning_modules.profiling import count_macs_thop, count_parameters


@pytest.mark.parametrize(
    "backbone",
    ["shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "simple_cnn", "lcnet_050", "vit_tiny_patch16_224"],
)
def test_a_cut_costs_what_the_network_costs_that_is_built_of_it(backbone):
    if backbone.endswith(("050", "224")):
        pytest.importorskip("timm", reason="needs the extra timm")
    sizes, count, costs = cut_costs(backbone)
    assert sizes == ((224,) if backbone.startswith("vit") else (256, 128)) and count == len(costs) >= 3
    for cost in (costs[0], costs[len(costs) // 2], costs[-1]):
        for keep in {cost.keep, cost.number or cost.keep}:
            with torch.device("meta"):
                network = build_network(network="truncated", backbone=backbone, keep=keep, head=HEAD, num_classes=2)
            assert count_parameters(network) == cost.parameters
            assert tuple(count_macs_thop(network, size) for size in sizes) == cost.macs
            assert network.head.linear0.in_features == cost.features
    assert cut_costs(backbone, only_last=True) == (sizes, count, costs[-1:])
