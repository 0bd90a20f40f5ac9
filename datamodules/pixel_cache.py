"""The images of a run as pixels of one size: from a memory-mapped file, from JPEGs in few files, or decoded each time."""

import contextlib
import hashlib
import io
import math
import mmap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.untrusted.description import Interpolation
from datamodules.decode import DECODER, DRAFT_SIZE, open_image, resize
from datamodules.deep_pixels import ValueRange
from datamodules.formats import OPTIONAL_READERS
from datamodules.image_stats import ImageStats

VERSION = 10  # of how files become pixels and statistics; part of a cache's key
MAPPED_AROUND = 64 * 2**10  # bytes that the system maps around a page that is read
PIXELS, THUMBNAILS, STATS, VERSIONS = "pixels.npy", "thumbnails.npy", "stats.npz", "versions.npy"
JPEGS, PLACES = "jpeg-{:04d}.bin", "places.npy"
SAMPLE = "sample.txt"  # digest of SAMPLED images, compared when a cache is opened
SAMPLED = 64  # of a large cache, damage to a twentieth of the images is found with a probability of 0.96


class Look(NamedTuple):
    """Describe how files become pixels; one cache holds images of one look."""

    image_size: int  # pixels per side
    fit: str = "squash"  # see `decode.resize`
    value_range: ValueRange | Literal["own"] | None = None  # see `image_stats.scan_image`
    interpolation: Interpolation = "bilinear"  # see `decode.resize`
    # Pixels per side of an intermediate image that is averaged to a gray one of image_size; with thumbnails
    gray_from: int | None = None
    jpeg_quality: int | None = None  # of images that are cached as JPEGs; None: as uint8

    @property
    def channels(self) -> int:
        return 1 if self.gray_from else 3

    @property
    def image_bytes(self) -> int:
        """Bytes of an image as uint8."""
        return self.image_size**2 * self.channels

    @property
    def reading(self) -> tuple:
        """What the first decoding of a file depends on; looks with the same value are made from one reading."""
        return max(DRAFT_SIZE, 2 * self.image_size), self.value_range

    @property
    def between(self) -> "Look":
        """The look of the intermediate image."""
        return self._replace(image_size=self.gray_from, gray_from=None)

    def resize(self, image: Image.Image) -> Image.Image:
        """Return an RGB image resized to this look, as RGB or gray."""
        if self.gray_from is None:
            return resize(image, self.image_size, self.fit, self.interpolation)
        gray = resize(image, self.gray_from, self.fit, self.interpolation).convert("L")
        return gray.resize((self.image_size, self.image_size), Image.Resampling.BOX)

    def name(self) -> str:
        """Return 12 hex digits that identify the look and the decoder."""
        readers = [name for name in OPTIONAL_READERS if find_spec(name)]  # a file may be readable once one is installed
        how = f"{DECODER}, {self.interpolation}, {VERSION}"
        described = f"{how} {readers} {self.image_size} {self.fit} {tuple(self.value_range or ())}"
        described += f" gray from {self.gray_from}" if self.gray_from else ""
        described += f" jpeg {self.jpeg_quality}" if self.jpeg_quality else ""
        return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()


class PixelCache:
    """Provide `cache[row]`, a copied (H, W, 3) uint8 array (gray: (H, W, 1)), and `stats`, the statistics of all images.

    A row's pages are released after the copy. They stay in the system's cache, once for all processes, so the memory of the
    process does not grow with the number of images.

    Raises:
        ValueError: the file is damaged.
    """

    kept_as = "uint8"
    not_kept: str | None = None  # why the disk could not hold the cache; None if it did
    versions: np.ndarray | None = None  # from `versions_of`, if the files are decoded again and again

    def __init__(self, path: Path, stats: ImageStats):
        self.path = path
        self.stats = stats
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self._begin = file.tell()
            whole = len(shape) == 4 and shape[:3] == (len(self), shape[1], shape[1])
            if not whole or path.stat().st_size != self._begin + math.prod(shape):
                raise ValueError(f"{path}: damaged (its header has the shape {shape})")
            self._shape = shape[1:]
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.stats.errors)

    @property
    def image_size(self) -> int:
        return self._shape[0]

    def content(self, row: int) -> bytearray:
        """Return the bytes of a row in its file."""
        length = math.prod(self._shape)
        return _read(self._map, self._begin + row * length, length)

    def __getitem__(self, row: int) -> np.ndarray:
        return np.frombuffer(self.content(row), np.uint8).reshape(self._shape)

    def __reduce__(self):
        return PixelCache, (self.path, self.stats)  # a loader process that is spawned opens the file itself


