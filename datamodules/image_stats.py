"""Statistics of the images from one scan of the files: size, mode, fingerprint, and thumbnails to find near duplicates."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datamodules.decode import UnreadableImageError, read_image, resize
from datamodules.deep_pixels import DeepPixels, ValueRange

THUMBNAIL = 16  # pixels per side, gray
NUMERIC = ("sizes", "spreads", "stated")  # columns that are saved as they are


class Fingerprints(Sequence):
    """Hold the images' fingerprints, 16 hex digits each, as numbers: a million texts would take nine times the memory.

    Attributes:
        numbers: (rows,) uint64; 0 if there is none, with "" as its text.
    """

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> str:
        number = int(self.numbers[row])
        return f"{number:016x}" if number else ""

    def __setitem__(self, row: int, text: str) -> None:
        self.numbers[row] = int(text, 16)

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self.numbers), 2**16):
            for number in self.numbers[begin : begin + 2**16].tolist():
                yield f"{number:016x}" if number else ""


@dataclass
class ImageStats:
    """Hold statistics as columns of one length, one row per file. Rows of unreadable files hold only an error."""

    fingerprints: Fingerprints
    errors: list[str]  # "" if the file could be read
    sizes: np.ndarray  # (rows, 2) int32: width and height in the file
    modes: list[str]  # Pillow's mode of the file
    thumbnails: np.ndarray  # (rows, THUMBNAIL, THUMBNAIL) uint8, or (0, ...) if they are not needed
    spreads: np.ndarray  # (rows, 2) bounds of most values of images with more than 8 bits per channel; NaN for others
    stated: np.ndarray  # (rows, 2) range that the file of such an image states; NaN if it states none

    @property
    def deep(self) -> np.ndarray:
        """Whether each image has more than 8 bits per channel, (rows,) bool."""
        return np.isfinite(self.spreads).all(axis=1)

    @property
    def states_range(self) -> np.ndarray:
        """Whether each file states a range, (rows,) bool."""
        return np.isfinite(self.stated).all(axis=1)

    @classmethod
    def empty(cls, rows: int, thumbnails: np.ndarray | None = None) -> "ImageStats":
        """Return empty statistics; `thumbnails` may be mapped from a file, so its pages do not count as this process's."""
        if thumbnails is None:
            thumbnails = np.zeros((rows, THUMBNAIL, THUMBNAIL), np.uint8)
        return cls(
            fingerprints=Fingerprints(np.zeros(rows, np.uint64)),
            errors=[""] * rows,
            sizes=np.zeros((rows, 2), np.int32),
            modes=[""] * rows,
            thumbnails=thumbnails,
            spreads=np.full((rows, 2), np.nan),
            stated=np.full((rows, 2), np.nan),
        )

    def copy_rows(self, rows: np.ndarray, other: "ImageStats", other_rows: np.ndarray) -> None:
        """Copy rows of other statistics."""
        self.fingerprints.numbers[rows] = other.fingerprints.numbers[other_rows]
        for name in (*NUMERIC, "thumbnails"):
            if len(getattr(self, name)) and len(getattr(other, name)):
                getattr(self, name)[rows] = getattr(other, name)[other_rows]
        for row, other_row in zip(rows.tolist(), other_rows.tolist(), strict=True):
            self.errors[row], self.modes[row] = other.errors[other_row], other.modes[other_row]

    def save(self, path: Path) -> None:
        """Write one file of plain arrays, without the thumbnails, which have a file of their own."""
        failed = [row for row, error in enumerate(self.errors) if error]
        names = sorted(set(self.modes))
        codes = {name: code for code, name in enumerate(names)}
        np.savez(
            path, fingerprints=self.fingerprints.numbers, failed=np.array(failed, np.int64),
            errors=np.array([self.errors[row] for row in failed], str), mode_names=np.array(names, str),
            modes=np.fromiter((codes[mode] for mode in self.modes), np.uint16, len(self.modes)),
            **{name: getattr(self, name) for name in NUMERIC},
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path, rows: int, thumbnails: np.ndarray | None = None) -> "ImageStats":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or has another number of rows.
            PermissionError: the file may not be read.
        """
        loaded = cls.empty(0, thumbnails)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                columns = {name: saved[name] for name in ("fingerprints", *NUMERIC)}
                kinds = vars(loaded) | {"fingerprints": loaded.fingerprints.numbers}
                for name, column in columns.items():
                    if (column.shape, column.dtype) != ((rows, *kinds[name].shape[1:]), kinds[name].dtype):
                        raise ValueError(f"{name} are {column.shape} {column.dtype}")
                loaded.fingerprints = Fingerprints(columns.pop("fingerprints"))
                vars(loaded).update(columns)
                loaded.errors = [""] * rows
                names = [sys.intern(name) for name in saved["mode_names"].tolist()]
                loaded.modes = [names[code] for code in saved["modes"].tolist()]
                for row, error in zip(saved["failed"].tolist(), saved["errors"].tolist(), strict=True):
                    loaded.errors[row] = error
            if len(loaded.modes) != rows or len(loaded.thumbnails) not in (0, rows):
                raise ValueError(f"{len(loaded.modes):,} modes, {len(loaded.thumbnails):,} thumbnails")
        except PermissionError:
            raise
        except Exception as error:  # for a damaged file, numpy and zipfile raise errors of any type
            raise ValueError(f"{path}: damaged ({error})") from error
        return loaded


def scan_image(
    path: Path | str,
    row: int,
    stats: ImageStats,
    image_size: int,
    value_range: ValueRange | Literal["own"] | None,
) -> Image.Image | None:
    """Fill a row of the statistics; return the image, or None if the file cannot be read.

    Args:
        image_size: see `read_image`.
        value_range: range for images of more than 8 bits, see `DecodedImage.rgb`; own: each image is scaled by its own values,
            which is enough to compare images.
    """
    try:
        decoded = read_image(Path(path), image_size)
        deep = decoded.source if isinstance(decoded.source, DeepPixels) else None
        if deep is not None:
            spread = deep.spread()
            stats.spreads[row], stats.stated[row] = spread, deep.stated or np.nan
        own = value_range == "own" and deep is not None
        image = decoded.rgb(ValueRange(*spread) if own else value_range, path)
    except UnreadableImageError as error:
        stats.errors[row] = str(error)
        return None
    stats.sizes[row], stats.modes[row] = decoded.size, sys.intern(decoded.mode)
    stats.fingerprints[row] = decoded.fingerprint()
    if len(stats.thumbnails):
        stats.thumbnails[row] = resize(image.convert("L"), THUMBNAIL)
    return image
