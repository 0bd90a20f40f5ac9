"""The folder of pixel caches: decode and resize every image once, and keep the result within a limit of the disk.

All loader workers, processes and runs of a sweep share its pages. The name of a cache is a hash of what it was made from.
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
from datamodules.decode import UnreadableImageError, open_image, read_image
from datamodules.image_stats import ImageStats
from datamodules.pixel_cache import Look, PixelCache, UncachedPixels, open_place

log = logging.getLogger(__name__)

ABANDONED_S = 24 * 3600  # seconds; an unfinished cache older than this is removed
OWN_NAMES = r"([0-9a-f]{12}-)?[0-9a-f]{24}(\.building-.*)?"  # names of caches; those of 0.2.0 have no look
VERSION_BYTES = 16  # bytes that identify a file and its content
OF_SYSTEM = tuple(f"({os.strerror(code)})" for code in errno.errorcode)  # network drives, permissions, open files
SAMPLE = 64  # images from which the size of a cache of JPEGs is estimated
ESTIMATE = 1.1  # factor on the estimate, to be safe


def open_pixel_caches(
    files: Sequence[str | Path],
    looks: Sequence[Look],
    folder: Path,
    limit_gib: float = 50.0,
    beside: PixelCache | None = None,
) -> list[PixelCache]:
    """Open the caches of these files, one per look; build missing ones, reading each file once for all looks if possible.

    Images that an earlier cache of the same look holds are reused, so only new and changed files are decoded. Unreadable files
    raise no error: their rows are black, and `stats.errors` holds the reason.

    Args:
        looks: looks that a run needs together; earlier ones get space first.
        limit_gib: limit for all caches together; the least recently used are removed when a new one is built. If these files
            do not fit, or the limit is 0, images are decoded every time they are used.
        beside: another cache of these files that the run needs, which is not removed to make room.
    """
    files = [str(file) for file in files] if isinstance(files, list) else files
    versions = versions_of(files)
    digest = hashlib.blake2b(versions.tobytes(), digest_size=12).hexdigest()
    places = {look: folder / f"{look.name()}-{digest}" for look in looks}
    shared: dict[tuple, ImageStats] = {}  # reading -> its statistics, which all of its looks share
    caches, limit, wanted = {}, int(limit_gib * 2**30), {}
    warned = beside and beside.not_kept  # the same folder may fail for the same reason
    try:
        for look, place in places.items():
            if cache := _open(place, look, files, shared, known=True):
                caches[look] = cache
    except PermissionError as error:  # made by another user
        if error.strerror != warned:
            log.warning("pixel cache: could not use %s (%s); decoding images in every epoch", folder, error.strerror)
        limit, warned = 0, error.strerror
    used = sum(_size_of(cache.path.parent) for cache in [beside, *caches.values()] if cache and cache.path)
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
    """Return whether a file that the system kept from being read, and not its content, can be read now."""
    for file, error in zip(files, errors, strict=True):
        if error and (error.endswith(OF_SYSTEM) or "MemoryError" in error):
            with contextlib.suppress(UnreadableImageError):
                read_image(Path(file), look.image_size)
                return True
    return False


def _open(
    place: Path, look: Look, files: Sequence[str], shared: dict[tuple, ImageStats], known: bool = False
) -> PixelCache | None:
    """Open a cache and mark it as used; None if it does not exist or is damaged, in which case it is removed.

    Args:
        known: whether the cache is from an earlier command. If files have become readable since then, it is renamed, so the
            new cache can reuse it as an earlier one.

    Raises:
        PermissionError: the cache may not be read, or not be renamed.
    """
    if not place.is_dir():
        return None
    damage = None
    try:
        cache = open_place(place, look, len(files), _known(look, shared))
        if known and _newly_readable(files, look, cache.stats.errors):
            del cache  # Windows neither renames nor removes a folder with open files
            digest = hashlib.blake2b(place.name.encode(), digest_size=12).hexdigest()
            place.replace(place.with_name(f"{look.name()}-{digest}"))
            return None
    except PermissionError:
        raise
    except (ValueError, OSError) as error:
        damage = str(error)
    if damage is not None:  # here the error no longer holds the open files
        log.warning("pixel cache: %s; building it again", damage)
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
    """Build caches of one reading, one process at a time; return the reason if the disk cannot hold them, else None."""
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
        # EEXIST: a file where the folder should be; ENOENT: the folder was removed while it was written
        if error.errno not in (*DISK_ERRORS, errno.EEXIST, errno.ENOENT):
            raise
        return error.strerror
    return None


def _needed(files: Sequence[str], look: Look) -> int:
    """Return the size of a cache in bytes; for JPEGs it is estimated from a sample of the files."""
    if not look.jpeg_quality:
        return len(files) * look.image_bytes
    sizes = []
    with Progress("looking at a sample of the images", log):
        for row in np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int).tolist():
            with contextlib.suppress(Exception):  # the reading that follows reports the reason
                image = open_image(
                    Path(files[row]), look.image_size, None if look.value_range == "own" else look.value_range
                )
                sizes.append(len(encode(look, image)))
    mean = sum(sizes) / len(sizes) if sizes else look.image_bytes
    return int(ESTIMATE * mean * len(files))


def versions_of(files: Sequence[str]) -> np.ndarray:
    """Return (files, 2) uint64 that identify each file and its content by path, inode, size and times of change.

    The inode and its change time (ctime), which no program sets, tell apart copies of a folder with the same names, sizes and
    modification times.
    """
    digests, here, stat = bytearray(), Path.cwd(), os.stat
    for file in files:
        path = file if file[:1] == "/" else os.path.abspath(here / file)  # noqa: PTH100 links are followed by stat
        try:
            status = stat(path)
            version = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:  # a dangling link, or a file removed since it was listed: its row will hold the reason
            version = error.strerror
        text = f"{path}\0{version}".encode(errors="surrogateescape")
        digests += hashlib.blake2b(text, digest_size=VERSION_BYTES).digest()
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _size_of(cache: Path) -> int:
    """Return the size of a cache in bytes; files that it shares with other caches count by their share."""
    size = 0
    with contextlib.suppress(FileNotFoundError):  # another process is removing it
        for file in cache.iterdir():
            status = file.stat()
            size += status.st_size // status.st_nlink
    return size


def _make_room(place: Path, needed: int, limit: int, keep: Sequence[Path | None]) -> None:
    """Remove abandoned caches, and the least recently used ones while all together would exceed the limit.

    Args:
        place: of the cache to build, which may have been begun.
        keep: caches to remove after all others, in this order.

    Raises:
        OSError: the disk has no space for the new cache.
    """
    caches, folder = [], place.parent
    for cache in folder.iterdir():
        if not re.fullmatch(OWN_NAMES, cache.name) or not cache.is_dir() or cache.is_symlink():
            continue  # only what this module has made may be removed
        with contextlib.suppress(FileNotFoundError):  # another process has finished or removed it meanwhile
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
