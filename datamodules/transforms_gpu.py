"""What was drawn for each image of a batch, applied on the device in a few operations for all of them.

Shapes: B batch, H = W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.transforms import AugmentationParams

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


@torch.no_grad()
def apply_on_device(pixels: Tensor, drawn: Tensor, jitter: bool) -> Tensor:
    """(B, 3, H, W) uint8 and draws (B, len(Draw)) to (B, 3, H, W) float of 0 to 255; as `augmentation.apply` to rounding.

    Whether there is color jitter is told, not looked up: a look at the draws would wait for the device.
    """
    draw = AugmentationParams(*drawn.to(pixels.device, torch.float32).unbind(1))
    x = pixels.float()
    x = F.grid_sample(x, _grid(draw, x), mode="nearest", padding_mode="zeros", align_corners=False)
    if jitter:
        x = _jitter(x, *(factor.view(-1, 1, 1, 1) for factor in (draw.brightness, draw.contrast, draw.saturation)))
    return x * ~_erased(draw, x)


def _grid(draw: AugmentationParams, x: Tensor) -> Tensor:
    """Where each pixel comes from: flips first, then the rotation, in one map."""
    angle = torch.deg2rad(draw.angle_degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    across, down = 1 - 2 * draw.horizontal_flip, 1 - 2 * draw.vertical_flip
    theta = torch.stack([across * cos, -across * sin, zero, down * sin, down * cos, zero], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    weights = torch.tensor(GRAY, device=x.device).view(1, 3, 1, 1)
    x = (x * brightness).clamp(0, 255)
    mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 255)
    gray = (x * weights).sum(1, keepdim=True)
    return (gray + (x - gray) * saturation).clamp(0, 255)


def _erased(draw: AugmentationParams, x: Tensor) -> Tensor:
    """(B, 1, H, W) whether a pixel lies in the erased rectangle."""
    steps = torch.arange(x.shape[-1], device=x.device)

    def inside(start: Tensor, length: Tensor) -> Tensor:  # (B,) and (B,) to (B, H)
        return (steps >= start[:, None]) & (steps < (start + length)[:, None])

    rows, columns = inside(draw.erased_top, draw.erased_height), inside(draw.erased_left, draw.erased_width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
