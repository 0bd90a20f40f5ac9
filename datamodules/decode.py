"""From a file to pixels: the one place where pictures are opened, for training, prediction and export alike."""

import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = 200_000_000  # above this Pillow warns, which is an error here: a decompression bomb is refused
DRAFT_SIZE = 512  # big JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, not below this many pixels a side
DECODER = f"pillow {Image.__version__}, draft {DRAFT_SIZE}, exif, white behind alpha, bilinear, 2"  # of a store's key


class UnreadablePictureError(ValueError):
    """A file that is no picture, is cut off, is empty or is absurdly large."""


class Opened(NamedTuple):
    """A picture, and what its file holds."""

    image: Image.Image  # upright RGB
    size: tuple[int, int]  # width and height in the file
    mode: str  # Pillow's, in the file


def open_picture(path: Path, image_size: int = 0) -> Image.Image:
    """The upright RGB picture of a file; see `read_picture`."""
    return read_picture(path, image_size).image


def read_picture(path: Path, image_size: int = 0) -> Opened:
    """First frame, EXIF rotation applied, alpha over white, 16 bits scaled to 8.

    A big JPEG is decoded at a fraction of its size that is still twice `image_size`, and not below DRAFT_SIZE: a quarter of
    the time at 12 megapixels. (Its fingerprint is that of the reduced picture, the same for all sizes up to 256.)

    Raises:
        UnreadablePictureError: names the file and the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                size, mode = image.size, image.mode
                side = max(DRAFT_SIZE, 2 * image_size)
                image.draft(None, (side, side))
                image.load()
                return Opened(upright(image), size, mode)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        reason = "the file is empty" if path.is_file() and path.stat().st_size == 0 else _reason(error)
        raise UnreadablePictureError(f"{path}: not a readable picture ({reason})") from error


def upright(image: Image.Image) -> Image.Image:
    """RGB of an opened picture, turned as its EXIF says."""
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode that Pillow reads."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: int) -> Image.Image:
    """`size` x `size` pixels, bilinear with antialiasing; the sides are not kept in proportion, as in the study."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def fingerprint(image: Image.Image) -> str:
    """16 hex digits that name the picture's pixels and size, whatever its file is called."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "no known picture format" if text.startswith("cannot identify") else text
