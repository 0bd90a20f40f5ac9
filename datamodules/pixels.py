"""Pixel store: every picture decoded and resized once, kept as uint8 in a memory-mapped file.

All loader workers, processes and runs of a sweep share its pages. A store is found again by what it was made from.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .decode import DECODER, UnreadablePictureError, fingerprint, open_picture, resize

log = logging.getLogger(__name__)

SHOWN = 20  # unreadable files named on the screen


class PixelStore:
    """`pixels[row]` is an (H, W, 3) uint8 array; `fingerprints[row]` names the picture before it was resized."""

    def __init__(self, pixels: np.ndarray, fingerprints: list[str]):
        self.pixels = pixels
        self.fingerprints = fingerprints

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.pixels[row]


def open_store(files: Sequence[Path], image_size: int, folder: Path) -> PixelStore:
    """The store of these files in this order, built where it is not there yet.

    Raises:
        ValueError: files that are no pictures, all of them listed.
    """
    place = folder / _key(files, image_size)
    if not place.is_dir():
        try:
            _build(files, image_size, place)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM):
                raise
            log.warning(
                "pixel store: %s cannot be written (%s); pictures are held in memory instead", folder, error.strerror
            )
            pixels = np.empty((len(files), image_size, image_size, 3), np.uint8)
            return PixelStore(pixels, _decode_all(files, pixels))
    os.utime(place)  # last used
    return PixelStore(
        np.load(place / "pixels.npy", mmap_mode="r"), json.loads((place / "fingerprints.json").read_text())
    )


def _key(files: Sequence[Path], image_size: int) -> str:
    """Names what the store is made from: files with their size and time of change, size of a picture, decoder."""
    digest = hashlib.blake2b(f"{DECODER} {image_size}".encode(), digest_size=12)
    for file in files:
        stat = file.stat()
        digest.update(f"\0{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _build(files: Sequence[Path], image_size: int, place: Path) -> None:
    """Writes into a folder of another name and renames it: a store is whole or absent, also with two builders."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(files), image_size, image_size, 3)
    needed = int(np.prod(shape)) + 2**20
    if shutil.disk_usage(place.parent).free < needed:
        raise OSError(errno.ENOSPC, f"no space for {needed / 2**20:,.0f} MiB")
    building = Path(tempfile.mkdtemp(prefix=f"{place.name}.building-", dir=place.parent))
    try:
        pixels = np.lib.format.open_memmap(building / "pixels.npy", "w+", np.uint8, shape)
        fingerprints = _decode_all(files, pixels)
        pixels.flush()
        (building / "fingerprints.json").write_text(json.dumps(fingerprints))
        building.rename(place)
    except OSError:
        if not place.is_dir():  # otherwise another process was first: its store is the same
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(files: Sequence[Path], pixels: np.ndarray) -> list[str]:
    """Fills `pixels` and returns the fingerprints. In threads: Pillow lets go of the interpreter while it works."""
    unreadable = []

    def decode(row: int) -> str:
        try:
            image = open_picture(files[row])
        except UnreadablePictureError as error:
            unreadable.append(str(error))
            return ""
        pixels[row] = resize(image, pixels.shape[1])
        return fingerprint(image)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        fingerprints = list(pool.map(decode, range(len(files))))
    if unreadable:
        listed = "\n  ".join(sorted(unreadable)[:SHOWN])
        more = f"\n  and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
        raise UnreadablePictureError(
            f"{len(unreadable)} of {len(files)} files cannot be read; repair or remove them:\n  {listed}{more}"
        )
    return fingerprints
