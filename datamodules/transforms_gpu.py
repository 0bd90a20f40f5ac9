"""Augmentation of a whole batch on the device, with separate parameters for each image.

Shapes: B batch, H = W pixels.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from datamodules.transforms import AugmentationParams

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


@torch.no_grad()
def apply_to_batch(pixels: Tensor, params: "AugmentationParams", jitter: bool, crop: bool = False) -> Tensor:
    """Augment (B, 3, H, W) uint8 to (B, 3, H, W) float from 0 to 255; equals `Augmentation.apply` up to rounding.

    Args:
        params: each (B,), float, on the device.
        jitter: whether there is color jitter; reading that from the parameters would wait for the device.
        crop: whether boxes are cropped.
    """
    x = pixels.float()
    if crop:  # a separate map, since it is bilinear and the other one takes the nearest pixel, as on the CPU
        x = F.grid_sample(x, _crop_grid(params, x), mode="bilinear", padding_mode="border", align_corners=False)
    x = F.grid_sample(x, _grid(params, x), mode="nearest", padding_mode="zeros", align_corners=False)
    if jitter:
        factors = (params.brightness, params.contrast, params.saturation)
        x = _jitter(x, *(factor.view(-1, 1, 1, 1) for factor in factors))
    return x * ~_erased(params, x)


def _grid(params: "AugmentationParams", x: Tensor) -> Tensor:
    """Return (B, H, W, 2), where each pixel comes from: flips first, then the rotation, in one map."""
    angle = torch.deg2rad(params.angle_degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    across, down = 1 - 2 * params.horizontal_flip, 1 - 2 * params.vertical_flip
    theta = torch.stack([across * cos, -across * sin, zero, down * sin, down * cos, zero], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _crop_grid(params: "AugmentationParams", x: Tensor) -> Tensor:
    """Return (B, H, W, 2), where in its box each pixel comes from."""
    size, zero = x.shape[-1], torch.zeros_like(params.crop_top)
    width = torch.where(params.crop_width > 0, params.crop_width, size)
    height = torch.where(params.crop_height > 0, params.crop_height, size)
    across, down = (2 * params.crop_left + width) / size - 1, (2 * params.crop_top + height) / size - 1
    theta = torch.stack([width / size, zero, across, zero, height / size, down], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    weights = torch.tensor(GRAY, device=x.device).view(1, 3, 1, 1)
    x = (x * brightness).clamp(0, 255)
    mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 255)
    gray = (x * weights).sum(1, keepdim=True)
    return (gray + (x - gray) * saturation).clamp(0, 255)


def _erased(params: "AugmentationParams", x: Tensor) -> Tensor:
    """Return (B, 1, H, W), whether a pixel lies in the erased rectangle."""
    steps = torch.arange(x.shape[-1], device=x.device)

    def inside(start: Tensor, length: Tensor) -> Tensor:  # (B,) and (B,) to (B, H)
        return (steps >= start[:, None]) & (steps < (start + length)[:, None])

    rows, columns = inside(params.erased_top, params.erased_height), inside(params.erased_left, params.erased_width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
