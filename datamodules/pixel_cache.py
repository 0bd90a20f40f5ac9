"""Pixel store: every image decoded and resized once, kept as uint8 in a memory-mapped file.

All loader workers, processes and runs of a sweep share its pages. A store is found again by what it was made from.
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
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datamodules.decode import DECODER, open_image, resize
from datamodules.image_stats import ImageStats, scan_image

log = logging.getLogger(__name__)

NOT_WRITABLE = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM, errno.ENOTDIR)
ABANDONED_S = 3600  # a store still being built after an hour was killed
MAPPED_AROUND = 64 * 2**10  # bytes that the system maps around a page that is asked for
CHUNK = 1024  # files that a thread pool is given at once


class PixelCache:
    """`store[row]` is an (H, W, 3) uint8 array of its own, `facts` what is known of each image.

    A row's pages are let go of after the copy: they stay in the system's cache, once for all processes, and the memory of
    the process does not grow with the number of images.
    """

    def __init__(self, path: Path, facts: ImageStats):
        self.path = path
        self.facts = facts
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self.image_size = shape[1]
            self._begin = file.tell()
            if shape != (len(self), shape[1], shape[1], 3) or path.stat().st_size != self._begin + math.prod(shape):
                raise ValueError(f"{path}: damaged (it says {shape})")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.facts.fingerprints)

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
        return PixelCache, (self.path, self.facts)  # a loader process that is spawned opens the file itself


class UncachedPixels(PixelCache):
    """The same without a file: decodes an image each time that it is asked for."""

    def __init__(self, files: Sequence[Path], image_size: int, facts: ImageStats):
        self.files = files
        self.image_size = image_size
        self.facts = facts

    def __getitem__(self, row: int) -> np.ndarray:
        return np.asarray(resize(open_image(self.files[row], self.image_size), self.image_size))


def open_pixel_cache(files: Sequence[Path], image_size: int, folder: Path, limit_gib: float = 50.0) -> PixelCache:
    """The store of these files in this order, built where it is not there yet.

    Unreadable files are not an error here: their rows are black, and `facts.errors` says why.

    Args:
        limit_gib: all stores together; those not used for longest are removed when a new one is built.
    """
    place = folder / _key(files, image_size)
    if place.is_dir():
        try:
            return _opened(place, len(files))
        except (ValueError, OSError, IndexError) as error:
            log.warning("pixel store: %s; it is built anew", error)
            shutil.rmtree(place, ignore_errors=True)
    if not place.is_dir():
        try:
            _make_room(folder, needed=len(files) * image_size**2 * 3, limit=int(limit_gib * 2**30))
            _build(files, image_size, place)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            reason = error.strerror
            log.warning("pixel store: %s cannot be written (%s); images are decoded anew each epoch", folder, reason)
            facts = ImageStats.empty(len(files))
            _decode_all(files, image_size, facts)
            return UncachedPixels(files, image_size, facts)
    return _opened(place, len(files))


def _opened(place: Path, rows: int) -> PixelCache:
    """Raises ValueError or OSError where a file of it is damaged or missing."""
    store = PixelCache(place / "pixels.npy", ImageStats.load(place / "facts.npz", rows))
    try:
        os.utime(place)  # last used
    except OSError as error:
        log.warning("pixel store: %s cannot be marked as used (%s)", place, error.strerror)
    return store


def _key(files: Sequence[Path], image_size: int) -> str:
    """Names what the store is made from: files with their size and time of change, size of an image, decoder."""
    digest = hashlib.blake2b(f"{DECODER} {image_size}".encode(), digest_size=12)
    for file in files:
        stat = file.stat()
        digest.update(f"\0{file}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _build(files: Sequence[Path], image_size: int, place: Path) -> None:
    """Writes into a folder of another name and renames it: a store is whole or absent, also with two builders."""
    building = Path(tempfile.mkdtemp(prefix=f"{place.name}.building-", dir=place.parent))
    try:
        facts = ImageStats.empty(len(files))
        with (building / "pixels.npy").open("wb") as file:
            shape = (len(files), image_size, image_size, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            file.truncate(file.tell() + math.prod(shape))  # rows that cannot be read stay black
            _decode_all(files, image_size, facts, file.fileno(), file.tell())
            os.fsync(file.fileno())
        facts.save(building / "facts.npz")
        building.rename(place)
    except OSError:
        if not place.is_dir():  # otherwise another process was first: its store is the same
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(
    files: Sequence[Path], image_size: int, facts: ImageStats, descriptor: int | None = None, offset: int = 0
) -> None:
    """Fills the facts and, from byte `offset` of an open file on, the pixels. In threads: Pillow lets go of the interpreter."""

    def decode(row: int) -> None:
        image = scan_image(files[row], row, facts, image_size)
        if image is not None and descriptor is not None:
            os.pwrite(descriptor, image.tobytes(), offset + row * image_size**2 * 3)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(files), CHUNK):  # all futures of 100,000 files at once would take memory
            list(pool.map(decode, range(begin, min(begin + CHUNK, len(files)))))


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Removes what was abandoned, and the stores used longest ago while all together would be above the limit.

    Raises:
        OSError: the disk has no space for the new store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stores = []
    for store in folder.iterdir():
        if not re.fullmatch(r"[0-9a-f]{24}(\.building-.*)?", store.name) or not store.is_dir() or store.is_symlink():
            continue  # not one of ours, which is all that may be removed
        with contextlib.suppress(FileNotFoundError):  # another process has finished or removed it in between
            used = store.stat().st_mtime
            if ".building-" in store.name:
                if time.time() - used > ABANDONED_S:
                    shutil.rmtree(store, ignore_errors=True)
                continue
            stores.append((used, store, sum(file.stat().st_size for file in store.iterdir())))
    total = needed + sum(size for _, _, size in stores)
    for _, store, size in sorted(stores):
        if total <= limit:
            break
        log.info("pixel store: removed %s (%d MiB), not used for longest", store.name, size // 2**20)
        shutil.rmtree(store, ignore_errors=True)
        total -= size
    if shutil.disk_usage(folder).free < needed + 2**20:
        raise OSError(errno.ENOSPC, f"no space for {needed / 2**20:,.0f} MiB")
