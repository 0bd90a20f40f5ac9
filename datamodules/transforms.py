"""Augmentation: draw its random parameters for an image, and apply them on the CPU in the study's order.

Parameters come from a generator that the data set makes from (seed, epoch, row), so an image looks the same on any number of
workers and processes. On the CPU Pillow does the geometry, ten times as fast on uint8 as tensors; on a GPU the same parameters
are applied to whole batches. transform_list.py does the same for any other transforms.

Shapes: B batch, H = W pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as pillow

from common.checks import check_between
from common.errors import UserError

# As in torchvision.transforms.RandomErasing: share of the area that is erased, and its height to width
ERASING_SCALE = (0.02, 0.33)
ERASING_RATIO = (0.3, 3.3)
ERASING_TRIES = 10
CROP_RATIO = (3 / 4, 4 / 3)  # width to height, as in torchvision.transforms.RandomResizedCrop
CROP_TRIES = 10
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow
FLIPS = {  # horizontal, vertical
    (False, False): None,
    (True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (True, True): Image.Transpose.ROTATE_180,
}


class AugmentationParams(NamedTuple):
    """Hold the augmentation of one image as plain numbers."""

    horizontal_flip: float = 0.0  # 1 or 0
    vertical_flip: float = 0.0
    angle_degrees: float = 0.0  # counter-clockwise
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    erased_top: float = 0.0  # a rectangle in pixels; height 0 if nothing is erased
    erased_left: float = 0.0
    erased_height: float = 0.0
    erased_width: float = 0.0
    crop_top: float = 0.0  # a box in fractional pixels that becomes the image; height 0 if nothing is cropped
    crop_left: float = 0.0
    crop_height: float = 0.0
    crop_width: float = 0.0


@dataclass(kw_only=True, eq=False)
class Augmentation:
    """Crop, flip, rotate, jitter colors and erase at random, in this order. Zero turns a step off.

    Args:
        horizontal_flip: probability of a flip left to right.
        vertical_flip: probability of a flip upside down.
        rotation_degrees: the angle is uniform between minus and plus this; nearest neighbor, black corners.
        color_jitter: j; brightness, contrast and saturation are scaled by factors drawn from 1 - j to 1 + j.
        erasing: probability that a rectangle becomes black, before normalization, as in the study.
        crop_scale: smallest and largest share of the area for the box that becomes the whole image (bilinear, Szegedy et al.
            2015, arXiv:1409.4842); None for no crop.
    """

    horizontal_flip: float
    vertical_flip: float
    rotation_degrees: float
    color_jitter: float
    erasing: float
    crop_scale: list[float] | None = None

    on_device = True  # when training on a GPU, whole batches are augmented there

    def __post_init__(self):
        for name in ("horizontal_flip", "vertical_flip", "rotation_degrees", "color_jitter", "erasing"):
            check_between(f"augmentation.{name}", getattr(self, name), 0, 180 if name == "rotation_degrees" else 1)
        scale = self.crop_scale
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
            raise UserError(
                f"augmentation.crop_scale={list(scale)}: use two shares of the area, e.g. [0.35,1], or null for none"
            )

    @property
    def changes_nothing(self) -> bool:
        """Whether images stay as they are."""
        steps = (self.horizontal_flip, self.vertical_flip, self.rotation_degrees, self.color_jitter, self.erasing)
        return not any(steps) and self.crop_scale is None

    def draw(self, size: int, generator: np.random.Generator) -> AugmentationParams:
        """Draw the parameters for an image of `size` pixels per side."""
        drawn = {}
        if self.horizontal_flip:
            drawn["horizontal_flip"] = float(generator.random() < self.horizontal_flip)
        if self.vertical_flip:
            drawn["vertical_flip"] = float(generator.random() < self.vertical_flip)
        if self.rotation_degrees:
            drawn["angle_degrees"] = generator.uniform(-self.rotation_degrees, self.rotation_degrees)
        if self.color_jitter:
            factors = generator.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3)
            drawn |= dict(zip(("brightness", "contrast", "saturation"), factors, strict=True))
        if self.erasing and generator.random() < self.erasing:
            drawn |= draw_rectangle(size, generator)
        if self.crop_scale is not None:  # last, so the other draws are the same with and without a crop
            drawn |= draw_box(size, self.crop_scale, generator)
        return AugmentationParams(**drawn)

    def check(self, size: int, device: torch.device) -> None:
        """Do nothing: the constructor has checked everything."""

    @staticmethod
    def apply(pixels: np.ndarray, params: AugmentationParams) -> np.ndarray:
        """Augment (H, W, 3) uint8 on the CPU."""
        flip = FLIPS[bool(params.horizontal_flip), bool(params.vertical_flip)]
        jitter = (params.brightness, params.contrast, params.saturation) != (1, 1, 1)
        geometry = flip is not None or params.angle_degrees or params.crop_height
        if geometry or jitter:  # Pillow copies in and out once for all steps
            image = Image.fromarray(pixels)
            if params.crop_height:
                left, top = params.crop_left, params.crop_top
                right, lower = left + params.crop_width, top + params.crop_height
                box = (left, top, min(right, image.width), min(lower, image.height))  # Pillow refuses a last bit more
                image = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
            image = image if flip is None else image.transpose(flip)
            image = image.rotate(params.angle_degrees)
            if jitter:
                image = pillow.adjust_contrast(pillow.adjust_brightness(image, params.brightness), params.contrast)
                image = pillow.adjust_saturation(image, params.saturation)
            pixels = np.asarray(image)
        if params.erased_height:
            top, left = int(params.erased_top), int(params.erased_left)
            pixels = pixels.copy()
            pixels[top : top + int(params.erased_height), left : left + int(params.erased_width)] = 0
        return pixels

    @torch.no_grad()
    def apply_on_device(self, pixels: Tensor, params: Tensor) -> Tensor:
        """Augment (B, 3, H, W) uint8 by params (B, len(AugmentationParams)); return floats from 0 to 255.

        Equals `apply` up to rounding. What is turned off is read from the settings: reading the parameters would wait for the
        device.
        """
        drawn, x = AugmentationParams(*params.to(pixels.device, torch.float32).unbind(1)), pixels.float()  # each (B,)
        if self.crop_scale is not None:  # bilinear, while the other map takes the nearest pixel, as on the CPU
            x = F.grid_sample(x, _crop_grid(drawn, x), mode="bilinear", padding_mode="border", align_corners=False)
        x = F.grid_sample(x, _grid(drawn, x), mode="nearest", padding_mode="zeros", align_corners=False)
        if self.color_jitter:
            factors = (drawn.brightness, drawn.contrast, drawn.saturation)
            x = _jitter(x, *(factor.view(-1, 1, 1, 1) for factor in factors))
        return x * ~_erased(drawn, x)


def draw_box(size: int, scale: list[float], generator: np.random.Generator) -> dict[str, float]:
    """Draw a box like torchvision's RandomResizedCrop, but in fractional pixels; nothing if none fits in ten tries."""
    for _ in range(CROP_TRIES):
        area = size * size * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
        if height <= size and width <= size:
            top, left = generator.uniform(0, size - height), generator.uniform(0, size - width)
            return {"crop_top": top, "crop_left": left, "crop_height": height, "crop_width": width}
    return {}


