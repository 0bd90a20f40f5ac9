"""Give an exported network a second output that shows where it looks: Grad-CAM of every class, without gradients.

If everything behind the last feature map is linear (global average pooling and linear layers), the mean gradient of a class is
the same for all images, so Grad-CAM is a product with fixed weights (Zhou et al. 2016, arXiv:1512.04150).
N images, K classes, C channels and h x w positions of the last feature map.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from inference.explain.grad_cam import grad_cam, last_feature_map

CLASS_MAPS = "class_maps"  # output (N, K, h, w): 0 or more, how much each position adds to each class
LARGEST_DIFFERENCE = 1e-3  # as a share of the largest value in an image's maps; above it nothing is written
MOST_CLASSES = 5  # whose maps are compared
SAME = 1e-4  # as a share of the largest weight: weights of two images that differ by less are equal


class ClassWeights(NamedTuple):
    """Hold the layer that gives the last feature map, and the weight (K, C) of each of its channels for each class."""

    layer: nn.Module
    weights: Tensor


def find_class_weights(network: nn.Module, image_size: int, images: Tensor) -> ClassWeights | None:
    """Return the weights of the classes; None if they are not the same for all images, or there is no feature map.

    Args:
        network: in eval mode.
        image_size: S, pixels.
        images: (N, 3, S, S), normalized; the weights are also compared with those for maps of noise of several sizes.
    """
    try:
        layer = last_feature_map(network, image_size).layer
    except UserError:
        return None
    of_images = [_mean_gradients(network, layer, image[None]) for image in images]
    found = [*of_images, *(_mean_gradients(network, layer, images[:1], noise) for noise in (1, 10, 100))]
    first = found[0]
    if not first.isfinite().all() or any((other - first).abs().max() > SAME * first.abs().max() for other in found):
        return None
    return ClassWeights(layer, first)


def _mean_gradients(network: nn.Module, layer: nn.Module, image: Tensor, noise: float = 0) -> Tensor:
    """Return the mean gradient (K, C) of each logit over the positions of the map of one image.

    Args:
        noise: size of the noise that replaces the map, in standard deviations of the map; 0: the map itself.
    """
    maps: list[Tensor] = []

    def keep(_module, _inputs, output: Tensor) -> Tensor:
        drawn = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)) * (output.std() + 1) * noise
        maps.append((drawn if noise else output).detach().requires_grad_())
        return maps[-1].clone()  # later layers may work in place

    with layer.register_forward_hook(keep), torch.enable_grad():
        logits = network(image)[0]
        gradients = [torch.autograd.grad(logit, maps[-1], retain_graph=True)[0].mean((0, 2, 3)) for logit in logits]
    return torch.stack(gradients)


class WithClassMaps(nn.Module):
    """Return logits (N, K) and the maps of all classes, as `grad_cam` computes them."""

    def __init__(self, network: nn.Module, found: ClassWeights):
        super().__init__()
        self.network, self.layer = network, found.layer
        self.register_buffer("weights", found.weights)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = []
        with self.layer.register_forward_hook(lambda _module, _inputs, output: features.append(output.clone())):
            logits = self.network(images)
        return logits, torch.einsum("kc,nchw->nkhw", self.weights, features[-1]).relu()


def check_class_maps(network: nn.Module, layer: nn.Module, images: Tensor, written: np.ndarray, label: str) -> float:
    """Return the largest difference of written maps (N, K, h, w) from Grad-CAM, as a share of an image's largest value.

    Args:
        network: in eval mode.
        layer: that gives the last feature map.
        images: (N, 3, S, S), normalized.
        label: of the format, for the message.

    Raises:
        UserError: the difference is above LARGEST_DIFFERENCE, or the maps have another size.
    """
    chosen = torch.arange(written.shape[1])[:: -(-written.shape[1] // MOST_CLASSES)]
    difference = np.inf
    if written.ndim == 4 and len(written) == len(images):
        found = [grad_cam(network, layer, image.expand(len(chosen), -1, -1, -1), chosen).heat for image in images]
        expected = torch.stack(found).numpy()
        if expected.shape[2:] == written.shape[2:]:
            scale = expected.max((1, 2, 3), keepdims=True)
            difference = float((np.abs(written[:, chosen] - expected) / np.where(scale > 0, scale, 1)).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{label}: its class maps differ from Grad-CAM by {difference:.1e} of their largest value, "
            f"which is above {LARGEST_DIFFERENCE:g}; nothing was written. Please report it with the name of the network"
        )
    return difference
