"""Build pixel caches: decode each file once for all looks that share one reading, in threads.

Images that an earlier cache holds are reused, and a cache that another process was building when it ended is continued.
"""

import contextlib
import io
import itertools
import logging
import math
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.atomic_io import atomic_open
from common.errors import DISK_ERRORS
from common.processor_time import own_cores
from common.progress import Progress
from datamodules.image_stats import THUMBNAIL, ImageStats, scan_image
from datamodules.pixel_cache import JPEGS, PIXELS, PLACES, STATS, THUMBNAILS, VERSIONS, Look, open_place, write_sample

log = logging.getLogger(__name__)

CHUNK = 1024  # files that a thread pool is given at once; the futures of 100,000 would take much memory
ANNOUNCED = 2000  # images; reading this many takes a while
PART = 8  # files that a thread is given at once; handing out small files one by one takes a quarter of the time
JPEGS_BYTES = 2**30  # size of one file of JPEGs
SAVED_S = 30.0  # seconds of reading after which progress is saved; about as much is lost when a process ends
SILENT_S = 10 * SAVED_S  # a folder without a write for this long belongs to a process that has ended
STATE = "state.npz"  # progress of a cache that is being built


class Earlier(NamedTuple):
    """Hold which rows of an earlier cache can be reused."""

    place: Path
    count: int  # number of its images
    rows: np.ndarray  # rows of the new cache
    earlier_rows: np.ndarray  # rows of the same images in the earlier one


def find_earlier(place: Path, look: Look, versions: np.ndarray) -> Earlier | None:
    """Find the cache of the same look that holds most of these files.

    Args:
        versions: (files, 2) uint64.
    """
    best = None
    for other in place.parent.glob(f"{look.name()}-" + "[0-9a-f]" * 24):  # not what is being built
        with contextlib.suppress(Exception):  # it may be damaged, and NumPy's errors are of any type, or being removed
            held = np.load(other / VERSIONS, allow_pickle=False)
            _, rows, earlier_rows = np.intersect1d(versions[:, 0], held[:, 0], return_indices=True)
            same = versions[rows, 1] == held[earlier_rows, 1]
            if same.any() and (best is None or same.sum() > len(best.rows)):
                best = Earlier(other, len(held), rows[same], earlier_rows[same])
    return best


def build(
    files: Sequence[str], versions: np.ndarray, places: Mapping[Look, Path], earlier: Mapping[Look, Earlier | None]
):
    """Write the caches of looks that share one reading; each is complete or absent, even if two processes build it.

    Args:
        versions: (files, 2) uint64 from `versions_of`, which identify the files and their content.
        places: folder of the cache for each look.
        earlier: an earlier cache for each look whose images are reused, if there is one.

    Raises:
        OSError: the disk cannot hold the caches.
    """
    building = _claim(places, versions) or _Building.begin(places, versions)
    try:
        if building.rows is None:
            building.take_over(earlier)
        building.announce()
        building.read(files)
        building.finish(places)
    except OSError:
        building.keeps = False
        raise
    finally:
        building.close()
        if not building.keeps:
            shutil.rmtree(building.folder, ignore_errors=True)


def _claim(places: Mapping[Look, Path], versions: np.ndarray) -> "_Building | None":
    """Return what another process began to build for the same files before it ended; None if there is no such folder."""
    first = next(iter(places.values()))
    for folder in first.parent.glob(f"{first.name}.building-*"):
        with contextlib.suppress(Exception):  # numpy and zipfile raise what they like on a damaged file
            host, _, process = folder.name.partition(".building-")[2].rpartition("-")[0].rpartition("-")
            here = host == socket.gethostname() and not _runs(int(process))
            if (here or time.time() - folder.stat().st_mtime > SILENT_S) and np.array_equal(
                np.load(folder / VERSIONS, allow_pickle=False), versions
            ):
                mine = _own_folder(first)
                folder.replace(mine)  # if two processes claim it, one fails
                return _Building(mine, places, len(versions))
    return None


