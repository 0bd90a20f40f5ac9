"""Pixel cache: every image decoded and resized once, kept as uint8 in a memory-mapped file.

All loader workers, processes and runs of a sweep share its pages. A cache is found again by what it was made from.
"""

import contextlib
import errno
import hashlib
import itertools
import logging
import math
import mmap
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from common.atomic_io import atomic_folder
from common.errors import DISK_ERRORS
from common.locks import one_at_a_time
from common.progress import Progress
from common.untrusted.description import Interpolation
from datamodules.decode import DECODER, open_image, resize
from datamodules.deep_pixels import ValueRange
from datamodules.formats import OPTIONAL_READERS
from datamodules.image_stats import ImageStats, scan_image

log = logging.getLogger(__name__)

VERSION = 4  # of how files become pixels, in a cache's key
ABANDONED_S = 3600  # a cache still being built after an hour belongs to a killed process
MAPPED_AROUND = 64 * 2**10  # bytes that the system maps around a page that is asked for
OWN_NAMES = r"([0-9a-f]{12}-)?[0-9a-f]{24}(\.building-.*)?"  # of caches; without a look in 0.2.0
CHUNK = 1024  # files that a thread pool is given at once
VERSION_BYTES = 16  # that name a file
ANNOUNCED = 2000  # images, from which on reading them takes a while


class PixelCache:
    """Give `cache[row]`, an (H, W, 3) uint8 array of its own, and `stats`, the statistics of all images.

    A row's pages are released after the copy: they stay in the system's cache, once for all processes, and the memory of
    the process does not grow with the number of images.
    """

    def __init__(self, path: Path, stats: ImageStats):
        self.path = path
        self.stats = stats
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self.image_size = shape[1]
            self._begin = file.tell()
            if shape != (len(self), shape[1], shape[1], 3) or path.stat().st_size != self._begin + math.prod(shape):
                raise ValueError(f"{path}: damaged (its header has the shape {shape})")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.stats.fingerprints)

    def __getitem__(self, row: int) -> np.ndarray:
        side = self.image_size
        begin, length = self._begin + row * side * side * 3, side * side * 3
        pixels = np.frombuffer(self._map, np.uint8, length, begin).reshape(side, side, 3).copy()
        if hasattr(mmap, "MADV_DONTNEED"):
            start = begin - begin % MAPPED_AROUND
            end = min(-(-(begin + length) // MAPPED_AROUND) * MAPPED_AROUND, len(self._map))
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
        return pixels

    def __reduce__(self):
        return PixelCache, (self.path, self.stats)  # a loader process that is spawned opens the file itself


class UncachedPixels(PixelCache):
    """Give the same without a file: decode an image each time that it is asked for."""

    path = None

    def __init__(self, files: Sequence[Path], look: "Look", stats: ImageStats):
        self.files = files
        self.look = look
        self.image_size = look.image_size
        self.stats = stats

    def __getitem__(self, row: int) -> np.ndarray:
        own = self.look.value_range == "own"
        value_range = ValueRange(*self.stats.spreads[row].tolist()) if own else self.look.value_range
        image = open_image(self.files[row], self.image_size, value_range)
        return np.asarray(self.look.resize(image))

    def __reduce__(self):
        return UncachedPixels, (self.files, self.look, self.stats)


class Look(NamedTuple):
    """Say how files become pixels: one cache holds images of one look."""

    image_size: int  # pixels a side
    fit: str = "squash"  # as of `decode.resize`
    value_range: ValueRange | Literal["own"] | None = None  # as of `image_stats.scan_image`
    interpolation: Interpolation = "bilinear"  # as of `decode.resize`
    gray_from: int | None = None  # pixels a side of an image in between, of which this one is the mean gray

    @property
    def between(self) -> "Look":
        """The look of the image in between."""
        return self._replace(image_size=self.gray_from, gray_from=None)

    def resize(self, image: Image.Image) -> Image.Image:
        """Return an RGB image as this look has it."""
        if self.gray_from is None:
            return resize(image, self.image_size, self.fit, self.interpolation)
        gray = resize(image, self.gray_from, self.fit, self.interpolation).convert("L")
        return gray.resize((self.image_size, self.image_size), Image.Resampling.BOX).convert("RGB")

    def name(self) -> str:
        """Return 12 hex digits that name the look and the decoder."""
        readers = [name for name in OPTIONAL_READERS if find_spec(name)]  # a file may be readable once one is installed
        how = f"{DECODER}, {self.interpolation}, {VERSION}"
        described = f"{how} {readers} {self.image_size} {self.fit} {tuple(self.value_range or ())}"
        described += f" gray from {self.gray_from}" if self.gray_from else ""
        return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()


def open_pixel_cache(
    files: Sequence[Path],
    look: Look,
    folder: Path,
    limit_gib: float = 50.0,
    beside: PixelCache | None = None,
    stats: ImageStats | None = None,
    source: PixelCache | None = None,
) -> PixelCache:
    """Open the cache of these files in this order; build it where there is none yet.

    What an earlier cache of the same look holds of the files is copied, so that only new and changed files are decoded.
    Unreadable files are no error here: their rows are black, and `stats.errors` holds the reason.

    Args:
        limit_gib: all caches together; the least recently used are removed when a new one is built. Where it has no room for
            these files, or is 0, images are decoded each time that they are asked for.
        beside: another cache of these files that the run needs as well: both must have room, and it is removed last.
        stats: of these files, read with this range: where nothing can be cached they are not read for it again.
        source: of these files, of the look `look.between`: they are not read at all.
    """
    versions = [_version(file) for file in files]
    place = folder / f"{look.name()}-{hashlib.blake2b(b''.join(versions), digest_size=12).hexdigest()}"
    if place.is_dir():
        try:
            return _open(place, len(files))
        except (ValueError, OSError, IndexError) as error:
            log.warning("pixel cache: %s; building it again", error)
            shutil.rmtree(place, ignore_errors=True)
    needed, limit = len(files) * look.image_size**2 * 3, int(limit_gib * 2**30)
    beside_it = beside.path.parent if beside and beside.path else None
    together = needed + (_size_of(beside_it) if beside_it else 0)
    if together > limit:
        if limit and look.gray_from is None:
            log.warning(
                "datamodule.cache_max_gib=%g: %s images take %.1f GiB; decoding images in every epoch, which is slow",
                limit_gib, f"{len(files):,}", together / 2**30,
            )  # fmt: skip
        return _decode_without_cache(files, look, stats)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / f"{place.name}.lock", "reading images"):
            if not place.is_dir():
                earlier = _find_earlier(folder, look, versions)
                _make_room(folder, needed, limit, keep=[earlier and earlier.place, beside_it])
                _build(files, versions, look, place, earlier if earlier and earlier.place.is_dir() else None, source)
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, errno.EEXIST):  # a file where the folder should be
            raise
        log.warning("pixel cache: could not write %s (%s); decoding images in every epoch", folder, error.strerror)
        return _decode_without_cache(files, look, stats)
    return _open(place, len(files))


