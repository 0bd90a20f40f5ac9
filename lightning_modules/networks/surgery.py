"""Inspect and change an existing network: its head, its batch norms, the smallest image that it accepts."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.shufflenetv2 import InvertedResidual

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.meta import on_meta
from lightning_modules.networks.shufflenet_v1 import ChannelShuffle, channel_shuffle

HEADS = ("head", "fc", "classifier")  # names of the last layers


def find_head(network: nn.Module) -> nn.Module | None:
    """Return the head, the last part, which computes the logits; None if it cannot be identified."""
    if hasattr(network, "get_classifier"):  # timm
        head = network.get_classifier()
        return head if any(module is head for module in network.modules()) else None
    return next((head for name in HEADS if isinstance(head := getattr(network, name, None), nn.Module)), None)


def set_frozen(network: nn.Module, frozen: bool) -> None:
    """Freeze everything before the head, with its batch norms in eval mode, or unfreeze it.

    Raises:
        NetworkError: the head of the network cannot be identified.
    """
    head = find_head(network)
    if head is None:
        raise NetworkError(
            "model.freeze: the head of this network cannot be identified (its last part is not called head, fc or "
            "classifier); use model.freeze=null"
        )
    of_head = set(head.modules())
    for module in network.modules():
        if module not in of_head:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not frozen)
            if of_head.isdisjoint(module.modules()):
                module.training = network.training and not frozen


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Return name -> batch norm for a network, including synchronized ones."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[dict[nn.Module, bool]]:
    """Put a network into evaluation mode; yield each module's earlier mode, which is restored afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield modes
    finally:
        for module, mode in modes.items():
            module.training = mode


def has_trained_statistics(norm: nn.Module) -> bool:
    """Return whether the mean and variance of a batch norm differ from their initial values."""
    return norm.running_mean is not None and bool(norm.running_mean.any() or (norm.running_var != 1).any())


def shuffle_order(network: nn.Module) -> tuple[list[int], int] | None:
    """Return how the network's channel shuffle orders a few channels, (channel at each place, groups); None without one."""
    groups = 0
    for module in network.modules():
        if isinstance(module, ChannelShuffle):
            groups = module.groups
        elif isinstance(module, InvertedResidual):
            groups = 2  # torchvision's ShuffleNetV2 shuffles its two halves
    if not groups:
        return None
    channels = torch.arange(groups * max(3, 12 // groups)).view(1, -1, 1, 1)
    return channel_shuffle(channels, groups).flatten().tolist(), groups


@torch.no_grad()
def smallest_image_size(network: nn.Module, upto: int, start: int = 1) -> int | None:
    """Return the smallest image side, from `start` to `upto`, that the network accepts, or None; compute only shapes."""
    network = on_meta(network)

    def works(size: int) -> bool:
        try:
            network(torch.empty(2, 3, size, size, device="meta"))
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True

    return next((size for size in range(start, upto + 1) if works(size)), None)
