"""Compare an exported file with its checkpoint: on which images, and how far apart the outputs are."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.run_record import ExportCost, describe_difference
from common.text import plural
from datamodules.decode import UnreadableImageError, open_image
from evaluation.intervals import design_effect, format_accuracy, group_numbers, proportion
from evaluation.paired_tests import compare_pair, paired_difference
from inference.backends import Backend, ModelDescription
from inference.image_inputs import ImageInput, ImageInputs, check_whole, named_run, run_of_checkpoint

log = logging.getLogger(__name__)

N_VERIFICATION = 200  # images
N_INEXACT = 2000  # images, for a format whose accuracy may differ
N_CALIBRATION = 200  # images
N_FEW = 20  # images; on fewer an agreement proves little
FLAT = 0.005  # variance of all probabilities together; below it, most of the variation is rounding
MARGIN = 0.01  # accuracy that a format in 8 bits may cost
BATCH_SIZE = 16  # images of the batch that shows that the file takes batches
SYNTHETIC = f"{BATCH_SIZE} synthetic images"
ORDER = ("val", "train", "")  # splits to compare a file on: the first that has images
# Test images only where a run opens them anyway
SPLITS = {"val": "validation ", "train": "training ", "test": "test ", "": ""}


class VerificationImages(NamedTuple):
    """Hold the images to compare on, and a text that describes them."""

    images: list[ImageInput]  # none: synthetic ones
    description: str
    split: str = ""

    def part(self, most: int) -> "VerificationImages":
        """Return at most `most` of them, evenly spaced, described as a part of the whole split."""
        chosen = spread(self.images, most)
        if len(chosen) == len(self.images):
            return self
        return self._replace(images=chosen, description=f"{len(chosen):,} of {self.description.rpartition(' of ')[2]}")


class Verification(NamedTuple):
    """Hold how far a file is from its checkpoint, and both accuracies if labels are known."""

    n: int
    images: str  # described
    largest_difference: float  # of a probability
    changed: int  # images whose predicted class differs
    n_labeled: int
    correct_checkpoint: int
    correct_exported: int
    only_checkpoint: int = 0  # images on which only the checkpoint is right
    only_exported: int = 0
    split: str = ""  # of the images
    agreement: float = 1.0  # of the probabilities of all images, 1: equal; 0: no better than their average
    variance: float = 1.0  # of the checkpoint's probabilities, from image to image
    resizing: float = 0.0  # largest difference of a probability if the file resizes instead of this project
    effects: tuple[float, float] = (1.0, 1.0)  # `design_effect` of images in groups, for the checkpoint and the file
    grouped: tuple[float, float] | None = None  # interval of the cost, if images are in groups
    balanced_cost: ExportCost | None = None  # if labels are known and the classes have different numbers of images

    def describe(self) -> str:
        """Return `153 validation images: probabilities differ by at most 1.2e-07, 0 of 153 predictions differ`."""
        return f"{self.images}: {describe_difference(self.largest_difference, self.changed, self.n)}"

    def describe_agreement(self) -> str:
        """Return how well the probabilities agree with the checkpoint's, which bounds a format that is not exact."""
        few = f"; {plural(self.n, 'image')} {'proves' if self.n == 1 else 'prove'} little" if self.n < N_FEW else ""
        agreement = f"agreement of the probabilities {self.agreement:.3f} (1: equal, 0: no better than their average)"
        return agreement + few + self.describe_flat()

    def describe_flat(self) -> str:
        """Return why equal probabilities prove little if all images have nearly the same; else an empty text."""
        flat = "; the probabilities of the checkpoint hardly differ between images, so this proves little"
        return flat if self.variance < FLAT else ""

    def describe_accuracies(self) -> str | None:
        """Return both accuracies with intervals; None if no label is known."""
        if not self.n_labeled:
            return None
        checkpoint, exported = (
            format_accuracy(proportion(correct, self.n_labeled, effect))
            for correct, effect in zip((self.correct_checkpoint, self.correct_exported), self.effects, strict=True)
        )
        return f"accuracy of the checkpoint {checkpoint}, of the file {exported}"

    def cost(self) -> ExportCost | None:
        """Return how much accuracy the file costs; None if no label is known."""
        if not self.n_labeled:
            return None
        cost, low, high = paired_difference(self.only_checkpoint, self.only_exported, self.n_labeled)
        return _judged(cost, *(self.grouped or (low, high)), self.n_labeled)

    def describe_cost(self, name: str) -> str | None:
        """Return `onnx_int8 costs 0.040 (0.020 to 0.066) of the accuracy: not within 0.01`; None if no label is known."""
        found = self.cost()
        if found is None:
            return None
        text = f"{name} {found.describe(' of the accuracy')}"
        return f"{text}; {other.describe(' of the balanced accuracy')}" if (other := self.balanced_cost) else text


