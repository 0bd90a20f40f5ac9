"""The networks that a configuration or a checkpoint can name."""

import inspect
from collections.abc import Callable, Mapping

from torch import nn

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.heads import OWN, build_module, is_full_name
from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.surgery import batch_norms
from lightning_modules.networks.timm_models import timm_model
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model
from lightning_modules.networks.truncated import BACKBONES, truncated


def shufflenet_v2(*, width: float, num_classes: int) -> nn.Module:
    """Build torchvision's ShuffleNetV2 in one of its four widths; another one raises NetworkError."""
    return torchvision_model(name=shufflenet_v2_name(width), num_classes=num_classes)


def shufflenet_v2_name(width: float) -> str:
    """Return torchvision's name for a width: shufflenet_v2_x0_5 for 0.5."""
    if width not in (0.5, 1, 1.5, 2):
        raise NetworkError(f"model.width={width}: ShuffleNetV2 comes in the widths 0.5, 1.0, 1.5 and 2.0")
    return f"shufflenet_v2_x{float(width)}".replace(".", "_")


NETWORKS = {
    "torchvision": torchvision_model,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "simple_cnn": simple_cnn,
    "timm": timm_model,
    "truncated": truncated,
}
BATCH_NORM_MOMENTUM = 0.1  # torch's own
# Settings of conf/model that a network may not need
OF_EVERY_MODEL = ("name", "weights", "freeze", "image_size", "normalization", "interpolation")


def build_network(*, network: str, num_classes: int, **arguments) -> nn.Module:
    """Build a network by its name, with random weights.

    Raises:
        NetworkError: there is no such network, it does not accept the arguments, or it does not return a module.
    """
    accepted = _accepted(network)
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        message = f"model.{unknown[0]}: unknown for the network {network!r}"
        allowed = dict.fromkeys((*accepted, "network", *OF_EVERY_MODEL))
        raise NetworkError(message, name=unknown[0], allowed=allowed)
    gets, build = "num_classes and, by name, what its file of conf/model lists", find_network(network)
    built = build_module(f"model.network={network}", build, gets, {"num_classes": num_classes, **arguments})
    if not is_full_name(network) and arguments.get("backbone") not in OWN:
        _forget_sooner(built.backbone if head_name(arguments) else built)  # the user's own head is not changed
    return built


def _forget_sooner(network: nn.Module) -> None:
    """Make batch norms that average over more batches average over about the last 10, as most of torch's do.

    MNASNet's average over 3,300 batches, MobileNetV3's and those from TensorFlow over 100, for trainings of 100,000 steps.
    Fine-tuned for 200 steps, such a network would be evaluated with the statistics of other images than it was trained on.
    """
    for norm in batch_norms(network).values():
        if norm.momentum is not None:
            norm.momentum = max(norm.momentum, BATCH_NORM_MOMENTUM)


def find_network(name: str) -> Callable[..., nn.Module]:
    """Return the function or class that builds a network: from NETWORKS, or the user's own by its full name.

    Raises:
        NetworkError: there is no such network, or the user's own is not registered.
    """
    if is_full_name(name):
        if name not in OWN:
            raise NetworkError(f"the network {name!r} is not one of this project; if it is yours: register=[{name}]")
        parameters = inspect.signature(OWN[name]).parameters
        if "num_classes" not in parameters:
            message = f"model.network={name}: needs the argument num_classes, which every network gets"
            if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                message += "; its ** hides it, so write a function with num_classes and the settings as arguments that calls it"
            raise NetworkError(message)
        return OWN[name]
    if not isinstance(name, str) or name not in NETWORKS:
        own = "name your own as package.module.Class"
        raise NetworkError(f"model.network={name!r}: no such network; {own}", name=str(name), allowed=NETWORKS)
    return NETWORKS[name]


def network_arguments(settings: dict) -> dict:
    """Return the settings of a model that describe its network: `network` and its arguments.

    Raises:
        NetworkError: there is no such network.
    """
    accepted = _accepted(settings.get("network"))
    return {key: value for key, value in settings.items() if key in accepted or key not in OF_EVERY_MODEL}


def head_name(settings: dict) -> str | None:
    """Return the name of the head in the settings of a model; None if it has none."""
    head = settings.get("head")
    return head.get("name") if isinstance(head, Mapping) else None


def pretrained_name(arguments: dict) -> str | None:
    """Return torchvision's name of the network whose weights fit these `network_arguments`, or None."""
    if arguments["network"] == "shufflenet_v2":
        return shufflenet_v2_name(arguments["width"])
    if is_full_name(arguments["network"]):
        return None
    name = arguments.get("backbone", arguments.get("name"))
    return name if name in TORCHVISION_WEIGHTS and arguments["network"] != "timm" else None


def timm_name(arguments: dict) -> str | None:
    """Return timm's name of the network whose weights fit these `network_arguments`, perhaps with a tag, or None."""
    name = {"timm": arguments.get("name"), "truncated": arguments.get("backbone")}.get(arguments["network"])
    of_timm = arguments["network"] == "timm" or (name not in BACKBONES and name not in OWN)
    return name if name is not None and of_timm else None


def _accepted(network: str) -> list[str]:
    return [name for name in inspect.signature(find_network(network)).parameters if name != "num_classes"]
