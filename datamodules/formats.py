"""Read files that Pillow cannot read, or reads in part: 16-bit color, TIFF of any number type, DICOM; and HEIC, by a plugin."""

import contextlib
import functools
import io
import itertools
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from datamodules.deep_pixels import DeepPixels

OPTIONAL_READERS = ("pillow_heif", "pydicom", "imagecodecs")  # of the extras heif, dicom and tiff
TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
OTHER_BYTE = {";16L": ";16B", ";16B": ";16L", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 284, 338, 339  # tags of TIFF
ORIENTATION = 0x0112  # tag of EXIF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
HEADER = 132  # bytes at the start of a file that show its format
MOST_CHANNELS = 4
PREMULTIPLIED = 1  # value of TIFF's ExtraSamples: alpha with which the colors are multiplied
ALPHA = (PREMULTIPLIED, 2)  # values that mean alpha
OF_ANOTHER_PAGE = 0b101  # bits of TIFF's NewSubfileType: a smaller version of another page, a mask of another page
FLOATS = ("FloatPixelData", "DoubleFloatPixelData")  # DICOM's parametric maps, which do not state their bits
OWN_UNITS, OWN_WINDOW = "PixelValueTransformationSequence", "FrameVOILUTSequence"  # of a DICOM frame
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")  # PNG chunks that the pixels depend on
PNG_HEADER = b"\x89PNG\r\n\x1a\n"


def kind_of(header: bytes) -> str | None:
    """Return `dicom`, `heif`, `png` or `tiff` according to the first bytes of a file; None for other formats."""
    if header[128:132] == b"DICM":
        return "dicom"
    if header[4:8] == b"ftyp" and header[8:12] in HEIF_BRANDS and b"avif" not in header[8:64]:
        return "heif"
    if header[:8] == PNG_HEADER:
        return "png"
    return "tiff" if header[:4] in TIFF_HEADERS else None


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Turn a failed import inside into a UserError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise UserError(f'{what}, which needs another package: pip install -e ".[{extra}]"') from error


@functools.cache
def register_heif() -> None:
    """Register the plugin with which Pillow reads HEIC."""
    with needs_extra("a HEIC image", "heif"):
        from pillow_heif import register_heif_opener
    register_heif_opener()


def has_deep_color(image: Image.Image) -> bool:
    """Return whether Pillow would read only part of a file's values: color of 16 bits per channel, or signed bytes.

    Also for premultiplied alpha in a plane of its own, by which Pillow does not divide. For CMYK, which is for print and uses
    all of its range, the upper 8 bits are enough.
    """
    if has_deep_gray(image) or image.mode == "CMYK":
        return False
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
        in_planes = image.tag_v2.get(PLANAR) == 2 and image.tag_v2.get(EXTRA_SAMPLES, ())[:1] == (PREMULTIPLIED,)
        return (len(bits) > 1 and max(bits) > 8) or is_signed(image) or in_planes
    return image.format == "PNG" and any(";16" in str(tile.args) for tile in image.tile)


def is_signed(image: Image.Image) -> bool:
    """Return whether a TIFF holds signed bytes, which Pillow takes for unsigned ones."""
    is_bytes = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) <= 8
    return is_bytes and 2 in image.tag_v2.get(SAMPLE_FORMAT, (1,))


def has_deep_gray(image: Image.Image) -> bool:
    """Return whether an opened file has gray values of 16 or 32 bits."""
    return image.mode.startswith(("I", "F"))


