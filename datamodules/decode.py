"""From a file to pixels: the one place where images are opened, for training, prediction and export alike."""

import hashlib
import os
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from common.errors import UserError

# The content of a file decides how it is read, whatever its name. Only these of Pillow's formats: others start programs
# (EPS) or draw (WMF). MPO, several JPEGs in one, is read by the reader of JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
Image.MAX_IMAGE_PIXELS = 200_000_000  # a decompression bomb is refused below; Pillow only warns up to twice of it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # once for all threads
DRAFT_SIZE = 512  # big JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, not below this many pixels a side
DECODER = f"pillow {Image.__version__}, draft {DRAFT_SIZE}, exif, white behind alpha, bilinear, 3"  # in a cache's key


class UnreadableImageError(UserError):
    """Name a file that is missing, empty, cut off, absurdly large or no image, and the reason."""


class DecodedFile(NamedTuple):
    """Hold an image and the size and mode of its file."""

    image: Image.Image  # upright RGB
    size: tuple[int, int]  # width and height in the file
    mode: str  # Pillow's, in the file


def open_image(path: Path, image_size: int = 0) -> Image.Image:
    """Return the upright RGB image of a file; see `read_image`."""
    return read_image(path, image_size).image


def read_image(path: Path, image_size: int = 0) -> DecodedFile:
    """Decode the first frame of a file: EXIF rotation applied, alpha over white, 16 bits scaled to 8.

    A big JPEG is decoded at a fraction of its size that is still twice `image_size`, and not below DRAFT_SIZE: a quarter of
    the time at 12 megapixels. (Its fingerprint is that of the reduced image, the same for all sizes up to 256.)

    Raises:
        UnreadableImageError: names the file and the reason.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 follows links; opening a pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file but a folder, pipe or device")
        if not status.st_size:
            raise ValueError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            size, mode = image.size, image.mode
            if size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{size[0]} x {size[1]} pixels, which exceeds limit of {Image.MAX_IMAGE_PIXELS:,}")
            side = max(DRAFT_SIZE, 2 * image_size)
            image.draft(None, (side, side))
            image.load()
            return DecodedFile(upright(image), size, mode)
    except Exception as error:  # the content of the file decides which one a reader of Pillow raises
        raise UnreadableImageError(f"{path}: not a readable image ({_reason(error, path)})") from error


def upright(image: Image.Image) -> Image.Image:
    """Convert an opened image to RGB, turned according to its EXIF."""
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode that Pillow reads to RGB.

    Raises:
        UserError: floating point pixels that are NaN.
    """
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel
        values = np.asarray(image, dtype=np.float64)
        if np.isnan(values).any():
            raise UserError("some of its pixels are NaN")
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class Placement(NamedTuple):
    """Hold which part of an image is used, and which part of the square it fills: (left, top, right, bottom) in pixels."""

    used: tuple[float, float, float, float]  # of the image
    filled: tuple[int, int, int, int]  # of the square; black around it


def place(width: int, height: int, size: int, fit: str) -> Placement:
    """Return how an image of this size becomes a square of `size` pixels a side.

    Args:
        fit: squash: all of it, the aspect ratio is not kept, as in the study; crop: the largest square in the center;
            pad: all of it in its aspect ratio, centered between black borders.
    """
    used, filled = (0, 0, width, height), (0, 0, size, size)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        used = (left, top, left + side, top + side)
    elif fit == "pad":
        longer = 2 * max(width, height)  # whole numbers only, so that an exported file rounds in the same way
        across, down = (max(1, (2 * size * length + longer // 2) // longer) for length in (width, height))
        left, top = (size - across) // 2, (size - down) // 2
        filled = (left, top, left + across, top + down)
    return Placement(used, filled)


def resize(image: Image.Image, size: int, fit: str = "squash") -> Image.Image:
    """Resize to `size` x `size` pixels, bilinear with antialiasing; `fit` is that of `place`."""
    if image.size == (size, size):
        return image
    used, (left, top, right, bottom) = place(*image.size, size, fit)
    resized = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=used)
    if resized.size == (size, size):
        return resized
    square = Image.new(image.mode, (size, size))
    square.paste(resized, (left, top))
    return square


def fingerprint(image: Image.Image) -> str:
    """Return 16 hex digits that name the image's pixels and size, whatever its file is called."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        missing = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        return missing if isinstance(error, FileNotFoundError) else error.strerror
    text = str(error) or type(error).__name__
    if text.startswith("cannot identify"):
        return f"no known image format; known are {', '.join(FORMATS)}"
    return text if isinstance(error, (OSError, ValueError, SyntaxError)) else f"{type(error).__name__}: {text}"