def _decode_without_cache(files: Sequence[Path], look: Look, stats: ImageStats | None) -> UncachedPixels:
    if stats is None:
        stats = ImageStats.empty(len(files))
        _decode(files, range(len(files)), look, stats)
    return UncachedPixels(files, look, stats)


def _open(place: Path, rows: int) -> PixelCache:
    """Open a cache and mark it as used.

    Raises:
        ValueError, OSError: a file of it is damaged or missing.
    """
    cache = PixelCache(place / "pixels.npy", ImageStats.load(place / "stats.npz", rows))
    try:
        os.utime(place)
    except OSError as error:
        log.warning("pixel cache: could not mark %s as used (%s)", place, error.strerror)
    return cache


def _version(file: Path) -> bytes:
    """Return 16 bytes that name a file and what it holds: its path, inode, size and times of change.

    The inode and the time of the last change of it (ctime), which no program sets, tell copies of a folder apart that have the
    same names, sizes and times.
    """
    path = os.path.abspath(file)  # noqa: PTH100 as it is written; links are followed by stat
    try:
        status = os.stat(path)  # noqa: PTH116
        version = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError as error:  # a dangling link, or removed since it was listed: its row holds the reason
        version = error.strerror
    return hashlib.blake2b(f"{path}\0{version}".encode(errors="surrogateescape"), digest_size=VERSION_BYTES).digest()


class _Earlier(NamedTuple):
    """Hold which rows of an earlier cache are wanted again."""

    place: Path
    rows: np.ndarray  # of the new cache
    earlier_rows: np.ndarray  # of the earlier one


def _find_earlier(folder: Path, look: Look, versions: list[bytes]) -> _Earlier | None:
    """Find the cache of the same look that holds most of these files."""
    best, wanted = None, {version: row for row, version in enumerate(versions)}
    for place in folder.glob(f"{look.name()}-*"):
        with contextlib.suppress(OSError, ValueError, EOFError):  # damaged, or being removed by another process
            held = np.load(place / "versions.npy", allow_pickle=False)
            pairs = [(wanted[each], row) for row, each in enumerate(held.tolist()) if each in wanted]
            if pairs and (best is None or len(pairs) > len(best.rows)):
                rows, earlier_rows = np.array(pairs, np.int64).T
                best = _Earlier(place, rows, earlier_rows)
    return best