def read_deep_gray(image: Image.Image, source: Path | bytes) -> DeepPixels:
    """Return the values of a file that Pillow has opened as 16 or 32 bits, with the range that its format states."""
    values, stated = np.asarray(image), None
    if image.format == "TIFF":
        tags = image.tag_v2
        bits, is_unsigned = tags.get(BITS_PER_SAMPLE, (0,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 1
        if bits == 32 and is_unsigned and image.mode == "I":
            values = values.view(np.uint32)
        if 8 < bits < 16:
            stated = (0.0, 2.0**bits - 1)
        if tags.get(PHOTOMETRIC) == 0:  # white is zero
            return DeepPixels(values, stated, inverted=True)
    if image.format == "JPEG2000" and _jpeg2000_bits(source) < 16:
        stated = (0.0, 65535.0)  # the range to which Pillow has scaled the values
    return DeepPixels(values, stated)


def _jpeg2000_bits(source: Path | bytes) -> int:
    """Return the number of bits per sample, from the marker SIZ of the codestream (ITU-T T.800, A.5.1)."""
    if not isinstance(source, bytes):
        with source.open("rb") as file:
            source = file.read(2**16)
    start = source.find(b"\xff\x4f\xff\x51", 0, 2**16)
    return (source[start + 42] & 0x7F) + 1 if 0 <= start < len(source) - 42 else 16


def read_deep_color(image: Image.Image, source: Path | bytes) -> DeepPixels:
    """Read color of 16 bits per channel from an opened file. Pillow decodes only 8 bits: first the upper, then the lower ones.

    Pillow's raw mode names the byte order, so it decodes the upper byte; with the opposite byte order it decodes the lower.

    Args:
        source: path or content of the file.

    Raises:
        UserError: the image is decoded already, so its lower bits are lost.
    """
    if image.format == "TIFF" and (
        is_signed(image) or len(image.tag_v2.get(BITS_PER_SAMPLE, ())) != len(image.getbands())
    ):
        return read_tiff(source, image.tell())
    raw_modes = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile}
    if raw_modes == {"LA;16B"}:  # two bytes of gray and two of alpha, decoded as four channels of one byte
        pixels = _decode_as(image, "RGBA").astype(np.uint16)
        return DeepPixels(pixels[..., ::2] * 256 + pixels[..., 1::2], has_alpha=True)
    (raw_mode,) = raw_modes if len(raw_modes) == 1 else ("",)
    if raw_mode[-4:] not in OTHER_BYTE or raw_mode.startswith("RGBa"):  # a TIFF in planes, or with premultiplied alpha
        return read_tiff(source, image.tell())
    upper = _decode_as(image, raw_mode).astype(np.uint16)
    with Image.open(stream(source), formats=(image.format,)) as again:
        again.seek(image.tell())
        lower = _decode_as(again, raw_mode[:-4] + OTHER_BYTE[raw_mode[-4:]])
    return DeepPixels(upper * 256 + lower, has_alpha=image.mode == "RGBA")


def stream(source: Path | bytes) -> Path | io.BytesIO:
    """Return what readers can open: the path, or a stream of the content."""
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _decode_as(image: Image.Image, raw_mode: str) -> np.ndarray:
    image.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
        for tile in image.tile
    ]
    return np.asarray(image)


