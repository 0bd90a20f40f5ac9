"""Draw where the network looked over an image. H, W pixels as shown; h, w of the heat."""

import functools

import numpy as np
from PIL import Image

OPACITY = 0.55  # of the colors over the gray image


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Draw the heat (h, w) in colors over the gray image, scaled to its own largest value.

    Without any heat, all of it has the darkest color. Viridis rises evenly in lightness, and can be read without telling red
    from green (Nunez et al. 2018, PLoS ONE 13:e0199239, on such maps).
    """
    scaled = heat.astype(np.float32) / (float(heat.max()) or 1.0)
    scaled = np.asarray(Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR))  # (H, W)
    colors = viridis()[(scaled.clip(0, 1) * 255).round().astype(np.uint8)]  # (H, W, 3)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((OPACITY * colors + (1 - OPACITY) * gray).round().astype(np.uint8))


@functools.cache
def viridis() -> np.ndarray:
    """Return the colors, (256, 3) float32 of 0 to 255."""
    import matplotlib  # late: a second

    return (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.float32)
