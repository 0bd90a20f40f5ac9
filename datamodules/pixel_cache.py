"""Pixel cache: every image decoded and resized once, kept as uint8 in a memory-mapped file.

All loader workers, processes and runs of a sweep share its pages. A cache is found again by what it was made from.
"""

import contextlib
import errno
import hashlib
import logging
import math
import mmap
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.atomic_io import atomic_folder
from common.errors import DISK_ERRORS
from datamodules.decode import DECODER, open_image, resize
from datamodules.image_stats import ImageStats, scan_image

log = logging.getLogger(__name__)

ABANDONED_S = 3600  # a cache still being built after an hour belongs to a killed process
MAPPED_AROUND = 64 * 2**10  # bytes that the system maps around a page that is asked for
CHUNK = 1024  # files that a thread pool is given at once


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

    def __init__(self, files: Sequence[Path], image_size: int, fit: str, stats: ImageStats):
        self.files = files
        self.image_size = image_size
        self.fit = fit
        self.stats = stats

    def __getitem__(self, row: int) -> np.ndarray:
        return np.asarray(resize(open_image(self.files[row], self.image_size), self.image_size, self.fit))

    def __reduce__(self):
        return UncachedPixels, (self.files, self.image_size, self.fit, self.stats)


def open_pixel_cache(
    files: Sequence[Path], image_size: int, folder: Path, limit_gib: float = 50.0, fit: str = "squash"
) -> PixelCache:
    """Open the cache of these files in this order; build it where there is none yet.

    Unreadable files are no error here: their rows are black, and `stats.errors` holds the reason.

    Args:
        limit_gib: all caches together; the least recently used are removed when a new one is built.
        fit: as of `decode.resize`.
    """
    place = folder / _key(files, image_size, fit)
    if place.is_dir():
        try:
            return _open(place, len(files))
        except (ValueError, OSError, IndexError) as error:
            log.warning("pixel cache: %s; building it again", error)
            shutil.rmtree(place, ignore_errors=True)
    try:
        _make_room(folder, needed=len(files) * image_size**2 * 3, limit=int(limit_gib * 2**30))
        _build(files, image_size, fit, place)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        log.warning("pixel cache: could not write %s (%s); decoding images in every epoch", folder, error.strerror)
        stats = ImageStats.empty(len(files))
        _decode_all(files, image_size, fit, stats)
        return UncachedPixels(files, image_size, fit, stats)
    return _open(place, len(files))


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


def _key(files: Sequence[Path], image_size: int, fit: str) -> str:
    """Name what a cache is made from: files with their size and time of change, size and fit of an image, decoder."""
    made_by = f"{DECODER} {image_size}" + (f" {fit}" if fit != "squash" else "")  # as named before there was a fit
    digest = hashlib.blake2b(made_by.encode(), digest_size=12)
    for file in files:
        try:
            status = file.stat()
            version = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError as error:  # a dangling link, or removed since it was listed: its row holds the reason
            version = error.strerror
        digest.update(f"\0{file}\0{version}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _build(files: Sequence[Path], image_size: int, fit: str, place: Path) -> None:
    """Write a cache: whole or absent, also with two builders."""
    with atomic_folder(place) as building:
        stats = ImageStats.empty(len(files))
        with (building / "pixels.npy").open("wb") as file:
            shape = (len(files), image_size, image_size, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            file.truncate(file.tell() + math.prod(shape))  # rows that cannot be read stay black
            _decode_all(files, image_size, fit, stats, file.fileno(), file.tell())
            os.fsync(file.fileno())
        stats.save(building / "stats.npz")


def _decode_all(
    files: Sequence[Path], image_size: int, fit: str, stats: ImageStats, descriptor: int | None = None, offset: int = 0
) -> None:
    """Fill the statistics and, from byte `offset` of an open file, the pixels. In threads: Pillow releases the GIL."""

    def decode(row: int) -> None:
        image = scan_image(files[row], row, stats, image_size, fit)
        if image is not None and descriptor is not None:
            os.pwrite(descriptor, image.tobytes(), offset + row * image_size**2 * 3)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(files), CHUNK):  # all futures of 100,000 files at once would take memory
            list(pool.map(decode, range(begin, min(begin + CHUNK, len(files)))))


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Remove what was abandoned, and the least recently used caches while all together would be above the limit.

    Raises:
        OSError: the disk has no space for the new cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    caches = []
    for cache in folder.iterdir():
        if not re.fullmatch(r"[0-9a-f]{24}(\.building-.*)?", cache.name) or not cache.is_dir() or cache.is_symlink():
            continue  # only what this file has made may be removed
        with contextlib.suppress(FileNotFoundError):  # another process has finished or removed it in between
            used = cache.stat().st_mtime
            if ".building-" in cache.name:
                if time.time() - used > ABANDONED_S:
                    shutil.rmtree(cache, ignore_errors=True)
                continue
            caches.append((used, cache, sum(file.stat().st_size for file in cache.iterdir())))
    total = needed + sum(size for _, _, size in caches)
    for _, cache, size in sorted(caches):
        if total <= limit:
            break
        log.info("pixel cache: removed %s (%d MiB), the least recently used", cache.name, size // 2**20)
        shutil.rmtree(cache, ignore_errors=True)
        total -= size
    if shutil.disk_usage(folder).free < needed + 2**20:
        raise OSError(errno.ENOSPC, f"no space for {needed / 2**20:,.0f} MiB")
