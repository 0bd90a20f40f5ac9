"""From a file to pixels: the one place where images are opened for training, prediction and export."""

import contextlib
import hashlib
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError
from common.untrusted.description import Fit, Interpolation
from datamodules import formats
from datamodules.deep_pixels import DeepPixels, ValueRange

# The content of a file decides how it is read, not its name. Only these formats of Pillow are used: others start programs
# (EPS) or draw (WMF). The JPEG reader also reads MPO, several JPEGs in one file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")
KNOWN = "JPEG, PNG, WebP, AVIF, HEIC, JPEG 2000, BMP, TIFF, GIF and DICOM"
Image.MAX_IMAGE_PIXELS = 200_000_000  # decompression bombs are refused below; Pillow only warns up to twice that
# Set once for all threads; damaged EXIF is treated as missing
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it also logs what it raises
DRAFT_SIZE = 512  # big JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, but not below this many pixels per side
DECODER = f"pillow {Image.__version__}, draft {DRAFT_SIZE}, exif, white behind alpha"  # part of a cache's key
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}  # with antialiasing
FIRST_OF_SEVERAL = ", first of several"  # appended to the mode of a file with several pages or frames


class UnreadableImageError(UserError):
    """Name a file that is missing, empty, cut off, absurdly large or not an image, with the reason."""


class DecodedImage(NamedTuple):
    """Hold an image and the size and mode of its file."""

    source: Image.Image | DeepPixels  # upright RGB, or values of more than 8 bits per channel
    size: tuple[int, int]  # width and height in the file
    mode: str  # Pillow's mode of the file, with FIRST_OF_SEVERAL if that applies

    def rgb(self, value_range: ValueRange | None = None, path: Path | str | None = None) -> Image.Image:
        """Return the image as upright RGB; `value_range` applies to more than 8 bits (see `DeepPixels.range_of`).

        Raises:
            UserError: the range is not known, or pixels are NaN; with `path` an UnreadableImageError that names it.
        """
        if isinstance(self.source, Image.Image):
            return self.source
        with contextlib.nullcontext() if path is None else _named(path):
            return to_rgb(self.source.to_image(*self.source.range_of(value_range)))

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the pixels and their size, independent of the file name and the range."""
        if isinstance(self.source, DeepPixels):
            return self.source.fingerprint()
        return fingerprint(self.source)


def open_image(path: Path, image_size: int = 0, value_range: ValueRange | None = None) -> Image.Image:
    """Return the upright RGB image of a file; see `read_image` and `DecodedImage.rgb`.

    Raises:
        UnreadableImageError: names the file and the reason.
    """
    return read_image(path, image_size).rgb(value_range, path)


def read_image(path: Path, image_size: int = 0) -> DecodedImage:
    """Decode the first frame of a file: turned upright by EXIF, alpha over white, more than 8 bits as values.

    A big JPEG is decoded at a fraction of its size that is at least twice `image_size` and DRAFT_SIZE, which takes a quarter
    of the time at 12 megapixels. (Its fingerprint is that of the reduced image, the same for all sizes up to 256.)

    Raises:
        UnreadableImageError: names the file and the reason.
    """
    with _named(path):
        status = os.stat(path)  # noqa: PTH116 follows links; opening a pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file but a folder, pipe or device")
        if not status.st_size:
            raise ValueError("the file is empty")
        with open(path, "rb") as file:  # noqa: PTH123
            header = file.read(formats.HEADER)
        return _read(path, formats.kind_of(header), image_size)


def read_content(content: bytes, name: str, image_size: int = 0) -> DecodedImage:
    """Return what `read_image` returns, for the content of a file; `name` is for messages.

    Raises:
        UnreadableImageError: has the name and the reason.
    """
    with _named(name):
        if not content:
            raise ValueError("it is empty")
        return _read(content, formats.kind_of(content[: formats.HEADER]), image_size)


def _read(source: Path | bytes, kind: str | None, image_size: int) -> DecodedImage:
    """Read the first frame of a file, or of its content."""
    if kind == "dicom":
        return _of_deep(formats.read_dicom(source), "DICOM")
    if kind == "heif":
        formats.register_heif()
    compression = None
    try:
        with Image.open(formats.stream(source), formats=("HEIF",) if kind == "heif" else FORMATS) as image:
            compression = image.info.get("compression")
            return _read_opened(image, source, image_size)
    except Exception as error:  # the content of the file decides which one
        is_unknown = isinstance(error, (UnidentifiedImageError, ValueError)) or compression == "webp"
        if kind == "tiff" and is_unknown:  # a layout that Pillow does not know, or a compression that its libtiff lacks
            return _of_deep(formats.read_tiff(source), "TIFF")
        if kind != "png":
            raise
    return _read_damaged_png(source, image_size)


def _read_damaged_png(source: Path | bytes, image_size: int) -> DecodedImage:
    """Read a PNG that is damaged outside its pixels, such as in a text or a color profile.

    Raises:
        ValueError: its pixels are damaged.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    pixels_only = formats.without_side_chunks(content)
    try:
        with Image.open(io.BytesIO(pixels_only or content), formats=("PNG",)) as image:
            return _read_opened(image, pixels_only or content, image_size)
    except UnidentifiedImageError as error:
        raise ValueError("a damaged PNG") from error


