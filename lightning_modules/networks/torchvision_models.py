"""The ready networks that the study compared, by torchvision's own names."""

from torch import nn
from torchvision import models

# name -> where torchvision keeps its ImageNet weights. An explicit list: a checkpoint names a network, never code.
TORCHVISION_WEIGHTS = {
    "shufflenet_v2_x0_5": models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1,
}


def torchvision_model(*, name: str, num_classes: int) -> nn.Module:
    """The named network with random weights and a last layer for `num_classes`.

    Raises:
        ValueError: a name that is not in the list.
    """
    if name not in TORCHVISION_WEIGHTS:
        raise ValueError(f"unknown backbone {name!r}; the backbones are {', '.join(sorted(TORCHVISION_WEIGHTS))}")
    return models.get_model(name, weights=None, num_classes=num_classes)
