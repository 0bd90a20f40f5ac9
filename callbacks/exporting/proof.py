"""Whether a file says what its checkpoint says: on which pictures, and how far apart the two are."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from callbacks.predicting.backends import Backend
from callbacks.predicting.sources import Picture, Pictures
from datamodules.decode import UnreadablePictureError, open_picture, resize
from reports.statistics import accuracy_entry, accuracy_in_words

log = logging.getLogger(__name__)

PROVED_ON = 200  # pictures, of a float file
MEASURED_ON = 2000  # pictures, of an int8 file, which has another accuracy
CALIBRATED_ON = 200  # pictures
TOGETHER = 16  # pictures of the batch that proves that a batch can be had
WORDS = {"val": " validation", "train": " training", "": ""}  # of splits; test stays closed


class Evidence(NamedTuple):
    """Pictures to compare on, and in words which ones they are."""

    pictures: list[Picture]  # none: made-up ones
    words: str


class Proof(NamedTuple):
    """How far a file is from its checkpoint; accuracy where labels are known."""

    n: int
    words: str  # which pictures
    largest_difference: float  # of a probability
    changed: int  # pictures of another predicted class
    labelled: int
    right_before: int
    right_after: int

    def in_words(self) -> str:
        """`153 validation pictures: probabilities differ by at most 1.2e-07, 0 are called differently`."""
        return (
            f"{self.words}: probabilities differ by at most {self.largest_difference:.1e}, {self.changed:,} of {self.n:,} are "
            "called differently"
        )

    def accuracies(self) -> str | None:
        """Before and after, with intervals; None where no label is known."""
        if not self.labelled:
            return None
        before, after = (
            accuracy_in_words(accuracy_entry(right, self.labelled)) for right in (self.right_before, self.right_after)
        )
        return f"accuracy {before} before, {after} after"


def known_pictures(checkpoint: Path, images: str | list[str] | None, root: str | None) -> dict[str, list[Picture]]:
    """Pictures by split: those that are given ("" without a split), or those of the run that a checkpoint lies in.

    Empty, and said, where the run's are not to be had.
    """
    table = checkpoint.resolve().parent.parent / "splits.csv"
    if images is None and not table.is_file():
        log.warning("%s: no splits.csv of its run beside it, so that its pictures are not known", checkpoint)
        return {}
    found: dict[str, list[Picture]] = {}
    try:
        for picture in Pictures(str(table) if images is None else images, root):
            found.setdefault(picture.split, []).append(picture)
    except ValueError as error:
        if images is not None:
            raise
        log.warning("%s", error)
        return {}
    return found


def evidence(splits: dict[str, list[Picture]], kinds: Sequence[str], most: int) -> Evidence:
    """Pictures of the first of these splits that there is, else made-up ones."""
    for split in kinds:
        if splits.get(split):
            chosen, n = spread(splits[split], most), len(splits[split])
            of_all = f"{len(chosen):,} of " if len(chosen) < n else ""
            return Evidence(chosen, f"{of_all}{n:,}{WORDS[split]} pictures")
    return Evidence([], f"{TOGETHER} made-up pictures")


def spread(pictures: Sequence, most: int) -> list:
    """At most so many, evenly over the list: tables are sorted by class."""
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    return [pictures[place] for place in places]


def prove(before: Backend, after: Callable[[np.ndarray], np.ndarray], found: Evidence, native_sizes: bool) -> Proof:
    """Compares two ways from pixels to probabilities picture by picture, and at last on one batch.

    Args:
        before: the checkpoint; gets pictures as training resizes them.
        after: the file; gets them as they were decoded where it resizes itself (`native_sizes`).
    """
    size, classes = before.description.image_size, before.description.classes
    largest, changed, labelled, right_before, right_after, n = 0.0, 0, 0, 0, 0, 0
    resized = []
    for image, label in _images(found, size):
        small = np.array(resize(image, size))[None]
        expected, got = before(small)[0], after(np.asarray(image)[None] if native_sizes else small)[0]
        largest = max(largest, float(np.abs(expected - got).max()))
        changed += int(expected.argmax() != got.argmax())
        n += 1
        if label in classes:
            labelled += 1
            right_before += classes[expected.argmax()] == label
            right_after += classes[got.argmax()] == label
        if len(resized) < TOGETHER:
            resized.append(small[0])
    batch = np.stack(resized)
    largest = max(largest, float(np.abs(before(batch) - after(batch)).max()))
    return Proof(n, found.words, largest, changed, labelled, right_before, right_after)


def _images(found: Evidence, size: int) -> Iterator[tuple]:
    """Decoded pictures with their labels; files that cannot be read are left out, which is said."""
    if not found.pictures:
        yield from ((image, "") for image in made_up())
        return
    count = 0
    for picture in found.pictures:
        try:
            image = open_picture(picture.file, size)
        except UnreadablePictureError as error:
            log.warning("left out: %s", error)
            continue
        count += 1
        yield image, picture.label
    if not count:
        raise ValueError(f"none of the {found.words} can be read; give others: images=DIR")


def made_up() -> Iterator:
    """Coarse noise in colour, of odd sizes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for _ in range(TOGETHER):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        yield coarse.resize(tuple(generator.integers(20, 600, 2).tolist()), Image.Resampling.BICUBIC)