def _read_opened(image: Image.Image, source: Path | bytes, image_size: int) -> DecodedImage:
    size, mode = image.size, image.mode
    formats.check_pixels(*size)
    if formats.has_deep_color(image):
        deep = formats.read_deep_color(image, source)  # before the EXIF, since Pillow decodes a PNG to read that
        several = _is_first_of_several(image, source)
        return _of_deep(replace(deep, turn=_turn(image), is_first_of_several=several), f"{mode};16")
    side = max(DRAFT_SIZE, 2 * image_size)
    image.draft(None, (side, side))
    _load(image)
    if formats.has_deep_gray(image):
        deep = formats.read_deep_gray(image, source)
        several = _is_first_of_several(image, source)
        return _of_deep(replace(deep, turn=_turn(image), is_first_of_several=several), mode)
    pixels = upright(image)
    several = _is_first_of_several(image, source)  # after reading the pixels, since this seeks in a GIF
    return DecodedImage(pixels, size, mode + FIRST_OF_SEVERAL * several)


def _is_first_of_several(image: Image.Image, source: Path | bytes) -> bool:
    """Return whether a file has more pages or frames, not counting extra images of a phone's photo and smaller versions."""
    try:
        if image.format == "MPO" or not getattr(image, "is_animated", False):
            return False
        return image.format != "TIFF" or formats.has_further_pages(source)
    except Exception:  # the second one is damaged
        return True


def _of_deep(deep: DeepPixels, mode: str) -> DecodedImage:
    """Return a decoded image; values that turn out to be bytes become an ordinary RGB image."""
    mode += FIRST_OF_SEVERAL * deep.is_first_of_several
    if deep.values.dtype == np.uint8 and deep.stated in (None, (0.0, 255.0)):
        return DecodedImage(to_rgb(deep.to_image(0, 255)), deep.size, mode)
    return DecodedImage(deep, deep.size, mode)


def decode_pixels(image: Image.Image | np.ndarray) -> DecodedImage:
    """Return what `read_image` returns, for a PIL image or an array in memory: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        UserError: the array is not an image, or has no pixels.
    """
    if isinstance(image, Image.Image):
        if not image.width or not image.height:
            raise UserError(f"an image of {image.width} x {image.height} pixels cannot be used")
        if not formats.has_deep_color(image) and not formats.has_deep_gray(image):
            return DecodedImage(upright(image), image.size, image.mode)
        return _read_opened(image, _content(image), 0)
    array = np.asarray(image)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise UserError(
            f"an image of shape {array.shape} and {array.dtype} cannot be used; arrays are (H, W), (H, W, 3) in the order "
            "RGB or (H, W, 4), tensors (3, H, W); uint8 from 0 to 255, or values of more bits like those of the training"
        )
    if array.dtype == np.uint8 and channels == 4:  # same result as for the PIL image, even if alpha is constant
        return decode_pixels(Image.fromarray(array))
    return _of_deep(DeepPixels(array, has_alpha=channels == 4), f"{array.dtype}")


