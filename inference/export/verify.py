"""Whether a file says what its checkpoint says: on which images, and how far apart the two are."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.decode import UnreadableImageError, open_image, resize
from evaluation.intervals import accuracy_entry, format_accuracy
from inference.backends import Backend
from inference.image_inputs import ImageInput, ImageInputs

log = logging.getLogger(__name__)

PROVED_ON = 200  # images, of a float file
MEASURED_ON = 2000  # images, of an int8 file, which has another accuracy
CALIBRATED_ON = 200  # images
TOGETHER = 16  # images of the batch that proves that a batch can be had
WORDS = {"val": " validation", "train": " training", "": ""}  # of splits; test stays closed


class VerificationImages(NamedTuple):
    """Images to compare on, and in words which ones they are."""

    sources: list[ImageInput]  # none: made-up ones
    words: str


class Verification(NamedTuple):
    """How far a file is from its checkpoint; accuracy where labels are known."""

    n: int
    words: str  # which images
    largest_difference: float  # of a probability
    changed: int  # images of another predicted class
    labeled: int
    right_before: int
    right_after: int

    def in_words(self) -> str:
        """`153 validation images: probabilities differ by at most 1.2e-07, 0 are called differently`."""
        return (
            f"{self.words}: probabilities differ by at most {self.largest_difference:.1e}, {self.changed:,} of {self.n:,} are "
            "called differently"
        )

    def accuracies(self) -> str | None:
        """Before and after, with intervals; None where no label is known."""
        if not self.labeled:
            return None
        before, after = (
            format_accuracy(accuracy_entry(right, self.labeled)) for right in (self.right_before, self.right_after)
        )
        return f"accuracy {before} before, {after} after"


def known_images(checkpoint: Path, images: str | list[str] | None, root: str | None) -> dict[str, list[ImageInput]]:
    """Images by split: those that are given ("" without a split), or those of the run that a checkpoint lies in.

    Empty, and said, where the run's are not to be had.
    """
    table = checkpoint.resolve().parent.parent / "splits.csv"
    if images is None and not table.is_file():
        log.warning("%s: no splits.csv of its run beside it, so that its images are not known", checkpoint)
        return {}
    found: dict[str, list[ImageInput]] = {}
    try:
        for source in ImageInputs(str(table) if images is None else images, root):
            found.setdefault(source.split, []).append(source)
    except ValueError as error:
        if images is not None:
            raise
        log.warning("%s", error)
        return {}
    return found


def verification_images(splits: dict[str, list[ImageInput]], kinds: Sequence[str], most: int) -> VerificationImages:
    """Images of the first of these splits that there is, else made-up ones."""
    for split in kinds:
        if splits.get(split):
            chosen, n = spread(splits[split], most), len(splits[split])
            of_all = f"{len(chosen):,} of " if len(chosen) < n else ""
            return VerificationImages(chosen, f"{of_all}{n:,}{WORDS[split]} images")
    return VerificationImages([], f"{TOGETHER} made-up images")


def spread(sources: Sequence, most: int) -> list:
    """At most so many, evenly over the list: tables are sorted by class."""
    places = np.linspace(0, len(sources) - 1, min(most, len(sources))).round().astype(int)
    return [sources[place] for place in places]


def compare_outputs(
    before: Backend, after: Callable[[np.ndarray], np.ndarray], found: VerificationImages, native_sizes: bool
) -> Verification:
    """Compares two ways from pixels to probabilities image by image, and at last on one batch.

    Args:
        before: the checkpoint; gets images as training resizes them.
        after: the file; gets them as they were decoded where it resizes itself (`native_sizes`).
    """
    size, classes = before.description.image_size, before.description.classes
    largest, changed, labeled, right_before, right_after, n = 0.0, 0, 0, 0, 0, 0
    resized = []
    for image, label in _images(found, size):
        small = np.array(resize(image, size))[None]
        expected, got = before(small)[0], after(np.asarray(image)[None] if native_sizes else small)[0]
        largest = max(largest, float(np.abs(expected - got).max()))
        changed += int(expected.argmax() != got.argmax())
        n += 1
        if label in classes:
            labeled += 1
            right_before += classes[expected.argmax()] == label
            right_after += classes[got.argmax()] == label
        if len(resized) < TOGETHER:
            resized.append(small[0])
    batch = np.stack(resized)
    largest = max(largest, float(np.abs(before(batch) - after(batch)).max()))
    return Verification(n, found.words, largest, changed, labeled, right_before, right_after)


def _images(found: VerificationImages, size: int) -> Iterator[tuple]:
    """Decoded images with their labels; files that cannot be read are left out, which is said."""
    if not found.sources:
        yield from ((image, "") for image in synthetic_images())
        return
    count = 0
    for source in found.sources:
        try:
            image = open_image(source.file, size)
        except UnreadableImageError as error:
            log.warning("left out: %s", error)
            continue
        count += 1
        yield image, source.label
    if not count:
        raise ValueError(f"none of the {found.words} can be read; give others: images=DIR")


def synthetic_images() -> Iterator:
    """Coarse noise in color, of odd sizes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for _ in range(TOGETHER):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        yield coarse.resize(tuple(generator.integers(20, 600, 2).tolist()), Image.Resampling.BICUBIC)
