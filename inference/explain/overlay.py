"""Draw where the network looked over an image; H x W pixels of the drawing, h x w positions of the heat."""

import functools

import numpy as np
from PIL import Image

from datamodules.decode import place

OPACITY = 0.55  # of the colors over the gray image


def overlay(image: Image.Image, heat: np.ndarray, image_size: int, fit: str = "squash") -> Image.Image:
    """Draw heat (h, w), scaled to its largest value, in colors over the part of the gray image that the network saw.

    `image_size` and `fit` describe the network's input, which the heat covers; heat over black borders is not shown. If there
    is no heat, that part has the darkest color. Viridis rises evenly in lightness, and can be read without telling red from
    green (Nunez et al. 2018, PLoS ONE 13:e0199239).
    """
    used, filled = place(*image.size, image_size, fit)
    left, top, right, bottom = map(round, used)
    right, bottom = max(left + 1, right), max(top + 1, bottom)  # of a very long image, less than a pixel is seen
    rows, columns = heat.shape
    box = [edge * length / image_size for edge, length in zip(filled, (columns, rows) * 2, strict=True)]
    scaled = Image.fromarray(heat.astype(np.float32) / (float(heat.max()) or 1.0))
    scaled = np.asarray(scaled.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box))
    colors = viridis()[(scaled.clip(0, 1) * 255).round().astype(np.uint8)]  # (H, W, 3), of what was used
    drawn = np.repeat(np.asarray(image.convert("L"), np.float32)[..., None], 3, axis=2)
    seen = drawn[top:bottom, left:right]
    seen[:] = OPACITY * colors + (1 - OPACITY) * seen
    return Image.fromarray(drawn.round().astype(np.uint8))


@functools.cache
def viridis() -> np.ndarray:
    """Return the colors, (256, 3) float32 of 0 to 255."""
    import matplotlib  # late: a second

    return (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.float32)
