"""Top losses, which are the images that a row's runs get wrong most often, as thumbnails; and confusion matrices."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.image_grid import jpeg_base64, thumbnail
from common.predictions_csv import Predictions, pair, read_predicted_images
from common.run_folder import PROJECT
from common.text import clean
from datamodules.decode import ValueRange, read_image
from evaluation.scores import most_confused
from reports.load_runs import Run

SIDE = 144  # pixels, the longer side of a thumbnail
LARGEST_SIZE = 4096  # pixels a side of a network's input, to which large JPEGs are decoded
MOST_CLASSES = 12  # of a matrix; with more the most frequent confusions are listed
MOST_FREQUENT = 15  # confusions
MOST_LOSSES = 12


class TopLoss(NamedTuple):
    """An image with its label and the predicted class; probabilities are means over the runs."""

    path: str
    fingerprint: str  # of its pixels
    label: str
    predicted: str  # by most of the runs that get it wrong
    probability: float  # of the predicted class
    true_probability: float
    wrong: int  # runs
    runs: int
    image: str | None = None  # JPEG in base64
    reason: str | None = None  # why there is no image


class TopLosses(NamedTuple):
    """The top losses of a row, or why there are none."""

    losses: list[TopLoss]
    split: str
    reason: str | None


class Confusion(NamedTuple):
    """Counts with true classes down, summed over the runs of a row."""

    split: str
    classes: list[str]
    right: int
    total: int
    counts: np.ndarray | None  # (K, K); None with many classes
    most_frequent: list[tuple[str, str, int]] | None  # true, predicted, count; instead of a large matrix

    @property
    def shares(self) -> np.ndarray:
        """Share of each count among the images of its true class, (K, K)."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def top_losses(runs: Sequence[Run], tables: list[Predictions] | str, split: str) -> TopLosses:
    """Find the images most often wrong; ties go to those whose true class is the least probable. No thumbnails yet."""
    if isinstance(tables, str):
        return TopLosses([], split, clean(tables))
    folds: dict[int | None, list[Predictions]] = defaultdict(list)
    for run, table in zip(runs, tables, strict=True):
        folds[run.fold if split == "val" else None].append(table)  # test images are the same in each fold
    try:
        found = [loss for fold in folds.values() for loss in worst_images(fold) if loss.wrong]
    except UserError as error:
        return TopLosses([], split, clean(error))
    found.sort(key=lambda loss: (-loss.wrong / loss.runs, -loss.wrong, loss.true_probability))
    return TopLosses(found[:MOST_LOSSES], split, None if found else "every image is right in every run")


def worst_images(tables: list[Predictions]) -> list[TopLoss]:
    """Return the top losses of R runs on the same n images; those of right images if no run gets an image wrong."""
    first, *others = tables
    for other in others:
        pair(first, other)
    probabilities, predicted = [], []  # in the order of the first one's classes
    for table in tables:
        probabilities.append(table.probabilities[:, [table.classes.index(name) for name in first.classes]])  # (n, K)
        predicted.append(np.array([first.classes.index(name) for name in table.classes])[table.predicted])  # (n,)
    predicted = np.stack(predicted)  # (R, n)
    wrong = (predicted != first.labels).sum(axis=0)
    mean = np.mean(probabilities, axis=0)
    truth = mean[np.arange(len(first.labels)), first.labels]
    order = np.lexsort((truth, -wrong))
    losses = []
    for i in (order[wrong[order] > 0] if wrong.any() else order)[:MOST_LOSSES]:
        wrong_classes = predicted[predicted[:, i] != first.labels[i], i].tolist()
        k = Counter(wrong_classes).most_common(1)[0][0] if wrong_classes else first.labels[i]
        losses.append(
            TopLoss(
                path=first.paths[i], fingerprint=first.fingerprints[i], label=first.classes[first.labels[i]],
                predicted=first.classes[k], probability=float(mean[i, k]), true_probability=float(truth[i]),
                wrong=len(wrong_classes), runs=len(tables),
            )
        )  # fmt: skip
    return losses


