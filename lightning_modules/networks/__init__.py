"""Networks: plain torch modules, (B, 3, H, W) normalised pictures in, (B, K) logits out.

This package imports torch and torchvision alone (and timm where it is asked for), so that a network can be lifted out of
the project.
"""

import inspect

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.shufflenetv2 import InvertedResidual

from .shufflenet_v1 import ChannelShuffle, channel_shuffle, shufflenet_v1
from .simple_cnn import simple_cnn
from .timm_models import timm_model
from .torchvision_models import TORCHVISION_WEIGHTS, torchvision_model
from .truncated import BACKBONES, Truncated, smallest_image_size, truncated


def shufflenet_v2(*, width: float, num_classes: int) -> nn.Module:
    """torchvision's ShuffleNetV2 of one of its four widths.

    Raises:
        ValueError: another width.
    """
    return torchvision_model(name=shufflenet_v2_name(width), num_classes=num_classes)


def shufflenet_v2_name(width: float) -> str:
    """torchvision's name of a width: 0.5 is shufflenet_v2_x0_5."""
    if width not in (0.5, 1, 1.5, 2):
        raise ValueError(f"model.width={width}: ShuffleNetV2 comes in the widths 0.5, 1.0, 1.5 and 2.0")
    return f"shufflenet_v2_x{float(width)}".replace(".", "_")


# The only things that a config or a checkpoint can ask to be built.
NETWORKS = {
    "torchvision": torchvision_model,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "simple_cnn": simple_cnn,
    "timm": timm_model,
    "truncated": truncated,
}
OF_EVERY_MODEL = ("name", "weights", "freeze", "image_size")  # settings of conf/model that a network may not need
HEADS = ("head", "fc", "classifier")  # what the last layers are called

__all__ = [
    "BACKBONES",
    "HEADS",
    "NETWORKS",
    "TORCHVISION_WEIGHTS",
    "Truncated",
    "batch_norms",
    "build_network",
    "head_of",
    "network_arguments",
    "pretrained_name",
    "set_frozen",
    "shuffle_order",
    "smallest_image_size",
    "was_trained",
]


def build_network(*, network: str, num_classes: int, **arguments) -> nn.Module:
    """Builds a network of the list by its name, with random weights.

    Raises:
        ValueError: not in the list, or arguments that it does not take.
    """
    accepted = _accepted(network)
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise ValueError(f"model.{unknown[0]}: the network {network!r} takes {', '.join(accepted)}")
    return NETWORKS[network](num_classes=num_classes, **arguments)


def network_arguments(settings: dict) -> dict:
    """What of a model's settings describes its network: `network` and the arguments for it."""
    accepted = _accepted(settings["network"])
    return {key: value for key, value in settings.items() if key in accepted or key not in OF_EVERY_MODEL}


def pretrained_name(arguments: dict) -> str | None:
    """torchvision's name of the network whose weights fit these `network_arguments`, or None where there are none."""
    if arguments["network"] == "shufflenet_v2":
        return shufflenet_v2_name(arguments["width"])
    name = arguments.get("backbone", arguments.get("name"))
    return name if name in TORCHVISION_WEIGHTS and arguments["network"] != "timm" else None


def head_of(network: nn.Module) -> nn.Module | None:
    """The last part, which gives the logits; None where it is not known where it begins."""
    if hasattr(network, "get_classifier"):  # timm
        head = network.get_classifier()
    else:
        head = next((getattr(network, name) for name in HEADS if hasattr(network, name)), None)
    return head if any(child is head for child in network.children()) else None


def set_frozen(network: nn.Module, frozen: bool) -> None:
    """Keeps everything before the head from being trained, its batch norms in eval mode too; or undoes it.

    Raises:
        ValueError: a network of which it is not known where its head begins.
    """
    head = head_of(network)
    if head is None:
        raise ValueError("model.freeze: it is not known where the head of this network begins; use model.freeze=null")
    for part in (child for child in network.children() if child is not head):
        part.requires_grad_(not frozen)
        part.train(network.training and not frozen)


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> each batch norm of a network, also those that are in step over several processes."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def was_trained(norm: nn.Module) -> bool:
    """Whether the mean and variance of a batch norm are others than those that it begins with."""
    return norm.running_mean is not None and bool(norm.running_mean.any() or (norm.running_var != 1).any())


def shuffle_order(network: nn.Module) -> tuple[list[int], int] | None:
    """What the network's channel shuffle does to a few channels: (the channel at each place, groups); None without one."""
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


def _accepted(network: str) -> list[str]:
    if not isinstance(network, str) or network not in NETWORKS:
        raise ValueError(f"model.network={network!r} is not one of this project's networks: {', '.join(NETWORKS)}")
    return [name for name in inspect.signature(NETWORKS[network]).parameters if name != "num_classes"]
