"""Compute where a network looks: B images, C channels and h x w positions of its last feature map, K classes.

Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
"""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError

MOST_TRIED = 50  # layers; HRNet has hundreds in branches that run side by side


class GradCam(NamedTuple):
    """Hold the results of one pass."""

    probabilities: Tensor  # (B, K)
    heat: Tensor  # (B, h, w), 0 or more: how much each position adds to the class
    features: Tensor  # (B, C), the mean of the feature map over its positions


class LastFeatureMap(NamedTuple):
    """Hold the layer of a network that returns its last feature map, and the map's size."""

    layer: nn.Module
    height: int
    width: int


def last_feature_map(network: nn.Module, image_size: int) -> LastFeatureMap:
    """Return the last layer with convolutions whose output has several positions; if images are too small for that, the last.

    A convolution that is itself the classifier, such as SqueezeNet's, does not count: its map has one channel per class, in
    which all images of a class are alike. Nor does one in a block whose input also takes another way, past it: what takes that
    way would be missing in the heat.

    Raises:
        UserError: a network without convolutions.
    """
    returned: list[tuple[nn.Module, torch.Size]] = []

    def record(module, _inputs, output) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            returned.append((module, output.shape))

    image = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            if module is not network and any(isinstance(child, nn.Conv2d) for child in module.modules()):
                hooks.enter_context(module.register_forward_hook(record))
        logits = network(image)
    if not returned:
        raise UserError("explain=true: this network has no convolutional feature map for Grad-CAM; use explain=false")
    returned = [
        (module, shape)
        for module, shape in returned
        if not (isinstance(module, nn.Conv2d) and shape[1] == logits.shape[1])
    ] or returned
    several = [(module, shape) for module, shape in returned if shape[2] * shape[3] > 1]
    tried = several[: -MOST_TRIED - 1 : -1]  # the last ones, in reverse
    found = next((each for each in tried if _all_goes_through(network, each[0], image)), None)
    module, shape = found or (several or returned)[-1]
    return LastFeatureMap(module, shape[2], shape[3])


def _all_goes_through(network: nn.Module, layer: nn.Module, image: Tensor) -> bool:
    """Return whether the logits depend on the image through this layer only: no gradient passes if its output is cut off."""
    image = image.detach().clone().requires_grad_()
    with layer.register_forward_hook(lambda _module, _inputs, output: output.detach()), torch.enable_grad():
        logits = network(image.clone())
    return not logits.requires_grad or torch.autograd.grad(logits.sum(), image, allow_unused=True)[0] is None


def grad_cam(network: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor | None = None) -> GradCam:
    """Compute Grad-CAM with one forward pass, and one backward pass down to the layer's map.

    The weight of a channel is the mean gradient of the class's logit over the channel's positions (equation 1), the heat the
    positive part of the weighted sum of the channels (equation 2).

    Args:
        network: in eval mode.
        layer: from `last_feature_map`.
        images: (B, 3, H, W), normalized.
        classes: (B,) class to explain; None: the one with the largest logit.
    """
    maps: list[Tensor] = []

    def keep(_module, _inputs, output: Tensor) -> Tensor:
        maps.append(output.detach())
        torch.set_grad_enabled(True)  # only from here on: earlier layers need no memory for gradients
        maps[-1].requires_grad_()
        return maps[-1].clone()  # later layers may work in place

    with layer.register_forward_hook(keep), torch.no_grad():
        logits = network(images)
        chosen = logits.argmax(1) if classes is None else classes
        # Images do not mix in eval mode: one pass is enough for all
        total = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(total, maps[-1])
    features = maps[-1].detach()
    weights = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    heat = (weights * features).sum(1).relu()
    return GradCam(logits.detach().softmax(1), heat, features.mean((2, 3)))


@torch.inference_mode()
def pooled_features(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """Return the same features (B, C) as `grad_cam`, without a backward pass."""
    maps: list[Tensor] = []
    with layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output.mean((2, 3)))):
        network(images)
    return maps[-1]
