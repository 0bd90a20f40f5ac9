"""Augmentation of one picture on the processor: uint8 in, uint8 out, in the study's order.

Geometry is Pillow's, which is ten times as fast on uint8 as tensors. Every draw comes from a generator that the data
module makes from (seed, epoch, row), so that a picture looks the same on any number of workers and processes.
"""

import math

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

# torchvision.transforms.RandomErasing's own: share of the area erased, and its width to height
ERASING_SCALE = (0.02, 0.33)
ERASING_RATIO = (0.3, 3.3)
ERASING_TRIES = 10


class Augmentation:
    """Flips, rotation, colour jitter, erasing. Zero turns a step off.

    Args:
        horizontal_flip: probability of a flip left to right.
        vertical_flip: probability of a flip upside down.
        rotation_degrees: drawn evenly from plus to minus this, nearest neighbour, black corners.
        color_jitter: brightness, contrast and saturation are scaled by factors drawn from 1 - j to 1 + j.
        erasing: probability that a rectangle becomes black, which is before normalisation, as in the study.
    """

    def __init__(
        self,
        *,
        horizontal_flip: float,
        vertical_flip: float,
        rotation_degrees: float,
        color_jitter: float,
        erasing: float,
    ):
        for name, value, top in (
            ("horizontal_flip", horizontal_flip, 1),
            ("vertical_flip", vertical_flip, 1),
            ("rotation_degrees", rotation_degrees, 180),
            ("color_jitter", color_jitter, 1),
            ("erasing", erasing, 1),
        ):
            if not 0 <= value <= top:
                raise ValueError(f"augmentation.{name}={value}: use 0 to {top}")
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.rotation_degrees = rotation_degrees
        self.color_jitter = color_jitter
        self.erasing = erasing

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A new (H, W, 3) uint8 array, or `pixels` itself where nothing was drawn."""
        if self.horizontal_flip and generator.random() < self.horizontal_flip:
            pixels = pixels[:, ::-1]
        if self.vertical_flip and generator.random() < self.vertical_flip:
            pixels = pixels[::-1]
        if self.rotation_degrees:
            angle = generator.uniform(-self.rotation_degrees, self.rotation_degrees)
            pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).rotate(angle))
        if self.color_jitter:
            pixels = jitter(pixels, generator.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3))
        if self.erasing and generator.random() < self.erasing:
            pixels = erase(pixels, generator)
        return pixels


def jitter(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation scaled by three factors; 1 changes nothing."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for adjust, factor in zip((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True):
        image = adjust(image, factor)
    return np.asarray(image)


def erase(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A copy with one black rectangle (Zhong et al. 2017, arXiv:1708.04896, algorithm 1)."""
    height, width = pixels.shape[:2]
    for _ in range(ERASING_TRIES):
        area = height * width * generator.uniform(*ERASING_SCALE)
        ratio = math.exp(generator.uniform(math.log(ERASING_RATIO[0]), math.log(ERASING_RATIO[1])))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
            pixels = pixels.copy()
            pixels[top : top + h, left : left + w] = 0
            return pixels
    return pixels
