"""The ready networks that the study compared, by torchvision's own names."""

import difflib

from torch import nn
from torchvision import models

# name -> where torchvision keeps its ImageNet weights. An explicit list: a checkpoint names a network, never code.
TORCHVISION_WEIGHTS = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2,
    "shufflenet_v2_x0_5": models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x1_0": models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x1_5": models.ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x2_0": models.ShuffleNet_V2_X2_0_Weights.IMAGENET1K_V1,
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V2,
    "vgg16": models.VGG16_Weights.IMAGENET1K_V1,
    "vgg19": models.VGG19_Weights.IMAGENET1K_V1,
    "densenet121": models.DenseNet121_Weights.IMAGENET1K_V1,
}


def unknown(setting: str, name: str, allowed: list[str]) -> str:
    """A message for a name that is not in a list: the nearest names first."""
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.4)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{setting}: unknown; {meant}Allowed: {', '.join(allowed)}"


def torchvision_model(*, name: str, num_classes: int) -> nn.Module:
    """The named network with random weights and a last layer for `num_classes`.

    Raises:
        ValueError: a name that is not in the list.
    """
    if name not in TORCHVISION_WEIGHTS:
        raise ValueError(unknown(f"model.name={name}", name, list(TORCHVISION_WEIGHTS)))
    return models.get_model(name, weights=None, num_classes=num_classes)