def _content(image: Image.Image) -> Path | bytes:
    """Return the file that a PIL image was opened from, or its content: Pillow itself keeps only 8 of 16 bits of color.

    Raises:
        UserError: the image was decoded already.
    """
    if getattr(image, "filename", "") and Path(image.filename).is_file():
        return Path(image.filename)
    if getattr(image, "fp", None) is not None:
        place = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(place)
        return content
    if formats.has_deep_color(image):
        raise UserError(
            "a PIL image of 16-bit color that Pillow has already decoded to 8 bits; give its path or its array"
        )
    return b""


def upright(image: Image.Image) -> Image.Image:
    """Convert an opened image to RGB, turned according to its EXIF."""
    _load(image)
    turn = _turn(image)
    image = to_rgb(image if turn is None else image.transpose(turn))
    image.info = {}  # removes the EXIF, which has been applied
    return image


def _load(image: Image.Image) -> None:
    """Load an opened image before its EXIF is read: Pillow itself turns a TIFF while loading it, and removes the tag.

    Given a file name, Pillow maps the pixels of an uncompressed TIFF as if they were turned already; without, it reads them.
    """
    name = getattr(image, "filename", "")
    if image.format == "TIFF" and name:
        image.filename = ""
    image.load()
    if name:
        image.filename = name


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn an image upright; None if its EXIF is damaged, since most software ignores that too."""
    try:
        return formats.TURNS.get(image.getexif().get(formats.ORIENTATION))
    except Exception:  # the content of the block decides which one
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits per channel to RGB, alpha over white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class Placement(NamedTuple):
    """Hold which part of an image is used, and which part of the square it fills: (left, top, right, bottom) in pixels."""

    used: tuple[float, float, float, float]  # of the image
    filled: tuple[int, int, int, int]  # of the square; black around it


def place(width: int, height: int, size: int, fit: str) -> Placement:
    """Return how an image of this size becomes a square of `size` pixels per side.

    Args:
        fit: squash: the whole image without keeping its aspect ratio, as in the study; crop: the largest square in the center;
            pad: the whole image in its aspect ratio, centered between black borders.
    """
    used, filled = (0, 0, width, height), (0, 0, size, size)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        used = (left, top, left + side, top + side)
    elif fit == "pad":
        longer = 2 * max(width, height)  # whole numbers only, so an exported file rounds the same way
        across, down = (max(1, (2 * size * length + longer // 2) // longer) for length in (width, height))
        left, top = (size - across) // 2, (size - down) // 2
        filled = (left, top, left + across, top + down)
    return Placement(used, filled)


def resize(
    image: Image.Image, size: int, fit: Fit = "squash", interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Resize to `size` x `size` pixels with antialiasing; `fit` is that of `place`."""
    if image.size == (size, size):
        return image
    used, (left, top, right, bottom) = place(*image.size, size, fit)
    resized = image.resize((right - left, bottom - top), RESAMPLING[interpolation], box=used)
    if resized.size == (size, size):
        return resized
    square = Image.new(image.mode, (size, size))
    square.paste(resized, (left, top))
    return square


def fingerprint(image: Image.Image) -> str:
    """Return 16 hex digits that identify the image's pixels and size, independent of the file name."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Name the file in any error while it is read; its content decides which error a reader raises."""
    try:
        yield
    except Exception as error:
        raise UnreadableImageError(f"{path}: not a readable image ({_reason(error, path)})") from error


def _reason(error: Exception, path: Path | str) -> str:
    if isinstance(error, OSError) and error.errno is not None and isinstance(path, Path):
        if not isinstance(error, FileNotFoundError):
            return error.strerror
        return "a link to a file that does not exist" if path.is_symlink() else "no such file"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"\d+", str(error))[0]  # the limit that the text of an error gives is twice the real one
        return f"{int(pixels):,} pixels, which exceeds the limit of {Image.MAX_IMAGE_PIXELS:,}"
    if isinstance(error, UnidentifiedImageError):
        return f"not a known image format; known are {KNOWN}"
    text = str(error) or type(error).__name__
    return text if isinstance(error, (OSError, ValueError, SyntaxError)) else f"{type(error).__name__}: {text}"
