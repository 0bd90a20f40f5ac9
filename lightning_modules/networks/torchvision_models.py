"""The torchvision networks that the study compared, and the small ones, by torchvision's names."""

import functools

import torch
from torch import Tensor, nn
from torchvision import models

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.meta import build_anywhere

# Name -> torchvision's ImageNet weights. The list is explicit, so a checkpoint can name a network but never code.
TORCHVISION_WEIGHTS = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2,
    "shufflenet_v2_x0_5": models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x1_0": models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x1_5": models.ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1,
    "shufflenet_v2_x2_0": models.ShuffleNet_V2_X2_0_Weights.IMAGENET1K_V1,
    "mobilenet_v3_small": models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
    "mobilenet_v3_large": models.MobileNet_V3_Large_Weights.IMAGENET1K_V2,
    "mnasnet0_5": models.MNASNet0_5_Weights.IMAGENET1K_V1,
    "squeezenet1_1": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    "regnet_y_400mf": models.RegNet_Y_400MF_Weights.IMAGENET1K_V2,
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V2,
    "vgg16": models.VGG16_Weights.IMAGENET1K_V1,
    "vgg19": models.VGG19_Weights.IMAGENET1K_V1,
    "densenet121": models.DenseNet121_Weights.IMAGENET1K_V1,
}


def torchvision_model(*, name: str, num_classes: int) -> nn.Module:
    """Build the named network with random weights and a last layer for `num_classes`.

    Raises:
        NetworkError: the name is not in the list.
    """
    if name not in TORCHVISION_WEIGHTS:
        raise NetworkError(f"model.name={name}: unknown", name=name, allowed=TORCHVISION_WEIGHTS)
    built = build_anywhere(functools.partial(models.get_model, name, weights=None, num_classes=num_classes))
    for module in built.modules():
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size not in (1, (1, 1)):  # VGG's
            module.__class__ = RepeatablePool
    return built


class RepeatablePool(nn.AdaptiveAvgPool2d):
    """Average (B, C, H, W) to a map of another size, with gradients that have the same bits each time, even on a GPU.

    The gradients of torch's adaptive pooling do not, so `trainer.deterministic=true` refuses it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return pool_by_products(x, self.output_size) if x.is_cuda else super().forward(x)


def pool_by_products(x: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Return what torch's adaptive_avg_pool2d returns for (B, C, H, W), as two matrix products."""
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (_windows(n, size, x.device) for n, size in zip(output_size, x.shape[-2:], strict=True))
        return (rows @ x.float() @ columns.T).to(x.dtype)


def _windows(n: int, size: int, device: torch.device) -> Tensor:
    """Return (n, size): the weight of each place in the mean of each window; made on the device, for CUDA graphs."""
    index, place = torch.arange(n, device=device)[:, None], torch.arange(size, device=device)
    inside = (place >= index * size // n) & (place < -(-(index + 1) * size // n))
    return inside / inside.sum(1, keepdim=True)