def known_images(checkpoint: Path, images: str | list[str] | None, root: str | None) -> dict[str, list[ImageInput]]:
    """Return images by split: the given ones ("" without a split), or those of the run whose folder has the checkpoint.

    The result is empty, with a warning, if the run's images are not available.

    Raises:
        UserError: there are no images where `images` or `root` says, or a table of them is damaged.
    """
    run = run_of_checkpoint(checkpoint) if images is None else named_run(images)
    if images is None and run is None and root is not None:
        raise UserError(
            f"root={root}: {checkpoint} is not in the folder of a run, whose images it could be the root of; name the images, "
            "images=DIR or images=TABLE.csv, or leave out root"
        )
    if images is None and run is None:
        log.warning(
            "%s: not in the folder of a run with its splits; verifying on synthetic images; for real ones, give the folder of "
            "the run that trained it: images=RUN", checkpoint,
        )  # fmt: skip
        return {}
    found: dict[str, list[ImageInput]] = {}
    try:
        for image_input in ImageInputs(str(run.splits) if run else images, root):
            found.setdefault(image_input.split, []).append(image_input)
        for split in ("val", "test") if run else ():
            check_whole(run, split, len(found.get(split, ())))
    except UserError as error:
        if images is not None or root is not None:
            raise
        log.warning("%s", error)
        return {}
    return found


def verification_images(splits: dict[str, list[ImageInput]], order: Sequence[str], most: int) -> VerificationImages:
    """Return images of the first split of `order` that has any, else synthetic images."""
    for split in order:
        if splits.get(split):
            chosen, n = spread(splits[split], most), len(splits[split])
            of_all = f"{len(chosen):,} of " if len(chosen) < n else ""
            return VerificationImages(chosen, f"{of_all}{plural(n, f'{SPLITS[split]}image')}", split)
    return VerificationImages([], SYNTHETIC)


def spread(items: Sequence, most: int) -> list:
    """Return at most `most` items, evenly spaced, because tables are sorted by class."""
    indices = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[index] for index in indices]


def compare_outputs(
    checkpoint: Backend,
    exported: Callable[[np.ndarray], np.ndarray],
    images: VerificationImages,
    native_sizes: bool,
    seen: Callable[[int, int], None] = lambda done, total: None,
    resizes_exactly: bool = False,
) -> Verification:
    """Compare the probabilities of checkpoint and file image by image, then on one batch.

    Args:
        checkpoint: gets images as training resizes them.
        exported: gets images as decoded if it resizes itself (`native_sizes`), else resized as in training.
        images: to compare on.
        native_sizes: whether `exported` resizes images itself.
        seen: called with the number of images compared and their total.
        resizes_exactly: also compare the file's outputs for images that it resizes and that this project resizes.
    """
    description, classes = checkpoint.description, checkpoint.description.classes
    first, all_expected, all_actual, resizing = [], [], [], 0.0
    right, labels, groups = [], [], []  # for each labeled image: whether checkpoint and file are right; class; group
    for image, image_input in decoded(images, description):
        resized = description.pixels(image)[None]
        expected = checkpoint(resized)[0]
        if not np.isfinite(expected).all():
            raise UserError(
                "the network of the checkpoint gives NaN for one of the images: its weights are damaged, or its training "
                "diverged; nothing was written. Use another checkpoint"
            )
        actual = exported(np.asarray(image)[None] if native_sizes else resized)[0]
        if native_sizes and resizes_exactly and len(all_actual) < N_VERIFICATION:
            resizing = _larger(resizing, exported(resized)[0], actual)
        all_expected.append(expected)
        all_actual.append(actual)
        seen(len(all_actual), len(images.images) or BATCH_SIZE)
        if image_input.label in classes:
            right.append([classes[p.argmax()] == image_input.label for p in (expected, actual)])
            labels.append(image_input.label)
            groups.append(image_input.group)
        if len(first) < BATCH_SIZE:
            first.append(resized[0])
    batch, expected, actual, n = np.stack(first), np.stack(all_expected), np.stack(all_actual), len(all_actual)
    right = np.array(right, bool).reshape(-1, 2)
    before, after = right.T
    numbers = group_numbers(groups)
    effects, grouped = _in_groups(right, numbers)
    return Verification(
        n=n,
        images=images.description if n == (len(images.images) or n) else f"{n:,} of {images.description}",
        largest_difference=_larger(_larger(0.0, expected, actual), checkpoint(batch), exported(batch)),
        changed=int((expected.argmax(1) != actual.argmax(1)).sum()),
        n_labeled=len(right),
        correct_checkpoint=int(before.sum()),
        correct_exported=int(after.sum()),
        only_checkpoint=int((before & ~after).sum()),
        only_exported=int((after & ~before).sum()),
        split=images.split,
        agreement=agreement(expected, actual),
        variance=variance(expected),
        resizing=resizing,
        effects=effects,
        grouped=grouped,
        balanced_cost=_balanced_cost(right, labels, numbers),
    )


