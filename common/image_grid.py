"""Draw many images in one with Pillow, since importing matplotlib would delay the first training step by a second."""

import base64
import io
import math
import textwrap
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.text import clean

CELL = 144  # pixels of an image's longer side
GAP = 8
TITLE = 18  # pixels of height
HEADING = 224  # pixels of width
BLACK = (20, 20, 20)

Titled = tuple[np.ndarray, str]


def rows_of_images(rows: list[tuple[str, list[Titled]]]) -> np.ndarray:
    """Draw rows of images with a title above each and a heading to the left, as (H, W, 3) uint8.

    Images are (H, W, 3) or (H, W), as uint8 or as floats from 0 to 1.
    """
    columns = max(len(images) for _, images in rows)
    margin = HEADING if any(heading for heading, _ in rows) else GAP
    height = TITLE + CELL + GAP
    sheet = Image.new("RGB", (margin + columns * (CELL + GAP), GAP + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (heading, images) in enumerate(rows):
        top = GAP + row * height
        lines = [part for line in heading.split("\n") for part in textwrap.wrap(clean(line), 30)]
        draw.multiline_text(
            (GAP, top + TITLE + CELL / 2), "\n".join(lines), fill=BLACK, font=font(13), anchor="lm", spacing=5
        )
        for column, (image, title) in enumerate(images):
            left = margin + column * (CELL + GAP)
            draw.text((left + CELL / 2, top + TITLE - 4), fit_title(title), fill=BLACK, font=font(11), anchor="ms")
            pixels = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
            small = thumbnail(Image.fromarray(pixels).convert("RGB"), CELL)
            sheet.paste(small, (left + (CELL - small.width) // 2, top + TITLE + (CELL - small.height) // 2))
    return np.asarray(sheet)


def grid(images: list[Titled]) -> np.ndarray:
    """Draw images in a roughly square grid, as (H, W, 3) uint8."""
    columns = math.ceil(math.sqrt(len(images)))
    return rows_of_images([("", images[start : start + columns]) for start in range(0, len(images), columns)])


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """Return the image with a longer side of `side` pixels; small images are enlarged so their pixels are visible."""
    scale = side / max(image.size)
    size = [max(round(length * scale), 1) for length in image.size]
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC)


def jpeg_base64(image: Image.Image) -> str:
    """Return a JPEG of the image in base64, for a page that embeds its images."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def fit_title(title: str) -> str:
    """Return the title as one line that fits above an image."""
    title = clean(title)
    while font(11).getlength(title) > CELL and len(title) > 1:
        title = title[:-2] + "…"
    return title


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans without importing matplotlib; Pillow's own font has only ASCII letters."""
    folder = Path(find_spec("matplotlib").origin).parent
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def encode_png(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()