def read_tiff(source: Path | bytes, number: int = 0) -> DeepPixels:
    """Read a page of a TIFF, the first by default: floats, 16 or 32 bits per channel, planes, files above 4 GiB.

    An extra channel is used if the file says that it is alpha; others, such as near infrared, are ignored, as Pillow does.

    Raises:
        ValueError, UserError: the file cannot be read, with the reason.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it also logs what it raises
    with tifffile.TiffFile(stream(source)) as file:
        if not len(file.pages):
            raise ValueError("a damaged TIFF: it has no page")
        page = file.pages[number]
        described = f"a TIFF of {page.samplesperpixel} x {page.bitspersample} bits"
        check_pixels(page.imagewidth, page.imagelength)
        if page.samplesperpixel > MOST_CHANNELS or page.ndim > 3:
            raise ValueError(f"{described}, but an image may have at most {MOST_CHANNELS} channels")
        try:
            values = page.asarray()
        except (ValueError, KeyError, NotImplementedError) as error:
            if "imagecodecs" in str(error):
                how = "" if page.compression.name == "NONE" else f", compressed by {page.compression.name}"
                with needs_extra(described + how, "tiff"):
                    import imagecodecs  # noqa: F401 which tifffile looks for
            raise ValueError(f"{described}: {error}") from error
        if not values.size or values.ndim < 2:
            raise ValueError(f"{described} and {page.imagewidth} x {page.imagelength} pixels")
        if values.ndim == 3 and page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
        if values.dtype.kind not in "uifb":
            raise ValueError(f"{described} of {values.dtype}, which are not gray values")
        bits = page.bitspersample
        stated = (0.0, 2.0**bits - 1) if values.dtype.kind in "ub" and (bits < 16 and bits != 0) else None
        inverted = page.photometric.name == "MINISWHITE"
        if page.photometric.name not in ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR"):
            raise ValueError(f"{described} of {page.photometric.name.lower()}; convert it to gray or RGB")
        colors = page.samplesperpixel - len(page.extrasamples)
        has_alpha = bool(page.extrasamples) and page.extrasamples[0] in ALPHA
        if colors not in (1, 3):
            raise ValueError(f"{described} with {colors} color channels; gray or RGB is needed")
        several, turn = _has_further_pages(file), TURNS.get(page.tags.valueof(ORIENTATION))
    if values.ndim == 3:
        values = values[..., : colors + has_alpha]
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    if has_alpha and page.extrasamples[0] == PREMULTIPLIED:
        values = _divide_by_alpha(values, stated[1] if stated else None)
    return DeepPixels(values, stated, inverted, turn, has_alpha, is_first_of_several=several)


def _divide_by_alpha(values: np.ndarray, opaque: float | None) -> np.ndarray:
    """Return the colors of (H, W, channels) that are multiplied with alpha, the last channel, as they were before."""
    alpha = values[..., -1:].astype(np.float64)
    if opaque is None:
        opaque = np.iinfo(values.dtype).max if values.dtype.kind == "u" else alpha.max()
    colors = values[..., :-1] * np.divide(opaque, alpha, where=alpha > 0, out=np.zeros_like(alpha))
    if values.dtype.kind != "f":
        colors = colors.round().clip(0, opaque)
    return np.concatenate([colors.astype(values.dtype), values[..., -1:]], axis=2)


def has_further_pages(source: Path | bytes) -> bool:
    """Return whether a TIFF has pages besides the first and its masks and smaller versions, such as those of a pyramid."""
    import tifffile

    with tifffile.TiffFile(stream(source)) as file:
        return _has_further_pages(file)


def _has_further_pages(file) -> bool:
    try:
        further = itertools.islice(file.pages, 1, None)
        return any(not getattr(page, "subfiletype", 0) & OF_ANOTHER_PAGE for page in further)
    except Exception:  # the second one is damaged
        return True


def without_side_chunks(content: bytes) -> bytes | None:
    """Return a PNG with only the chunks of its pixels, so a damaged text, color profile or EXIF does not matter.

    Returns None if the PNG is cut off or has no other chunks.
    """
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        length, name = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        chunk = content[place : place + 12 + length]
        if name in PIXEL_CHUNKS and len(chunk) == 12 + length:
            parts.append(chunk)
        place += 12 + length
        if name == b"IEND":
            made = b"".join(parts)
            return made if len(made) < len(content) else None
    return None


def read_dicom(source: Path | bytes) -> DeepPixels:
    """Read the first frame of a DICOM file, or of its content, in its own units (such as Hounsfield), with its first window.

    Without a window, the stored bits that the file states give the range, if they are fewer than the allocated bits.

    Raises:
        UserError, ValueError: the file cannot be read, with the reason.
    """
    with needs_extra("a DICOM image", "dicom"):
        import pydicom
        from pydicom import pixels
    # Invalid values in other elements of a file do not matter
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    header = pydicom.dcmread(stream(source))
    if "Rows" not in header or not any(name in header for name in ("PixelData", *FLOATS)):
        raise ValueError("a DICOM file without an image")
    check_pixels(header.Columns, header.Rows)
    try:
        values = pixels.pixel_array(header, index=0)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        raise ValueError(f"a DICOM image that pydicom cannot decode: {' '.join(str(error).split())[:300]}") from error
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):  # of an enhanced DICOM file
        for groups in header.get(sequence, [])[:1]:
            for item in (*groups.get(OWN_UNITS, [])[:1], *groups.get(OWN_WINDOW, [])[:1]):
                header.update(item)
    bits = int(header.get("BitsStored", header.BitsAllocated))
    if header.PhotometricInterpretation == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, header)
        bits = min(header.RedPaletteColorLookupTableDescriptor[2], 8 * values.dtype.itemsize)  # of the colors
    several = int(header.get("NumberOfFrames") or 1) > 1
    if values.ndim == 3:
        return DeepPixels(values, (0.0, 2.0**bits - 1), is_first_of_several=several)
    slope, intercept = (_first(header.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    if None not in (slope, intercept) and not math.isfinite(slope + intercept):
        raise ValueError(
            f"a DICOM image with RescaleSlope {slope:g} and RescaleIntercept {intercept:g}, not finite numbers"
        )
    values, inverted = pixels.apply_modality_lut(values, header), header.PhotometricInterpretation == "MONOCHROME1"
    window, is_sigmoid = _window(header), header.get("VOILUTFunction") == "SIGMOID"
    if window is None:
        window, is_sigmoid = _stored_range(header), False
    return DeepPixels(values, window, is_sigmoid=is_sigmoid, inverted=inverted, is_first_of_several=several)


def _window(header) -> tuple[float, float] | None:
    """Return the ends of the first window (DICOM PS3.3 C.11.2.1); None if the file states none of finite numbers."""
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    if header.get("VOILUTFunction") not in ("LINEAR_EXACT", "SIGMOID"):  # the default counts in whole units
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 and math.isfinite(center + width) else None


def _stored_range(header) -> tuple[float, float] | None:
    """Return the lowest and highest value of the stored bits, in the file's units; None if the bits do not limit them."""
    from pydicom import pixels

    # Floats and a table of units do not follow the stored bits
    if any(name in header for name in (*FLOATS, "ModalityLUTSequence")):
        return None
    stored, signed = int(header.BitsStored), int(header.PixelRepresentation)
    if stored >= header.BitsAllocated and stored != 8:
        return None
    lowest = -(2.0 ** (stored - 1)) if signed else 0.0
    ends = pixels.apply_modality_lut(np.array([lowest, lowest + 2.0**stored - 1]), header)
    return float(ends.min()), float(ends.max())


def _first(value) -> float | None:
    """Return the first of a DICOM element's numbers."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for a decompression bomb: more pixels than Pillow's limit, which decode.py sets."""
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, which exceeds the limit of {Image.MAX_IMAGE_PIXELS:,}")
