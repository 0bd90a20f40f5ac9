import pytest
import torch
from torch import nn

from lightning_modules.cut_costs import HEAD, cut_costs
from lightning_modules.cut_features import CutFeatures, in_order
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.registry import build_network


def cut(backbone: str, keep: str) -> nn.Module:
    return build_network(network="truncated", backbone=backbone, keep=keep, head=HEAD, num_classes=2).eval()


@pytest.mark.parametrize(
    "backbone",
    [
        "shufflenet_v2_x0_5",  # numbered children
        "squeezenet1_1",  # of `features`
        pytest.param("resnet18", marks=pytest.mark.thorough),  # layers that change their input in place
        pytest.param("mnasnet0_5", marks=pytest.mark.thorough),  # in stages
        pytest.param("lcnet_050", marks=pytest.mark.thorough),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.thorough),  # tokens
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),  # NHWC
    ],
)
def test_one_pass_gives_what_each_truncated_network_pools(backbone):
    if backbone.endswith(("050", "224")):
        pytest.importorskip("timm", reason="needs the extra timm")
    sizes, _, costs, _ = cut_costs(backbone, (96, 64))
    cuts = [cost.keep for cost in costs]
    torch.manual_seed(0)
    last = cut(backbone, cuts[-1])
    for module in last.modules():  # so that eval mode differs from that of training, and from nothing
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    weights = {name: tensor.clone() for name, tensor in last.backbone.state_dict().items()}
    images = torch.randn(2, 3, sizes[-1], sizes[-1])
    features = CutFeatures(last, backbone, cuts).eval()
    with torch.inference_mode():
        found = features(images)
    assert features.channels == [cost.features for cost in costs] == [each.shape[1] for each in found]
    some = range(len(cuts)) if len(cuts) < 15 else (0, 1, 5, 9, len(cuts) - 2, len(cuts) - 1)
    for index in some:
        network = cut(backbone, cuts[index])
        assert not network.backbone.load_state_dict(weights, strict=False).missing_keys
        with torch.inference_mode():
            expected = network.pool(network.backbone(images)).flatten(1)
        torch.testing.assert_close(found[index], expected, rtol=1e-5, atol=1e-5)


def test_cuts_are_put_in_the_order_in_which_they_run():
    cuts = [cost.keep for cost in cut_costs("shufflenet_v2_x0_5").cuts]
    assert cuts.index("stage2.2") < cuts.index("stage2")
    assert in_order("shufflenet_v2_x0_5", sorted(cuts, reverse=True)) == cuts
    with pytest.raises(NetworkError, match="has no block stage9"):
        in_order("shufflenet_v2_x0_5", ["conv1", "stage9"])


def test_a_cut_behind_the_last_one_is_refused():
    network = cut("simple_cnn", cut_costs("simple_cnn").cuts[0].keep)
    with pytest.raises((NetworkError, AttributeError), match=r"no map|no attribute"):
        CutFeatures(network, "simple_cnn", [each.keep for each in cut_costs("simple_cnn").cuts])
