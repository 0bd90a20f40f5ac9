"""Find one range of values for a data set's images of more than 8 bits per channel, and the images that hardly use it."""

import numpy as np

from common.text import join_words, plural
from datamodules.audit import Finding
from datamodules.deep_pixels import ValueRange
from datamodules.image_stats import ImageStats
from datamodules.sources.catalog import Catalog

OUTERMOST = 0.05  # share of the images at either end that may be outliers; at least one image, if there are FEW or more
FEW = 10
APART = 1.0  # an image further out than this many times the range of the others is an outlier
FEW_LEVELS = 32  # of 256 gray levels
NAMED = 5  # files on the screen


def training_range(catalog: Catalog, stats: ImageStats) -> ValueRange | None:
    """Return the range of the training images that state none themselves; None if all of them have 8 bits or state one.

    It reaches from the darkest to the brightest image, without the few outlier images, such as an overexposed one among images
    of a 12-bit camera, and without the outlier values of each image (`DeepPixels.spread`).
    """
    rows = catalog.rows("train")
    rows = rows[(stats.deep & ~stats.states_range)[rows]]
    if not len(rows):
        return None
    lows, highs = np.sort(stats.spreads[rows], axis=0).T
    apart = max(1, int(OUTERMOST * len(rows))) if len(rows) >= FEW else 0
    low, high = lows[apart], highs[len(rows) - 1 - apart]
    reach = APART * (high - low)
    return ValueRange(float(lows[lows >= low - reach][0]), float(highs[highs <= high + reach][-1]))


def describe_range(catalog: Catalog, stats: ImageStats, value_range: ValueRange | None) -> str | None:
    """Return a sentence for the screen on how pixels of more than 8 bits are scaled; None if there are none."""
    deep, states = catalog.present() & stats.deep, stats.states_range
    if value_range is not None and value_range.of_all:
        states[:] = False
    parts = []
    if n_states := int((deep & states).sum()):
        parts.append(f"{n_states:,} by the window or the bits that the file states")
    if n_others := int((deep & ~states).sum()):
        origin = "datamodule.range" if value_range and value_range.of_all else "most values of the training images"
        shown = f"{value_range} ({origin})" if value_range else "the full range of 16 bits (no training image has them)"
        parts.append(f"{n_others:,} by one range for all, {shown}")
    return f"more than 8 bits per channel, scaled to 8: {', '.join(parts)}" if parts else None


def mixed_depths(catalog: Catalog, stats: ImageStats) -> Finding | None:
    """Find images of more than 8 bits among images of 8 bits; scaling may be all that makes their brightness differ."""
    present, deep = catalog.present(), stats.deep
    n_deep, n = int((present & deep).sum()), int(present.sum())
    if n_deep in (0, n):
        return None
    number = len(catalog.classes)
    of_class = np.bincount(catalog.labels[present], minlength=number)
    deep_of_class = np.bincount(catalog.labels[present & deep], minlength=number)
    shares = deep_of_class / np.maximum(of_class, 1)
    shares[of_class == 0] = np.nan
    most, least = int(np.nanargmax(shares)), int(np.nanargmin(shares))
    ends = [f"{deep_of_class[k]:,} of {of_class[k]:,} of class {catalog.classes[k]}" for k in (most, least)]
    skew = ", ".join(ends) if most != least else f"{shares[most]:.1%} of each class"
    deep_are_fewer = 2 * n_deep <= n
    named = join_words([catalog.paths[row] for row in np.flatnonzero(present & (deep == deep_are_fewer))], NAMED)
    kind = "more than 8 bits" if deep_are_fewer else "8 bits"
    text = (f"bit depth: {plural(n_deep, 'image')} of more than 8 bits per channel ({skew}) and {n - n_deep:,} of 8: scaled to "
            f"8 bits, they may differ in brightness only because of this, "
            f"which a network can learn; those of {kind}: {named}")  # fmt: skip
    return Finding("bit depth", text, [])


def few_levels(catalog: Catalog, stats: ImageStats, value_range: ValueRange | None) -> Finding | None:
    """Find images of more than 8 bits that have few levels left in 8 bits, since they use a small part of the range."""
    rows = np.flatnonzero(catalog.present() & stats.deep)
    ends = stats.stated[rows].copy()
    if value_range is not None:
        ends[np.isnan(ends).any(axis=1) | value_range.of_all] = value_range.low, value_range.high
    known = np.isfinite(ends).all(axis=1)  # False if no range is known and the full range of 16 bits is used
    ends[~known] = 0, 65535
    inside = np.clip(stats.spreads[rows], ends[:, :1], ends[:, 1:])
    share = (inside[:, 1] - inside[:, 0]) / np.maximum(ends[:, 1] - ends[:, 0], np.finfo(float).tiny)
    levels = np.floor(share * 255).astype(int) + 1
    few = levels < FEW_LEVELS
    if not few.any():
        return None
    order = np.argsort(levels[few], kind="stable")
    found, counts = rows[few][order], levels[few][order]
    named = join_words([f"{catalog.paths[row]} ({count})" for row, count in zip(found, counts, strict=True)], NAMED)
    text = (f"few levels: {plural(len(found), 'image')} of more than 8 bits per channel with fewer than {FEW_LEVELS} of "
            f"the 256 gray levels: {named}; datamodule.range=LOW,HIGH sets "
            "which values become black and white")  # fmt: skip
    return Finding("few levels", text, [[int(row)] for row in found])
