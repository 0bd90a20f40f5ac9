"""Pixels of more than 8 bits per channel, and how they become 8 bits.

The values of 16-bit cameras, microscopes and CT do not show which value is black and which is white. Scaled by its own
extremes, an image would lose its exposure, so one range applies to all images of a data set, in training and in the checkpoint.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError

DARK, BRIGHT = 0.1, 99.9  # percentiles that bound an image's values, so a hot or dead pixel decides nothing
APART = 0.1  # an extreme further out than this share of the distance between the percentiles is an outlier
MOST_VALUES = 2**20  # values of an image that the percentiles are computed from


class ValueRange(NamedTuple):
    """Hold which values of pixels of more than 8 bits become 0 and 255."""

    low: float
    high: float
    of_all: bool = False  # applies also to files that state a range themselves

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class DeepPixels:
    """Hold the values of one image as its file has them.

    Attributes:
        values: (H, W), or (H, W, C) with 1 to 4 channels: gray or RGB, perhaps with alpha.
        stated: the range that the file itself states, such as a window or the bits of a camera; None if it states none.
        inverted: whether low values are white.
        turn: how to turn the image upright; None if it is upright.
        has_alpha: whether the last channel is alpha.
        is_first_of_several: whether the file has more pages or frames.
        is_sigmoid: whether the stated range is a window of a sigmoid (DICOM PS3.3 C.11.2.1.3.1), which clips nothing.
    """

    values: np.ndarray
    stated: tuple[float, float] | None = None
    inverted: bool = False
    turn: Image.Transpose | None = None
    has_alpha: bool = False
    is_first_of_several: bool = False
    is_sigmoid: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[0]

    @property
    def colors(self) -> np.ndarray:
        """The values without an alpha channel."""
        return self.values[..., :-1] if self.has_alpha else self.values

    def spread(self) -> tuple[float, float]:
        """Return the bounds of nearly all values: at each end the extreme, or the outer percentile if that is an outlier."""
        pixels = self.colors.reshape(self.values.shape[0] * self.values.shape[1], -1)
        values = pixels[:: -(-pixels.size // MOST_VALUES)].ravel()  # whole pixels: every third value may be only red
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            return 0.0, 0.0
        low, high = map(float, np.percentile(values, (DARK, BRIGHT), method="nearest"))
        least, most = float(values.min()), float(values.max())
        near = APART * (high - low)
        return least if low - least <= near else low, most if most - high <= near else high

    def range_of(self, given: ValueRange | None) -> tuple[float, float]:
        """Return the range that applies: the file's own, unless the given one is for all files; else the given one.

        If neither exists, because a network was trained on images of 8 bits, it is the full range of an 8- or 16-bit type.

        Raises:
            UserError: no range is known.
        """
        if given is not None and (given.of_all or self.stated is None):
            return given.low, given.high
        if self.stated is not None:
            return self.stated
        if self.values.dtype.kind == "u" and self.values.dtype.itemsize <= 2:
            return 0.0, float(np.iinfo(self.values.dtype).max)
        raise UserError(
            f"its pixels are {self.values.dtype}, whose black and white are not known, since the network was trained on "
            "images of 8 bits; convert it to 8 bits like those"
        )

    def share_outside(self, low: float, high: float) -> float:
        """Return the share of values that become black or white because they are below `low` or above `high`."""
        return float(((self.colors < low) | (self.colors > high)).mean())

    def to_image(self, low: float, high: float) -> Image.Image:
        """Return an upright image of 8 bits per channel in which `low` is 0 and `high` is 255: L, LA, RGB or RGBA.

        Raises:
            UserError: some pixels are NaN.
        """
        pixels = self.colors
        if np.isnan(pixels).any():
            raise UserError("some of its pixels are NaN")
        if self.is_sigmoid and (low, high) == self.stated:
            exponent = -4 * (pixels.astype(np.float64) - (low + high) / 2) / (high - low)
            pixels = (255 / (1 + np.exp(exponent.clip(max=100)))).round().astype(np.uint8)
        elif (pixels.dtype, low, high) != (np.uint8, 0, 255):
            scaled = (pixels.astype(np.float64).clip(low, high) - low) * (255 / (high - low) if high > low else 0.0)
            pixels = scaled.round().astype(np.uint8)
        if self.inverted:
            pixels = 255 - pixels
        if self.has_alpha and not self._is_opaque():
            alpha = self.values[..., -1:]
            of_type = np.iinfo(alpha.dtype).max if alpha.dtype in (np.uint8, np.uint16) else alpha.max()
            most = self.stated[1] if self.stated else of_type  # only a TIFF of few bits states a range and has alpha
            alpha = (alpha * (255 / most)).clip(0, 255).round().astype(np.uint8)
            pixels = np.concatenate([pixels, alpha], axis=2)
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        return image if self.turn is None else image.transpose(self.turn)

    def _is_opaque(self) -> bool:
        """Return whether alpha can be ignored: it has one value everywhere, whatever counts as opaque, or is not valid."""
        alpha = self.values[..., -1]
        return bool(alpha.min() == alpha.max() > 0) or not np.isfinite(alpha).all() or alpha.max() <= 0

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the values, independent of the range."""
        described = f"{self.values.shape} {self.values.dtype.str} {self.inverted}"
        digest = hashlib.blake2b(described.encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self.values).tobytes())
        return digest.hexdigest()


def parse_range(setting: object) -> ValueRange | None:
    """Return the range that a user gives for all images, LOW,HIGH as a text or list; None for `auto`.

    Raises:
        UserError: the setting is not a range.
    """
    parts = setting.split(",") if isinstance(setting, str) else setting
    if setting == "auto":
        return None
    try:
        low, high = (float(part) for part in parts if not isinstance(part, bool))
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        typed = ",".join(map(str, setting)) if isinstance(setting, list) else setting
        raise UserError(
            f"datamodule.range={typed}: use auto, or the values that become black and white, e.g. datamodule.range=0,4095"
        )
    return ValueRange(low, high, of_all=True)
