"""Pixel cache: every image decoded and resized once, and kept.

All loader workers, processes and runs of a sweep share its pages. A cache is found again by what it was made from.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import DISK_ERRORS
from common.locks import one_at_a_time
from common.progress import Progress
from datamodules.cache_build import build, encode, find_earlier, read_statistics
from datamodules.cached_pixels import Look, PixelCache, UncachedPixels, open_place
from datamodules.decode import UnreadableImageError, open_image, read_image
from datamodules.image_stats import ImageStats

log = logging.getLogger(__name__)

ABANDONED_S = 24 * 3600  # a cache that was begun a day ago is not continued
OWN_NAMES = r"([0-9a-f]{12}-)?[0-9a-f]{24}(\.building-.*)?"  # of caches; without a look in 0.2.0
VERSION_BYTES = 16  # that name a file
OF_SYSTEM = tuple(f"({os.strerror(code)})" for code in errno.errorcode)  # a network drive, permissions, open files
SAMPLE = 64  # images by which the size of a cache of JPEGs is estimated
ESTIMATE = 1.1  # times as large as by the sample


def open_pixel_cache(files: Sequence[str | Path], look: Look, folder: Path, limit_gib: float = 50.0) -> PixelCache:
    """Open the cache of one look: see `open_pixel_caches`."""
    return open_pixel_caches(files, [look], folder, limit_gib)[0]


def open_pixel_caches(
    files: Sequence[str | Path],
    looks: Sequence[Look],
    folder: Path,
    limit_gib: float = 50.0,
    beside: PixelCache | None = None,
) -> list[PixelCache]:
    """Open the caches of these files in this order; build those that are not there yet, of one reading where they can be.

    What an earlier cache of the same look holds of the files is taken over, so that only new and changed files are decoded.
    Unreadable files are no error here: their rows are black, and `stats.errors` holds the reason.

    Args:
        looks: that a run needs together, the one with the first claim to room first.
        limit_gib: all caches together; the least recently used are removed when a new one is built. Where it has no room for
            these files, or is 0, images are decoded each time that they are asked for.
        beside: another cache of these files that the run needs as well, which is not removed for them.
    """
    files = [str(file) for file in files] if isinstance(files, list) else files
    versions = versions_of(files)
    digest = hashlib.blake2b(versions.tobytes(), digest_size=12).hexdigest()
    places = {look: folder / f"{look.name()}-{digest}" for look in looks}
    shared: dict[tuple, ImageStats] = {}  # the statistics of a reading, which serve all of its looks
    caches = {look: cache for look, place in places.items() if (cache := _open(place, look, files, shared, known=True))}
    used = sum(_size_of(cache.path.parent) for cache in [beside, *caches.values()] if cache and cache.path)
    limit, wanted = int(limit_gib * 2**30), {}
    for look in looks:
        if look not in caches:
            needed = _needed(files, look) if limit else 0
            if limit and used + needed <= limit:
                wanted[look] = needed
                used += needed
            elif limit and look.gray_from is None:
                log.warning(
                    "datamodule.cache_max_gib=%g: %s images take %.1f GiB; decoding images in every epoch, which is slow",
                    limit_gib, f"{len(files):,}", (used + needed) / 2**30,
                )  # fmt: skip
    keep = [beside and beside.path and beside.path.parent, *places.values()]
    warned = beside and beside.not_kept  # of the same folder, for the same reason
    for reading in dict.fromkeys(look.reading for look in wanted):
        together = {look: needed for look, needed in wanted.items() if look.reading == reading}
        reason = _build(files, versions, {look: places[look] for look in together}, sum(together.values()), limit, keep)
        if reason and reason != warned:
            log.warning("pixel cache: could not write %s (%s); decoding images in every epoch", folder, reason)
            warned = reason
    for look in looks:
        if look not in caches:
            opened = _open(places[look], look, files, shared) if look in wanted else None
            if opened is None:
                stats = _known(look, shared) or read_statistics(files, look)
                shared.setdefault(look.reading, stats)
                opened = UncachedPixels(files, look, stats)
                opened.not_kept, opened.versions = warned, versions
            caches[look] = opened
    return [caches[look] for look in looks]


def _known(look: Look, shared: dict[tuple, ImageStats]) -> ImageStats | None:
    stats = shared.get(look.reading)
    return stats if stats and (len(stats.thumbnails) or not look.gray_from) else None


def _newly_readable(files: Sequence[str], look: Look, errors: Sequence[str]) -> bool:
    """Return whether there is a file that the system, and not what it holds, kept from being read, and no longer does."""
    for file, error in zip(files, errors, strict=True):
        if error and (error.endswith(OF_SYSTEM) or "MemoryError" in error):
            with contextlib.suppress(UnreadableImageError):
                read_image(Path(file), look.image_size)
                return True
    return False


def _open(
    place: Path, look: Look, files: Sequence[str], shared: dict[tuple, ImageStats], known: bool = False
) -> PixelCache | None:
    """Open a cache and mark it as used; None where there is none, or a damaged one, which is removed.

    Args:
        known: whether it is from an earlier command. If files can be read since then, it gets another name, under which the one
            that is built finds it as an earlier one.
    """
    if not place.is_dir():
        return None
    try:
        cache = open_place(place, look, len(files), _known(look, shared))
        if known and _newly_readable(files, look, cache.stats.errors):
            digest = hashlib.blake2b(place.name.encode(), digest_size=12).hexdigest()
            place.replace(place.with_name(f"{look.name()}-{digest}"))
            return None
    except (ValueError, OSError) as error:
        log.warning("pixel cache: %s; building it again", error)
        shutil.rmtree(place, ignore_errors=True)
        return None
    shared.setdefault(look.reading, cache.stats)
    try:
        os.utime(place)
    except OSError as error:
        log.warning("pixel cache: could not mark %s as used (%s)", place, error.strerror)
    return cache


def _build(
    files: Sequence[str],
    versions: np.ndarray,
    places: dict[Look, Path],
    needed: int,
    limit: int,
    keep: Sequence[Path | None],
) -> str | None:
    """Build caches of one reading, one process at a time; where the disk does not take them, return the reason."""
    first = next(iter(places.values()))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(first.with_name(f"{first.name}.lock"), "reading images"):
            if not all(place.is_dir() for place in places.values()):
                earlier = {look: find_earlier(place, look, versions) for look, place in places.items()}
                _make_room(first, needed, limit, [*(found and found.place for found in earlier.values()), *keep])
                earlier = {look: found if found and found.place.is_dir() else None for look, found in earlier.items()}
                build(files, versions, places, earlier)
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, errno.EEXIST):  # a file where the folder should be
            raise
        return error.strerror
    return None


def _needed(files: Sequence[str], look: Look) -> int:
    """Return the bytes of a cache; of JPEGs by a sample of the files."""
    if not look.jpeg_quality:
        return len(files) * look.image_bytes
    sizes = []
    with Progress("looking at a sample of the images", log):
        for row in np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int).tolist():
            with contextlib.suppress(Exception):  # the reading that follows gives the reason
                image = open_image(
                    Path(files[row]), look.image_size, None if look.value_range == "own" else look.value_range
                )
                sizes.append(len(encode(look, image)))
    mean = sum(sizes) / len(sizes) if sizes else look.image_bytes
    return int(ESTIMATE * mean * len(files))


def versions_of(files: Sequence[str]) -> np.ndarray:
    """Return (files, 2) uint64 that name each file and what it holds: its path, inode, size and times of change.

    The inode and the time of the last change of it (ctime), which no program sets, tell copies of a folder apart that have the
    same names, sizes and times.
    """
    digests, here, stat = bytearray(), Path.cwd(), os.stat
    for file in files:
        path = file if file[:1] == "/" else os.path.abspath(here / file)  # noqa: PTH100 links are followed by stat
        try:
            status = stat(path)
            version = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:  # a dangling link, or removed since it was listed: its row holds the reason
            version = error.strerror
        text = f"{path}\0{version}".encode(errors="surrogateescape")
        digests += hashlib.blake2b(text, digest_size=VERSION_BYTES).digest()
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _size_of(cache: Path) -> int:
    """Return the bytes of a cache, its share of files that it has in common with others."""
    size = 0
    with contextlib.suppress(FileNotFoundError):  # another process is removing it
        for file in cache.iterdir():
            status = file.stat()
            size += status.st_size // status.st_nlink
    return size


def _make_room(place: Path, needed: int, limit: int, keep: Sequence[Path | None]) -> None:
    """Remove what was abandoned, and the least recently used caches while all together would be above the limit.

    Args:
        place: of the cache that is built, which may have been begun.
        keep: caches that are removed last, the last one of them at the very end.

    Raises:
        OSError: the disk has no space for the new cache.
    """
    caches, folder = [], place.parent
    for cache in folder.iterdir():
        if not re.fullmatch(OWN_NAMES, cache.name) or not cache.is_dir() or cache.is_symlink():
            continue  # only what this file has made may be removed
        with contextlib.suppress(FileNotFoundError):  # another process has finished or removed it in between
            used = cache.stat().st_mtime
            if ".building-" in cache.name:
                if time.time() - used > ABANDONED_S and not cache.name.startswith(place.name):
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