def _build(
    files: Sequence[Path],
    versions: list[bytes],
    look: Look,
    place: Path,
    earlier: _Earlier | None,
    source: PixelCache | None,
) -> None:
    """Write a cache: whole or absent, also with two builders."""
    with atomic_folder(place) as building:
        stats = ImageStats.empty(len(files))
        with (building / "pixels.npy").open("wb") as file:
            shape = (len(files), look.image_size, look.image_size, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            begin = file.tell()
            file.truncate(begin + math.prod(shape))  # rows that cannot be read stay black
            copied = _copy(earlier, stats, file.fileno(), begin, building) if earlier else np.empty(0, np.int64)
            new = np.setdiff1d(np.arange(len(files)), copied)
            if source is None and (len(new) >= ANNOUNCED or 0 < len(new) < len(files)):
                what = f"{len(new):,}" if len(new) == len(files) else f"{len(new):,} of {len(files):,}"
                compared = " to compare them with each other" if look.gray_from else ""
                log.info("reading %s images%s, once: they are kept below %s", what, compared, place.parent)
            _decode(files, new.tolist(), look, stats, file.fileno(), begin, source)
            os.fsync(file.fileno())
        np.save(building / "versions.npy", np.array(versions, f"V{VERSION_BYTES}"))
        stats.save(building / "stats.npz")


def _copy(earlier: _Earlier, stats: ImageStats, descriptor: int, begin: int, building: Path) -> np.ndarray:
    """Take over pixels, statistics and what is known of near duplicates; return the rows that need no decoding."""
    try:
        held = np.load(earlier.place / "versions.npy", allow_pickle=False)
        cache = _open(earlier.place, len(held))
        for row, earlier_row in zip(earlier.rows.tolist(), earlier.earlier_rows.tolist(), strict=True):
            pixels = cache[earlier_row].tobytes()
            os.pwrite(descriptor, pixels, begin + row * len(pixels))
        for known in earlier.place.glob("near*"):
            shutil.copyfile(known, building / known.name)
    except (ValueError, OSError, IndexError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        log.warning("pixel cache: %s; its images are decoded again", error)
        return np.empty(0, np.int64)
    stats.copy_rows(earlier.rows, cache.stats, earlier.earlier_rows)
    return earlier.rows


def _decode(
    files: Sequence[Path],
    rows: Sequence[int],
    look: Look,
    stats: ImageStats,
    descriptor: int | None = None,
    begin: int = 0,
    source: PixelCache | None = None,
) -> None:
    """Fill the statistics and, from byte `begin` of an open file, the pixels. In threads: Pillow releases the GIL."""
    if source is not None:
        stats.copy_rows(np.array(rows, np.int64), source.stats, np.array(rows, np.int64))

    def decode(row: int) -> None:
        if source is None:
            image = scan_image(files[row], row, stats, look.image_size, look.value_range)
        else:
            image = Image.fromarray(source[row])
        if image is not None and descriptor is not None:
            os.pwrite(descriptor, look.resize(image).tobytes(), begin + row * look.image_size**2 * 3)
        progress.count(next(done), len(rows))

    done = itertools.count(1)
    what = "reading the images" if source is None else "comparing the images"
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(what, log) as progress:
        for start in range(0, len(rows), CHUNK):  # all futures of 100,000 files at once would take memory
            list(pool.map(decode, rows[start : start + CHUNK]))


def _size_of(cache: Path) -> int:
    return sum(file.stat().st_size for file in cache.iterdir())


def _make_room(folder: Path, needed: int, limit: int, keep: Sequence[Path | None]) -> None:
    """Remove what was abandoned, and the least recently used caches while all together would be above the limit.

    Args:
        keep: caches that are removed last, the last one of them at the very end.

    Raises:
        OSError: the disk has no space for the new cache.
    """
    caches = []
    for cache in folder.iterdir():
        if not re.fullmatch(OWN_NAMES, cache.name) or not cache.is_dir() or cache.is_symlink():
            continue  # only what this file has made may be removed
        with contextlib.suppress(FileNotFoundError):  # another process has finished or removed it in between
            used = cache.stat().st_mtime
            if ".building-" in cache.name:
                if time.time() - used > ABANDONED_S:
                    shutil.rmtree(cache, ignore_errors=True)
                continue
            caches.append((used, cache, _size_of(cache)))
    total = needed + sum(size for _, _, size in caches)
    for _, cache, size in sorted(caches, key=lambda entry: (keep.index(entry[1]) if entry[1] in keep else -1, entry)):
        if total <= limit:
            break
        log.info("pixel cache: removed %s (%d MiB), the least recently used", cache.name, size // 2**20)
        shutil.rmtree(cache, ignore_errors=True)
        total -= size
    if shutil.disk_usage(folder).free < needed + 2**20:
        raise OSError(errno.ENOSPC, f"no space for {needed / 2**20:,.0f} MiB")