def with_thumbnails(found: TopLosses, run: Run) -> TopLosses:
    """Add a thumbnail to each image, or the reason why there is none."""
    root, reason = image_root(run)
    size = run.data.preprocessing and run.data.preprocessing.image_size
    size = size or run.record.run.settings.get("model.image_size")
    size = min(size, LARGEST_SIZE) if isinstance(size, int) and size > 0 else 0
    value_range = run.data.range and ValueRange(*run.data.range)
    shown = []
    for loss in found.losses:
        image, why = (
            verified_thumbnail(root, loss.path, loss.fingerprint, size, value_range) if root else (None, reason)
        )
        shown.append(loss._replace(image=image, reason=why))
    return found._replace(losses=shown)


def image_root(run: Run) -> tuple[Path | None, str | None]:
    """Return the folder that a run's prediction paths are relative to, or why it is unknown."""
    root = run.data.root or run.record.run.settings.get("datamodule.root")
    if not isinstance(root, str) or not root:
        return None, "the record does not contain the folder of the images"
    for folder in (Path(root), PROJECT / root):
        if folder.is_dir():
            return folder, None
    return None, "the folder of the images is missing"


def verified_thumbnail(
    root: Path, path: str, own: str, image_size: int, value_range: ValueRange | None = None
) -> tuple[str | None, str | None]:
    """Return a small JPEG in base64, or why there is none.

    Root, path and fingerprint (`own`) come from a record and a table, which may be untrusted. An image is shown only if it
    lies below the root, links followed, and its pixels have that fingerprint, so whoever wrote the table has seen it.
    """
    try:
        resolved = (root / path).resolve()
        if not resolved.is_relative_to(root.resolve()):
            return None, "its path leaves the folder of the images"
        if not resolved.exists():
            return None, "the image is missing"
        decoded = read_image(resolved, image_size)
        image = decoded.rgb(value_range)
    except (OSError, ValueError, RuntimeError):
        return None, "the image cannot be read"
    if decoded.fingerprint() != own:
        return None, "the image is not the one that the run used"
    return jpeg_base64(thumbnail(image, SIDE)), None


def confusion(runs: Sequence[Run]) -> Confusion | None:
    """Sum the runs' confusion matrices on test, or else on validation; None if a run has none or shapes differ."""
    names = runs[0].data.classes
    for split in ("test", "val"):
        measured = [getattr(run.record, split) for run in runs]
        if any(run.data.classes != names for run in runs):
            continue
        if all(metrics and metrics.accuracy and metrics.confused is not None for metrics in measured):
            try:
                pairs = _confused_pairs(runs, split)
            except (UserError, OSError):
                continue
            right, total = (sum(getattr(m.accuracy, name) for m in measured) for name in ("correct", "n"))
            frequent = [(*pair, n) for pair, n in pairs.most_common(MOST_FREQUENT)]
            return Confusion(split, names, right, total, None, frequent)
        matrices = [metrics.confusion for metrics in measured if metrics and metrics.confusion]
        if len(matrices) < len(runs):
            continue
        try:
            counts = np.sum([np.asarray(matrix, dtype=np.int64) for matrix in matrices], axis=0)
        except (ValueError, OverflowError):  # lines of different lengths, or counts that no run writes
            continue
        if counts.shape != (len(names), len(names)):
            continue
        frequent = None
        if len(names) > MOST_CLASSES:
            frequent = [(each.label, each.predicted, each.n) for each in most_confused(counts, names, MOST_FREQUENT)]
        return Confusion(split, names, int(counts.trace()), int(counts.sum()), counts, frequent)
    return None


def _confused_pairs(runs: Sequence[Run], split: str) -> Counter:
    """Count the confusions of all runs; for several, from their tables, as a record has only its own most frequent ones."""
    if len(runs) == 1:
        return Counter({(each.label, each.predicted): each.n for each in getattr(runs[0].record, split).confused})
    images = (image for run in runs for image in read_predicted_images(run.folder_of(split), split))
    return Counter((i["label"], i["predicted"]) for i in images if i["label"] != i["predicted"])