def _runs(process: int) -> bool:
    if process == os.getpid() or sys.platform == "win32":  # on Windows, os.kill(process, 0) is a Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        pass
    return True


def _reserve(path: Path) -> None:
    """Reserve the disk space of a mapped file: writing to it when the disk has become full would kill the process."""
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:  # not every file system can
            if error.errno in DISK_ERRORS:
                raise


def _own_folder(place: Path) -> Path:
    """Make a folder that names this process."""
    prefix = f"{place.name}.building-{socket.gethostname()}-{os.getpid()}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))


class _Building:
    """A folder in which caches of several looks are built, each in its own folder, with one set of statistics.

    Attributes:
        rows: rows to read; None until it is known what can be reused.
        keeps: whether enough was read to keep the folder for another process to continue.
    """

    def __init__(self, folder: Path, places: Mapping[Look, Path], count: int):
        self.folder, self.keeps, self._count = folder, False, count
        self.rows, self._done = None, 0
        state = None
        if (folder / STATE).is_file():
            with (folder / STATE).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                state = saved["rows"], int(saved["done"])
        self._thumbnails = any(look.gray_from for look in places)
        thumbnails = self._map_thumbnails("r+" if state else "w+")
        self.writers = {
            look: (_JpegWriter if look.jpeg_quality else _ArrayWriter)(folder / look.name(), look, count)
            for look in places
        }
        if state is None:
            self.stats = ImageStats.empty(count, thumbnails)
        else:
            self.stats = ImageStats.load(folder / STATS, count, thumbnails)
            (self.rows, self._done), self.keeps = state, True

    @classmethod
    def begin(cls, places: Mapping[Look, Path], versions: np.ndarray) -> "_Building":
        folder = _own_folder(next(iter(places.values())))
        try:
            np.save(folder / VERSIONS, versions)
            return cls(folder, places, len(versions))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _map_thumbnails(self, mode: str) -> np.ndarray:
        shape = (self._count if self._thumbnails else 0, THUMBNAIL, THUMBNAIL)
        if not shape[0]:
            return np.zeros(shape, np.uint8)
        path = self.folder / THUMBNAILS
        thumbnails = np.lib.format.open_memmap(path, mode, np.uint8, shape)
        if mode == "w+":
            _reserve(path)
        return thumbnails

    def take_over(self, earlier: Mapping[Look, Earlier | None]) -> None:
        """Copy what earlier caches hold, and decide which files are read: those that are missing for any look."""
        lacks = np.zeros(self._count, bool)
        for look, found in earlier.items():
            held = np.zeros(self._count, bool)
            held[self._copy(look, found) if found else []] = True
            lacks |= ~held
        self.rows = np.flatnonzero(lacks)

    def _copy(self, look: Look, earlier: Earlier) -> np.ndarray:
        """Copy pixels, statistics and answers about near duplicates; return the rows that need no decoding.

        Files that could not be read are read again, since the reason may be gone.
        """
        try:
            held = open_place(earlier.place, look, earlier.count)
            whole = np.array([not held.stats.errors[row] for row in earlier.earlier_rows.tolist()], bool)
            earlier = earlier._replace(rows=earlier.rows[whole], earlier_rows=earlier.earlier_rows[whole])
            self.writers[look].take(earlier, held)
            for known in earlier.place.glob("near*.npz"):  # not its lock
                shutil.copyfile(known, self.folder / look.name() / known.name)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            log.warning("pixel cache: %s; its images are decoded again", error)
            return np.empty(0, np.int64)
        self.stats.copy_rows(earlier.rows, held.stats, earlier.earlier_rows)
        return earlier.rows

    def announce(self) -> None:
        """Log what is read, if that takes a while or is only a part of the files."""
        left = len(self.rows) - self._done
        if left >= ANNOUNCED or 0 < left < self._count:
            what = f"{left:,}" if left == self._count else f"{left:,} of {self._count:,}"
            compared = " to compare them with each other" if all(look.gray_from for look in self.writers) else ""
            before = ", from where an earlier command ended" if self._done else ""
            log.info("reading %s images%s%s; later runs find them below %s", what, compared, before, self.folder.parent)

    def read(self, files: Sequence[str]) -> None:
        """Decode the files, fill the statistics and write the pixels; save the progress now and then."""
        between, saved_s = _between(self.writers), time.monotonic()

        def write(row: int, image: Image.Image) -> None:
            image = between.resize(image) if between else image
            for writer in self.writers.values():
                writer.write(row, image)

        for done in scan(files, self.rows, self._done, self.stats, next(iter(self.writers)), write):
            if time.monotonic() - saved_s > SAVED_S:
                self._save(done)
                saved_s = time.monotonic()

    def _save(self, done: int) -> None:
        for writer in self.writers.values():
            writer.flush()
        self.stats.save(self.folder / STATS)
        if self._thumbnails:
            self.stats.thumbnails.flush()
            self.stats.thumbnails = self._map_thumbnails("r+")  # else all of its pages would count as this process's
        with atomic_open(self.folder / STATE, "wb") as file:
            np.savez(file, rows=self.rows, done=done)
        os.utime(self.folder)
        self.keeps = True

    def finish(self, places: Mapping[Look, Path]) -> None:
        """Give each cache its name."""
        for writer in self.writers.values():
            writer.flush()
        self.stats.save(self.folder / STATS)
        self.close()
        for look, place in places.items():
            own = self.folder / look.name()
            for name in (STATS, VERSIONS, *([THUMBNAILS] if look.gray_from else [])):
                shutil.copyfile(self.folder / name, own / name)
            write_sample(own, look, self.stats)
            try:
                own.rename(place)
            except OSError:
                if not place.is_dir():  # if it is there, another process was first, with the same files
                    raise
        self.keeps = False

    def close(self) -> None:
        """Close the files, since Windows neither renames nor removes a folder with open ones."""
        for writer in self.writers.values():
            writer.close()
        self.stats.thumbnails = self.stats.thumbnails[:0].copy()


