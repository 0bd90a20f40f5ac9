import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from inference.explain.grad_cam import grad_cam, last_feature_map, pooled_features
from lightning_modules.networks.registry import build_network
from tests.support.helpers import FINAL

LAST = {  # network -> the part that gives its last feature map, as its authors draw it
    "resnet18": "layer4",
    "resnet50": "layer4",
    "shufflenet_v2_x0_5": "conv5",
    "efficientnet_b0": "features",
    "mobilenet_v2": "features",
    "vgg16": "features",
    "vgg19": "features",
    "densenet121": "features",
    "squeezenet1_1": "features",  # and not its classifier, a convolution
}
OWN = [
    ({"network": "simple_cnn", "image_size": 64}, "features"),
    ({"network": "shufflenet_v1", "width": 0.5}, "stage4"),
    (FINAL, "backbone"),
    ({"network": "truncated", "backbone": "resnet18", "keep": "layer2.0", "head": FINAL["head"]}, "backbone"),
]
NETWORKS = [({"network": "torchvision", "name": name}, layer) for name, layer in LAST.items()] + OWN
LARGE = ("vgg16", "vgg19")  # 140 million parameters, which take seconds to be drawn
SIZE = 64


def named(case) -> str:
    return case.get("name") or "_".join(str(part) for part in case.values() if isinstance(part, str))


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        pytest.param(network, layer, id=named(network), marks=[pytest.mark.slow] if named(network) in LARGE else [])
        for network, layer in NETWORKS
    ],
)
def test_it_equals_captum_s_grad_cam_on_the_last_map(network, layer):
    pytest.importorskip("captum", reason="captum, the other implementation, is not installed")
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    made = build_network(num_classes=3, **network).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    found = last_feature_map(made, SIZE)
    assert found.layer is made.get_submodule(layer)
    for k in range(2):
        classes = torch.tensor([k, k + 1])
        mine = grad_cam(made, found.layer, images, classes)
        theirs = LayerGradCam(made, found.layer).attribute(images, classes, relu_attributions=True)[:, 0].detach()
        assert mine.heat.shape == theirs.shape == (2, found.height, found.width)
        scale = theirs.amax((1, 2), keepdim=True).clamp_min(1e-12)
        torch.testing.assert_close(mine.heat / scale, theirs / scale, rtol=1e-5, atol=1e-5)
        assert k or mine.heat.any()
    with torch.no_grad():
        torch.testing.assert_close(mine.probabilities, made(images).softmax(1))
    torch.testing.assert_close(pooled_features(made, found.layer, images), mine.features)


class Small(nn.Module):
    """One 1x1 convolution of two channels, global pooling and a linear layer: Grad-CAM by hand."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1, bias=False)
        self.linear = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.linear(self.convolution(x).relu_().mean((2, 3)))  # in place, as some networks do


def test_by_hand():
    network = Small().eval()
    with torch.no_grad():
        network.convolution.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None])
        network.linear.weight.copy_(torch.tensor([[2.0, -1], [-3, 1]]))
    channels = torch.tensor([[4.0, 0], [1, 2]]), torch.tensor([[1.0, 5], [0, 6]]), torch.zeros(2, 2)
    found = grad_cam(network, last_feature_map(network, 2).layer, torch.stack(channels)[None], torch.tensor([0]))
    # All maps are positive or 0, where relu's slope is 0; a logit's gradient at each of four places is its weight / 4
    slope = np.array([[[1, 0], [1, 1]], [[1, 1], [0, 1]]]).mean((1, 2))
    a, b = (part.numpy() for part in channels[:2])
    np.testing.assert_allclose(found.heat[0], np.maximum(2 / 4 * slope[0] * a - 1 / 4 * slope[1] * b, 0), rtol=1e-6)
    np.testing.assert_allclose(found.features[0], [7 / 4, 12 / 4])
    assert grad_cam(network, network.convolution, torch.stack(channels)[None]).heat.any()  # of the largest logit


def test_it_leaves_the_network_as_it_was():
    network = build_network(num_classes=2, network="simple_cnn", image_size=32).eval()
    layer = last_feature_map(network, 32).layer
    grad_cam(network, layer, torch.randn(1, 3, 32, 32))
    assert torch.is_grad_enabled()
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_features_are_not_those_of_a_classifier_that_is_a_convolution():
    network = build_network(num_classes=2, network="torchvision", name="squeezenet1_1").eval()
    images = torch.randn(2, 3, 64, 64)
    features = pooled_features(network, last_feature_map(network, 64).layer, images)
    torch.testing.assert_close(features, network.features(images).mean((2, 3)))  # of 512 channels, not of 2


def test_the_smallest_images_and_no_convolution():
    network = build_network(num_classes=2, network="torchvision", name="resnet18").eval()
    assert last_feature_map(network, 32)[0] is network.layer3  # layer4 has a single position
    assert last_feature_map(network, 1)[1:] == (1, 1)
    with pytest.raises(UserError, match="no convolutional feature map"):
        last_feature_map(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 2)


@pytest.mark.parametrize(("network", "layer"), [
    ({"network": "torchvision", "name": "shufflenet_v2_x0_5"}, "stage3"), (FINAL, "backbone.stage3"),
    ({"network": "torchvision", "name": "resnet50"}, "layer3"), ({"network": "shufflenet_v1", "width": 0.5}, "stage3"),
    ({"network": "torchvision", "name": "mobilenet_v2"}, "features.14.conv.0"),
], ids=str)  # fmt: skip
def test_of_small_images_the_map_is_one_that_everything_goes_through(network, layer):
    """Not that of a convolution in the first block of the last stage, beside which the shortcut runs.

    With a fixed map, the logits are the same for every image.
    """
    made = build_network(num_classes=2, **network).eval()
    found = last_feature_map(made, 32)
    assert found.layer is made.get_submodule(layer) and (found.height, found.width) == (2, 2)
    images, maps = torch.randn(2, 3, 32, 32), []
    handle = found.layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output) or maps[0])
    with torch.no_grad():
        assert torch.equal(made(images[:1]), made(images[1:]))
    handle.remove()
    assert len(maps) == 2 and not torch.equal(*maps)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_convolution_after_the_pooling_has_no_map():
    network = build_network(num_classes=2, network="timm", name="lcnet_050").eval()
    assert last_feature_map(network, 64).layer is network.blocks  # and not conv_head, a convolution of pooled features
