"""The networks that a config or a checkpoint can ask for, by name."""

import inspect

from torch import nn

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.shufflenet_v1 import shufflenet_v1
from lightning_modules.networks.simple_cnn import simple_cnn
from lightning_modules.networks.timm_models import timm_model
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS, torchvision_model
from lightning_modules.networks.truncated import truncated


def shufflenet_v2(*, width: float, num_classes: int) -> nn.Module:
    """Build torchvision's ShuffleNetV2 of one of its four widths.

    Raises:
        NetworkError: another width.
    """
    return torchvision_model(name=shufflenet_v2_name(width), num_classes=num_classes)


def shufflenet_v2_name(width: float) -> str:
    """Return torchvision's name of a width: 0.5 is shufflenet_v2_x0_5."""
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
OF_EVERY_MODEL = ("name", "weights", "freeze", "image_size")  # settings of conf/model that a network may not need


def build_network(*, network: str, num_classes: int, **arguments) -> nn.Module:
    """Build a network of NETWORKS by its name, with random weights.

    Raises:
        NetworkError: no such network, or arguments that it does not accept.
    """
    accepted = _accepted(network)
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        message = f"model.{unknown[0]}: unknown for the network {network!r}"
        raise NetworkError(message, name=unknown[0], allowed=accepted)
    return NETWORKS[network](num_classes=num_classes, **arguments)


def network_arguments(settings: dict) -> dict:
    """Return those settings of a model that describe its network: `network` and its arguments.

    Raises:
        NetworkError: no such network.
    """
    accepted = _accepted(settings["network"])
    return {key: value for key, value in settings.items() if key in accepted or key not in OF_EVERY_MODEL}


def pretrained_name(arguments: dict) -> str | None:
    """Return torchvision's name of the network whose weights fit these `network_arguments`, or None without any."""
    if arguments["network"] == "shufflenet_v2":
        return shufflenet_v2_name(arguments["width"])
    name = arguments.get("backbone", arguments.get("name"))
    return name if name in TORCHVISION_WEIGHTS and arguments["network"] != "timm" else None


def _accepted(network: str) -> list[str]:
    if not isinstance(network, str) or network not in NETWORKS:
        raise NetworkError(f"model.network={network!r}: no such network", name=str(network), allowed=NETWORKS)
    return [name for name in inspect.signature(NETWORKS[network]).parameters if name != "num_classes"]