def _read(mapped: mmap.mmap, begin: int, length: int) -> bytearray:
    """Return a copy of a part of a mapped file; release its pages."""
    content = bytearray(memoryview(mapped)[begin : begin + length])
    if hasattr(mmap, "MADV_DONTNEED"):
        start = begin - begin % MAPPED_AROUND
        end = min(-(-(begin + length) // MAPPED_AROUND) * MAPPED_AROUND, len(mapped))
        mapped.madvise(mmap.MADV_DONTNEED, start, end - start)
    return content


class JpegPixels(PixelCache):
    """Provide the same from JPEGs, which take a fifth of the bytes and change the last bits of pixels.

    `places.npy` has, for each row, the number of its file, and offset and length of its JPEG in that file; length 0 means a
    black image. Files are never changed: a cache with more images links to those of the earlier cache and adds new ones.
    """

    kept_as = "JPEG"

    def __init__(self, path: Path, stats: ImageStats, image_size: int):
        self.path = path
        self.stats = stats
        self._shape = (image_size, image_size, 3)
        self.places = np.load(path, mmap_mode="r", allow_pickle=False)
        if self.places.shape != (len(self), 3) or self.places.dtype != np.uint32:
            raise ValueError(f"{path}: damaged (its header has the shape {self.places.shape})")
        self._maps = {}
        for number in np.unique(self.places[:, 0]).tolist() if self.places[:, 2].any() else []:
            rows = self.places[self.places[:, 0] == number]
            file = path.with_name(JPEGS.format(number))
            if file.stat().st_size < (rows[:, 1].astype(np.int64) + rows[:, 2]).max():
                raise ValueError(f"{file}: damaged (it is too short)")
            with file.open("rb") as opened:
                self._maps[number] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def content(self, row: int) -> bytearray:
        """Return the JPEG of a row; empty for a black image."""
        number, begin, length = self.places[row].tolist()
        return _read(self._maps[number], begin, length) if length else bytearray()

    def __getitem__(self, row: int) -> np.ndarray:
        content = self.content(row)
        if not content:
            return np.zeros(self._shape, np.uint8)
        pixels = None
        with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            pixels = np.array(image)  # for a damaged file, Pillow raises errors of any type
        if pixels is None or pixels.shape != self._shape:
            place = self.path.parent
            raise UserError(
                f"{place}: damaged (the JPEG of image {row} cannot be read); remove all of {place.parent}, since caches "
                "share files; the images are then decoded again"
            )
        return pixels

    def __reduce__(self):
        return JpegPixels, (self.path, self.stats, self.image_size)


class UncachedPixels(PixelCache):
    """Provide the same without a cache file: decode an image every time it is read."""

    path = None
    kept_as = "files, decoded in every epoch"

    def __init__(self, files: Sequence[str], look: Look, stats: ImageStats):
        self.files = files
        self.look = look
        self.stats = stats

    @property
    def image_size(self) -> int:
        return self.look.image_size

    def __getitem__(self, row: int) -> np.ndarray:
        own = self.look.value_range == "own"
        value_range = ValueRange(*self.stats.spreads[row].tolist()) if own else self.look.value_range
        image = open_image(Path(self.files[row]), self.image_size, value_range)
        pixels = np.asarray(self.look.resize(image))
        return pixels.reshape(*pixels.shape[:2], self.look.channels)

    def __reduce__(self):
        return UncachedPixels, (self.files, self.look, self.stats)


def open_place(place: Path, look: Look, rows: int, stats: ImageStats | None = None) -> PixelCache:
    """Open a cache of `rows` images; `stats` are their statistics if these are in memory already.

    Raises:
        ValueError, OSError: a file of it is damaged or missing.
    """
    try:
        return _open_files(place, look, rows, stats)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # for a damaged header, NumPy raises errors of any type, such as tokenize.TokenError
        raise ValueError(f"{place}: damaged ({error})") from error


def _open_files(place: Path, look: Look, rows: int, stats: ImageStats | None) -> PixelCache:
    if stats is None:
        thumbnails = np.load(place / THUMBNAILS, mmap_mode="r", allow_pickle=False) if look.gray_from else None
        stats = ImageStats.load(place / STATS, rows, thumbnails)
        for name in ("spreads", "stated"):
            if np.isnan(getattr(stats, name)).all():  # all images have 8 bits; a million would take 16 MB for each
                setattr(stats, name, np.broadcast_to(np.nan, (rows, 2)))
    cache = _cache_of(place, look, stats)
    if look.jpeg_quality and not (place / SAMPLE).exists():  # of version 0.5.0 or earlier
        return cache
    if _sample_digest(cache) != (place / SAMPLE).read_text():
        raise ValueError(f"{cache.path}: damaged (its images are not those that were written)")
    return cache


def write_sample(place: Path, look: Look, stats: ImageStats) -> None:
    """Write the digest that `open_place` compares."""
    (place / SAMPLE).write_text(_sample_digest(_cache_of(place, look, stats)))


def _cache_of(place: Path, look: Look, stats: ImageStats) -> PixelCache:
    if look.jpeg_quality:
        return JpegPixels(place / PLACES, stats, look.image_size)
    return PixelCache(place / PIXELS, stats)


def _sample_digest(cache: PixelCache) -> str:
    """Return 32 hex digits that identify some of the images, evenly spaced."""
    rows = np.linspace(0, len(cache) - 1, min(SAMPLED, len(cache))).astype(int).tolist()
    return hashlib.blake2b(b"".join(map(cache.content, rows)), digest_size=16).hexdigest()
