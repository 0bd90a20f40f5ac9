"""Statistics of the images from one scan of the files: size, mode, fingerprint, and what near duplicates are found by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datamodules.decode import UnreadableImageError, read_image, resize, rgb
from datamodules.deep_pixels import DeepPixels, ValueRange

THUMBNAIL = 16  # pixels a side, gray


@dataclass
class ImageStats:
    """Hold statistics as columns of one length, a row a file. Rows of unreadable files hold an error and otherwise nothing."""

    fingerprints: list[str]
    errors: list[str]  # "" where the file could be read
    sizes: np.ndarray  # (rows, 2) int32: width and height in the file
    modes: list[str]  # Pillow's mode of the file
    thumbnails: np.ndarray  # (rows, THUMBNAIL, THUMBNAIL) uint8
    spreads: np.ndarray  # (rows, 2): of more than 8 bits a channel, between which values most lie; NaN for other images
    stated: np.ndarray  # (rows, 2): of these, the range that the file states; NaN where it states none

    @classmethod
    def empty(cls, rows: int) -> "ImageStats":
        return cls(
            fingerprints=[""] * rows,
            errors=[""] * rows,
            sizes=np.zeros((rows, 2), np.int32),
            modes=[""] * rows,
            thumbnails=np.zeros((rows, THUMBNAIL, THUMBNAIL), np.uint8),
            spreads=np.full((rows, 2), np.nan),
            stated=np.full((rows, 2), np.nan),
        )

    def copy_rows(self, rows: np.ndarray, other: "ImageStats", other_rows: np.ndarray) -> None:
        """Take rows of other statistics over."""
        for name, column in vars(self).items():
            others = getattr(other, name)
            if isinstance(column, np.ndarray):
                column[rows] = others[other_rows]
            else:
                for row, other_row in zip(rows.tolist(), other_rows.tolist(), strict=True):
                    column[row] = others[other_row]

    def save(self, path: Path) -> None:
        """Write one file of plain arrays."""
        np.savez(
            path, fingerprints=np.array(self.fingerprints), errors=np.array(self.errors), modes=np.array(self.modes),
            sizes=self.sizes, thumbnails=self.thumbnails, spreads=self.spreads, stated=self.stated,
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path, rows: int) -> "ImageStats":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or has another number of rows.
        """
        wanted = cls.empty(rows)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                texts = {name: saved[name].tolist() for name in ("fingerprints", "errors", "modes")}
                loaded = cls(**texts, **{name: saved[name] for name in ("sizes", "thumbnails", "spreads", "stated")})
        except Exception as error:  # numpy and zipfile raise what they like on a damaged file
            raise ValueError(f"{path}: damaged ({error})") from error
        for name, column in vars(loaded).items():
            if _layout(column) != _layout(getattr(wanted, name)):
                raise ValueError(f"{path}: damaged ({name} are {_layout(column)})")
        return loaded


def _layout(column: list | np.ndarray) -> tuple:
    return (column.shape, column.dtype) if isinstance(column, np.ndarray) else (len(column), type(column))


def scan_image(
    path: Path,
    row: int,
    stats: ImageStats,
    image_size: int,
    value_range: ValueRange | Literal["own"] | None,
) -> Image.Image | None:
    """Fill a row of the statistics; return the image, or None where the file cannot be read.

    Args:
        image_size: as of `read_image`.
        value_range: of images of more than 8 bits, as of `DecodedImage.rgb`; own: each is scaled by its own values, which is
            enough to compare images with.
    """
    try:
        decoded = read_image(path, image_size)
        deep = decoded.source if isinstance(decoded.source, DeepPixels) else None
        if deep is not None:
            spread = deep.spread()
            stats.spreads[row], stats.stated[row] = spread, deep.stated or np.nan
        own = value_range == "own" and deep is not None
        image = rgb(decoded, path, ValueRange(*spread) if own else value_range)
    except UnreadableImageError as error:
        stats.errors[row] = str(error)
        return None
    stats.sizes[row], stats.modes[row] = decoded.size, decoded.mode
    stats.fingerprints[row] = decoded.fingerprint()
    stats.thumbnails[row] = resize(image.convert("L"), THUMBNAIL)
    return image