def draw_rectangle(size: int, generator: np.random.Generator) -> dict[str, float]:
    """Draw the rectangle of Zhong et al. 2017, arXiv:1708.04896, algorithm 1; nothing if none fits in ten tries."""
    for _ in range(ERASING_TRIES):
        area = size * size * generator.uniform(*ERASING_SCALE)
        ratio = math.exp(generator.uniform(math.log(ERASING_RATIO[0]), math.log(ERASING_RATIO[1])))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            top, left = generator.integers(size - height + 1), generator.integers(size - width + 1)
            return {"erased_top": top, "erased_left": left, "erased_height": height, "erased_width": width}
    return {}


def _grid(params: AugmentationParams, x: Tensor) -> Tensor:
    """Return (B, H, W, 2), where each pixel comes from: flips first, then the rotation, in one map."""
    angle = torch.deg2rad(params.angle_degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    across, down = 1 - 2 * params.horizontal_flip, 1 - 2 * params.vertical_flip
    theta = torch.stack([across * cos, -across * sin, zero, down * sin, down * cos, zero], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _crop_grid(params: AugmentationParams, x: Tensor) -> Tensor:
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


def _erased(params: AugmentationParams, x: Tensor) -> Tensor:
    """Return (B, 1, H, W), whether a pixel lies in the erased rectangle."""
    steps = torch.arange(x.shape[-1], device=x.device)

    def inside(start: Tensor, length: Tensor) -> Tensor:  # (B,) and (B,) to (B, H)
        return (steps >= start[:, None]) & (steps < (start + length)[:, None])

    rows, columns = inside(params.erased_top, params.erased_height), inside(params.erased_left, params.erased_width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
