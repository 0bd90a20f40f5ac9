"""Grad-CAM without gradients, against inference/explain/grad_cam.py."""

import pytest
import torch

from common.errors import UserError
from inference.explain.grad_cam import grad_cam, last_feature_map
from inference.export.web.class_maps import WithClassMaps, check_class_maps, find_class_weights
from lightning_modules.networks.registry import build_network

SIZE = 64
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def build(**network):
    torch.manual_seed(0)
    return build_network(num_classes=3, **network).eval()


@pytest.fixture(scope="module")
def linear():
    head = {"hidden_dims": [2], "dropout": [0.2, 0.02]}
    network = build(network="truncated", backbone="shufflenet_v2_x0_5", keep=5, head=head)
    return network, find_class_weights(network, SIZE, IMAGES)


def maps(network, found):
    with torch.inference_mode():
        return WithClassMaps(network, found)(IMAGES)


def test_maps_of_a_linear_head_are_grad_cam(linear):
    network, found = linear
    logits, written = maps(network, found)
    for k in range(3):
        expected = grad_cam(network, found.layer, IMAGES, torch.tensor([k, k])).heat
        torch.testing.assert_close(written[:, k], expected, atol=1e-5 * expected.max().item(), rtol=0)
    torch.testing.assert_close(logits, network(IMAGES))
    assert not any(module._forward_hooks for module in network.modules())
    assert check_class_maps(network, found.layer, IMAGES, written.numpy(), "x") < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision_with_one_linear_layer_have_maps(name):
    network = build(network="torchvision", name=name)
    found = find_class_weights(network, SIZE, IMAGES)
    assert check_class_maps(network, found.layer, IMAGES, maps(network, found)[1].numpy(), "x") < 1e-5


@pytest.mark.parametrize("network", [
    {"network": "torchvision", "name": "mobilenet_v3_small"}, {"network": "torchvision", "name": "squeezenet1_1"},
    {"network": "torchvision", "name": "densenet121"}, {"network": "simple_cnn", "image_size": SIZE},
])  # fmt: skip
def test_a_head_that_is_not_linear_has_none(network):
    """Even where it is linear for these images, as heads with random weights nearly are."""
    assert find_class_weights(build(**network), SIZE, IMAGES) is None


def test_a_linear_head_after_a_map_of_one_position_has_none():
    """With 32 pixels: the map before it is explained, and the layers in between have activations."""
    head = {"hidden_dims": [2], "dropout": [0.2, 0.02]}
    network = build(network="truncated", backbone="shufflenet_v2_x0_5", keep=5, head=head)
    assert last_feature_map(network, 32).layer is network.backbone.stage3
    assert find_class_weights(network, 32, IMAGES[..., :32, :32]) is None


def test_without_convolutions_there_are_none():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 3)).eval()
    assert find_class_weights(network, SIZE, IMAGES) is None


def test_other_maps_are_refused(linear):
    network, found = linear
    written = maps(network, found)[1].numpy()
    for broken in (
        written.transpose(0, 1, 3, 2),
        written[:, :, :1],
        written[:1],
        1.01 * written,
        written * float("nan"),
    ):
        with pytest.raises(UserError, match=r"^x: its class maps differ from Grad-CAM by "):
            check_class_maps(network, found.layer, IMAGES, broken, "x")