def scan(
    files: Sequence[str],
    rows: np.ndarray,
    begin: int,
    stats: ImageStats,
    look: Look,
    write: Callable[[int, Image.Image], None] = lambda row, image: None,
) -> Iterator[int]:
    """Decode the files of `rows[begin:]` in threads (Pillow releases the GIL); fill their statistics and `write` each image.

    Yield now and then how many of the rows are done, while no thread is working.
    """
    done = itertools.count(begin + 1)

    def decode(row: int) -> None:
        image = scan_image(files[row], row, stats, look.image_size, look.value_range)
        if image is not None:
            write(row, image)
        progress.count(next(done), len(rows))

    def decode_part(part: list[int], until_s: float) -> int:
        """Return how many were decoded: none if it is too late, so slow files do not delay the next save."""
        if time.monotonic() > until_s:
            return 0
        for row in part:
            decode(row)
        return len(part)

    with ThreadPoolExecutor(len(own_cores())) as pool, Progress("reading the images", log) as progress:
        start = begin
        while start < len(rows):
            chunk = rows[start : start + CHUNK].tolist()
            parts = [chunk[first : first + PART] for first in range(0, len(chunk), PART)]
            until_s = [math.inf, *[time.monotonic() + SAVED_S / 2] * (len(parts) - 1)]
            start += sum(itertools.takewhile(bool, [*pool.map(decode_part, parts, until_s)]))
            yield start


def read_statistics(files: Sequence[str], look: Look) -> ImageStats:
    """Return the statistics of files whose pixels are not cached."""
    stats = ImageStats.empty(len(files))
    for _ in scan(files, np.arange(len(files)), 0, stats, look):
        pass
    return stats


