"""Networks: plain torch modules, (B, 3, H, W) normalised pictures in, (B, K) logits out.

This package imports torch and torchvision alone, so that a network can be lifted out of the project.
"""

import inspect

from torch import nn

from .torchvision_models import TORCHVISION_WEIGHTS, torchvision_model
from .truncated import Truncated, truncated

# The only things that a config or a checkpoint can ask to be built.
NETWORKS = {
    "torchvision": torchvision_model,
    "truncated": truncated,
}

__all__ = ["NETWORKS", "TORCHVISION_WEIGHTS", "Truncated", "build_network", "torchvision_model", "truncated"]


def build_network(*, network: str, num_classes: int, **arguments) -> nn.Module:
    """Builds a network of the list by its name, with random weights.

    Raises:
        ValueError: not in the list, or arguments that it does not take.
    """
    if network not in NETWORKS:
        raise ValueError(f"model.network={network!r} is not one of this project's networks: {', '.join(NETWORKS)}")
    builder = NETWORKS[network]
    accepted = inspect.signature(builder).parameters
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise ValueError(f"model.{unknown[0]}: the network {network!r} takes {', '.join(accepted)}")
    return builder(num_classes=num_classes, **arguments)
