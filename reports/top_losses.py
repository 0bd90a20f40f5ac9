"""The images that a row's runs get wrong most often, as thumbnails; and confusion matrices."""

import base64
import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.predictions_csv import FILES, has_predictions, pair, read_predictions
from common.run_folder import PROJECT
from common.text import clean, finite_number
from datamodules.decode import fingerprint, open_image
from reports.aggregate import ResultRow
from reports.load_runs import Run

SIDE = 144  # pixels, the longer side of a thumbnail
LARGEST_SIZE = 4096  # pixels a side that a network looks at, to which big JPEGs are read
MOST_CLASSES = 12  # of a matrix; of more the commonest confusions are listed


class TopLoss(NamedTuple):
    """An image, what it is and what it is taken for; probabilities are means over the runs."""

    path: str
    fingerprint: str  # of its pixels
    label: str
    predicted: str  # by most runs
    probability: float  # of the predicted class
    true_probability: float
    wrong: int  # runs
    runs: int
    image: str | None = None  # JPEG in base64
    reason: str | None = None  # why there is no image


class TopLosses(NamedTuple):
    """The hardest images of a row, or why they are not shown."""

    losses: list[TopLoss]
    split: str
    reason: str | None


class Confusion(NamedTuple):
    """Counts with true classes down, summed over a row's runs."""

    row: ResultRow
    split: str
    classes: list[str]
    counts: np.ndarray  # (K, K)
    commonest: list[tuple[str, str, int]] | None  # true, predicted, count; in place of a large matrix

    @property
    def shares(self) -> np.ndarray:
        """Of the true class, (K, K)."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def top_losses(row: ResultRow, most: int = 12) -> TopLosses:
    """Images most often wrong, then those whose true class is the least probable; of test, or else of validation."""
    split = "test" if all(has_predictions(run.folder, "test") for run in row.runs) else "val"
    folds: dict[int | None, list[Run]] = {}
    for run in row.runs:
        folds.setdefault(run.fold, []).append(run)
    try:
        found = [loss for runs in folds.values() for loss in _wrong(runs, split, most)]
    except (ValueError, OSError) as error:
        return TopLosses([], split, f"{FILES[split]} cannot be used: {clean(error)}")
    found.sort(key=lambda loss: (-loss.wrong / loss.runs, -loss.wrong, loss.true_probability))
    root, reason = image_root(row.runs[0])
    size = finite_number(row.runs[0].record["run"]["settings"].get("model.image_size")) or 0
    thumbnails = [
        thumbnail(root, loss.path, loss.fingerprint, int(size)) if root else (None, reason) for loss in found[:most]
    ]
    losses = [loss._replace(image=image, reason=why) for loss, (image, why) in zip(found, thumbnails, strict=False)]
    return TopLosses(losses, split, None if losses else "every image is right in every run")


def _wrong(runs: list[Run], split: str, most: int) -> list[TopLoss]:
    """The hardest images of runs on the same ones, without their images; R runs, n images."""
    tables = [read_predictions(run.folder, split) for run in runs]
    first, *others = tables
    for other in others:
        pair(first, other)
    orders = [[table.classes.index(name) for name in first.classes] for table in tables]
    chances = [table.probabilities[:, order] for table, order in zip(tables, orders, strict=True)]  # (n, K)
    says = np.stack([[table.classes[k] for k in table.predicted] for table in tables])  # (R, n)
    names = np.array([first.classes[k] for k in first.labels])
    wrong = (says != names).sum(axis=0)
    mean = np.mean(chances, axis=0)
    truth = mean[np.arange(len(names)), first.labels]
    order = [i for i in np.lexsort((truth, -wrong)) if wrong[i]][:most]
    commonest = {i: Counter(says[:, i].tolist()).most_common(1)[0][0] for i in order}
    return [
        TopLoss(
            path=first.paths[i], fingerprint=first.fingerprints[i], label=str(names[i]), predicted=common,
            probability=float(mean[i, first.classes.index(common)]), true_probability=float(truth[i]), wrong=int(wrong[i]),
            runs=len(tables),
        )
        for i, common in commonest.items()
    ]  # fmt: skip


def image_root(run: Run) -> tuple[Path | None, str | None]:
    """The folder that the paths of a run's predictions are below, or why it is not known."""
    root = (run.record["data"] or {}).get("root") or run.record["run"]["settings"].get("datamodule.root")
    if not isinstance(root, str) or not root:
        return None, "the record does not say where the images lie"
    for folder in (Path(root), PROJECT / root):
        if folder.is_dir():
            return folder, None
    return None, "the folder of the images is not there"


def thumbnail(root: Path, path: str, own: str, image_size: int) -> tuple[str | None, str | None]:
    """A small JPEG in base64, or why there is none.

    Root, path and fingerprint (`own`) are what a record and a table say, which may be a stranger's. An image is shown only
    where it lies below the root, links followed, and its pixels have that fingerprint: who wrote the table has seen it.
    """
    try:
        whole = (root / path).resolve()
        if not whole.is_relative_to(root.resolve()):
            return None, "its path leaves the folder of the images"
        if not whole.exists():
            return None, "the image is gone"
        image = open_image(whole, min(image_size, LARGEST_SIZE))
    except (OSError, ValueError, RuntimeError):
        return None, "the image cannot be read"
    if fingerprint(image) != own:
        return None, "the image is another than the run saw"
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=82)
    return base64.b64encode(buffer.getvalue()).decode(), None


def confusion(row: ResultRow) -> Confusion | None:
    """The test split's, else validation's; None where a run has none, or they do not fit together."""
    for split in ("test", "val"):
        found = [(run.record[split] or {}).get("confusion") for run in row.runs]
        classes = [(run.record["data"] or {}).get("classes") for run in row.runs]
        if any(not c for c in found) or any(c != classes[0] for c in classes) or not isinstance(classes[0], list):
            continue
        try:
            counts = np.sum([np.asarray(c, dtype=np.int64) for c in found], axis=0)
        except (ValueError, TypeError, OverflowError):
            continue
        names = [str(name) for name in classes[0]]
        if counts.shape != (len(names), len(names)):
            continue
        return Confusion(row, split, names, counts, _commonest(counts, names) if len(names) > MOST_CLASSES else None)
    return None


def _commonest(counts: np.ndarray, names: list[str], most: int = 15) -> list[tuple[str, str, int]]:
    others = counts.copy()
    np.fill_diagonal(others, 0)
    places = np.argsort(-others, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, counts.shape) for place in places]
    return [(names[i], names[j], int(others[i, j])) for i, j in pairs if others[i, j]]