def _between(looks: Iterable[Look]) -> Look | None:
    """Return the look that all others are made from if it is one of them, so no image is resized to it twice; else None."""
    plain = {look: look._replace(jpeg_quality=None) for look in looks}
    made_from = {each.between for each in plain.values() if each.gray_from}
    for look, each in plain.items():
        if made_from == {each} and all(other.gray_from or other == each for other in plain.values()):
            return look
    return None


class _ArrayWriter:
    """Write images of one look into one array file; rows that cannot be read stay black."""

    def __init__(self, folder: Path, look: Look, count: int):
        folder.mkdir(exist_ok=True)
        self.look = look
        header = io.BytesIO()
        shape = (count, look.image_size, look.image_size, look.channels)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._begin = len(header.getvalue())
        path = folder / PIXELS
        self._lock = threading.Lock()
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.write(header.getvalue())
        self._file.truncate(self._begin + count * look.image_bytes)

    def write(self, row: int, image: Image.Image) -> None:
        self._put(row, self.look.resize(image).tobytes())

    def _put(self, row: int, pixels: bytes) -> None:
        with self._lock:  # Windows has no os.pwrite
            self._file.seek(self._begin + row * self.look.image_bytes)
            self._file.write(pixels)

    def take(self, earlier: Earlier, cache) -> None:
        for row, earlier_row in zip(earlier.rows.tolist(), earlier.earlier_rows.tolist(), strict=True):
            self._put(row, cache[earlier_row].tobytes())

    def flush(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _JpegWriter:
    """Write images of one look as JPEGs into files of 1 GiB."""

    def __init__(self, folder: Path, look: Look, count: int):
        folder.mkdir(exist_ok=True)
        self.folder, self.look = folder, look
        self._lock, self._file, self._number, self._end = threading.Lock(), None, 0, 0
        path = folder / PLACES
        self.places = np.load(path, allow_pickle=False) if path.exists() else np.zeros((count, 3), np.uint32)

    def write(self, row: int, image: Image.Image) -> None:
        self._put(row, encode(self.look, image))

    def _put(self, row: int, content: bytes) -> None:
        with self._lock:
            if self._file is None or self._end + len(content) > JPEGS_BYTES:
                self.close()
                while (self.folder / JPEGS.format(self._number)).exists():  # another cache may share this file
                    self._number += 1
                self._file, self._end = (self.folder / JPEGS.format(self._number)).open("xb", buffering=0), 0
            self._file.write(content)
            self.places[row] = self._number, self._end, len(content)
            self._end += len(content)

    def take(self, earlier: Earlier, cache) -> None:
        """Link or copy the files of an earlier cache; if most of its JPEGs are not needed, copy only the JPEGs that are."""
        places = cache.places[earlier.earlier_rows]
        names = [JPEGS.format(number) for number in np.unique(places[places[:, 2] > 0, 0]).tolist()]
        if 2 * int(places[:, 2].sum(dtype=np.int64)) < sum((earlier.place / name).stat().st_size for name in names):
            for row, earlier_row in zip(earlier.rows.tolist(), earlier.earlier_rows.tolist(), strict=True):
                if content := cache.content(earlier_row):
                    self._put(row, content)
            return
        for name in names:
            try:
                os.link(earlier.place / name, self.folder / name)
            except OSError:  # a file system without links
                shutil.copyfile(earlier.place / name, self.folder / name)
        self.places[earlier.rows] = places

    def flush(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
        with atomic_open(self.folder / PLACES, "wb") as file:
            np.save(file, self.places)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def encode(look: Look, image: Image.Image) -> bytes:
    """Return the JPEG of an RGB image in this look, without chroma subsampling."""
    buffer = io.BytesIO()
    look.resize(image).save(buffer, "JPEG", quality=look.jpeg_quality, subsampling=0)
    return buffer.getvalue()
