"""Statistics of the images from one scan of the files: size, mode, fingerprint, and what near duplicates are found by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.decode import UnreadableImageError, fingerprint, read_image, resize

THUMBNAIL = 16  # pixels a side, gray


@dataclass
class ImageStats:
    """Hold statistics as columns of one length, a row a file. Rows of unreadable files hold an error and otherwise nothing."""

    fingerprints: list[str]
    errors: list[str]  # "" where the file could be read
    sizes: np.ndarray  # (rows, 2) int32: width and height in the file
    modes: list[str]  # Pillow's mode of the file
    thumbnails: np.ndarray  # (rows, THUMBNAIL, THUMBNAIL) uint8

    @classmethod
    def empty(cls, rows: int) -> "ImageStats":
        return cls(
            fingerprints=[""] * rows,
            errors=[""] * rows,
            sizes=np.zeros((rows, 2), np.int32),
            modes=[""] * rows,
            thumbnails=np.zeros((rows, THUMBNAIL, THUMBNAIL), np.uint8),
        )

    def save(self, path: Path) -> None:
        """Write one file of plain arrays."""
        np.savez(
            path, fingerprints=np.array(self.fingerprints), errors=np.array(self.errors), modes=np.array(self.modes),
            sizes=self.sizes, thumbnails=self.thumbnails,
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
                loaded = cls(**texts, **{name: saved[name] for name in ("sizes", "thumbnails")})
        except Exception as error:  # numpy and zipfile raise what they like on a damaged file
            raise ValueError(f"{path}: damaged ({error})") from error
        for name, column in vars(loaded).items():
            if _layout(column) != _layout(getattr(wanted, name)):
                raise ValueError(f"{path}: damaged ({name} are {_layout(column)})")
        return loaded


def _layout(column: list | np.ndarray) -> tuple:
    return (column.shape, column.dtype) if isinstance(column, np.ndarray) else (len(column), type(column))


def scan_image(path: Path, row: int, stats: ImageStats, image_size: int, fit: str) -> Image.Image | None:
    """Fill a row of the statistics; return the image as `decode.resize` makes it, or None where the file cannot be read."""
    try:
        image, stats.sizes[row], stats.modes[row] = read_image(path, image_size)
    except UnreadableImageError as error:
        stats.errors[row] = str(error)
        return None
    stats.fingerprints[row] = fingerprint(image)
    stats.thumbnails[row] = resize(image.convert("L"), THUMBNAIL)
    return resize(image, image_size, fit)