def _judged(cost: float, low: float, high: float, n: int) -> ExportCost:
    if high <= MARGIN:
        verdict = f"within {MARGIN:g}"
    elif low > MARGIN:  # the difference itself is above it by chance in up to 0.39 of files that cost nothing
        verdict = f"not within {MARGIN:g}"
    else:
        verdict = f"not shown to be within {MARGIN:g} by {plural(n, 'image')}"
    return ExportCost(cost, low, high, verdict)


def _balanced_cost(right: np.ndarray, labels: Sequence[str], groups: np.ndarray | None) -> ExportCost | None:
    """Return the cost in balanced accuracy, None if it is that in accuracy; `right` (n, 2) is as in `_in_groups`."""
    classes, sizes = np.unique(labels, return_counts=True)
    if len(set(sizes.tolist())) < 2:
        return None
    checkpoint, exported = right.T
    pair = compare_pair(checkpoint[None], exported[None], MARGIN, groups, np.searchsorted(classes, labels))
    return _judged(pair.difference, pair.low, pair.high, len(labels))


def _in_groups(right: np.ndarray, groups: np.ndarray | None) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Return both design effects and the interval of the cost; `right` (n, 2) bool is of the checkpoint and the file."""
    if groups is None:
        return (1.0, 1.0), None
    checkpoint, exported = right.T
    pair = compare_pair(checkpoint[None], exported[None], MARGIN, groups)
    return (design_effect(checkpoint, groups), design_effect(exported, groups)), (pair.low, pair.high)


def _larger(largest: float, expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the largest difference so far; NaN, which max() would skip, if any probability is NaN."""
    return float(np.maximum(largest, np.abs(expected - actual).max()))


def agreement(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the share of the variance of `expected` (N, K) that `actual` reproduces; below 0: their average would be closer.

    If the network hardly tells images apart, the variance counts as FLAT at least.
    """
    return 1 - float(np.square(expected - actual).sum(1).mean()) / max(variance(expected), FLAT)


def variance(probabilities: np.ndarray) -> float:
    """Return the variance over N images of probabilities (N, K), summed over the classes."""
    return float(np.square(probabilities - probabilities.mean(0)).sum(1).mean())


def decoded(images: VerificationImages, description: ModelDescription) -> Iterator[tuple[Image.Image, ImageInput]]:
    """Yield decoded images with their inputs; files that cannot be read are skipped with a warning."""
    if not images.images:
        yield from ((image, ImageInput("", Path())) for image in synthetic_images())
        return
    count = 0
    for image_input in images.images:
        try:
            image = open_image(image_input.file, description.image_size, description.value_range)
        except UnreadableImageError as error:
            log.warning("skipped: %s", error)
            continue
        count += 1
        yield image, image_input
    if not count:
        raise UserError(f"{images.description}: none can be read; give others: images=DIR")


def synthetic_images() -> Iterator[Image.Image]:
    """Yield coarse noise in color, of odd sizes."""
    generator = np.random.default_rng(0)
    for _ in range(BATCH_SIZE):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        yield coarse.resize(tuple(generator.integers(20, 600, 2).tolist()), Image.Resampling.BICUBIC)
