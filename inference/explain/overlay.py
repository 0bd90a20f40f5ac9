"""Images for a page: the image itself, and what is laid over it. H, W pixels as shown; h, w of the heat."""

import base64
import functools
import io

import numpy as np
from PIL import Image

SIDE = 256  # pixels, the longer side of a shown image
SMALL_SIDE = 112  # of a similar training image
OPACITY = 0.55  # of the colors over the gray image
QUALITY = 85


def fit_for_page(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The image in its own proportions: made smaller, or in whole steps larger where it has a few pixels."""
    longest = max(image.size)
    if longest > side:
        image = image.copy()
        image.thumbnail((side, side))
        return image
    times = side // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """The heat (h, w) in colors over the gray image, scaled to its own largest value.

    Where nothing speaks for the class, all of it has the darkest color. Viridis rises evenly in lightness, and can be read
    without telling red from green (Nunez et al. 2018, PLoS ONE 13:e0199239, on such maps).
    """
    largest = float(heat.max())
    share = heat.astype(np.float32) / (largest or 1.0)
    share = np.asarray(Image.fromarray(share).resize(image.size, Image.Resampling.BILINEAR))  # (H, W)
    colors = viridis()[(share.clip(0, 1) * 255).round().astype(np.uint8)]  # (H, W, 3)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((OPACITY * colors + (1 - OPACITY) * gray).round().astype(np.uint8))


@functools.cache
def viridis() -> np.ndarray:
    """(256, 3) float32, 0 to 255."""
    import matplotlib  # late: a second

    return (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.float32)


def encode_jpeg(image: Image.Image) -> str:
    """JPEG in base64."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="jpeg", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
