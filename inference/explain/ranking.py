"""Rank images by the certainty of their prediction, the least certain first: for the page, and for labels_to_check.csv."""

import heapq
import itertools
import logging
from pathlib import Path

from common.atomic_io import write_csv
from common.run_folder import REVIEW_COLUMNS, RunFolder
from inference.image_inputs import ImageInput
from inference.predictor import Prediction

log = logging.getLogger(__name__)

LABELS_TO_CHECK = "labels_to_check.csv"


def certainty(image_input: ImageInput, prediction: Prediction) -> tuple[bool, float]:
    """Return a sort key that is smallest for the image to look at first.

    Wrong predictions come first, by the probability of their label. Then come correct ones and those without a known label,
    by their confidence, which for correct ones is the probability of the label.
    """
    probabilities = prediction.probabilities
    label = image_input.label if image_input.label in probabilities else prediction.predicted
    return label == prediction.predicted, probabilities[label]


class LeastCertain:
    """Keep the `most` least certain of any number of predictions."""

    def __init__(self, most: int):
        self.most = most
        self.n = 0  # images that could be read
        self._kept: list[tuple] = []  # a heap, the most certain first
        self._count = itertools.count()

    def add(self, image_input: ImageInput, prediction: Prediction) -> None:
        if prediction.error:
            return
        self.n += 1
        correct, p = certainty(image_input, prediction)
        entry = ((-correct, -p), -next(self._count), image_input, prediction)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def sorted(self) -> list[tuple[ImageInput, Prediction]]:
        """Return the least certain first; among equals, the one that was added first."""
        return [entry[2:] for entry in sorted(self._kept, reverse=True)]


class LabelReview:
    """Collect predictions for a run's images, and write its splits.csv ordered by their certainty, to correct and train on."""

    def __init__(self, run: RunFolder):
        self.run = run
        self._predicted: dict[str, tuple] = {}  # path -> certainty, columns to add

    def add(self, image_input: ImageInput, prediction: Prediction) -> None:
        if not prediction.error:
            confidence = max(prediction.probabilities.values())
            columns = dict(zip(REVIEW_COLUMNS, (prediction.predicted, f"{confidence:.6f}"), strict=True))
            self._predicted[image_input.path] = (certainty(image_input, prediction), columns)

    def write(self, path: Path) -> bool:
        """Write all rows of the run's table: first those with a prediction, the least certain of them first.

        A column of the user's own named like one of REVIEW_COLUMNS is kept, and the table gets neither. If the run's table
        has both, they are those of an earlier review. Return whether training images are among the rows, as in every run
        that does not stream them.
        """
        rows = self.run.read_splits()
        with_prediction = [row for row in rows if row["path"] in self._predicted]
        with_prediction.sort(key=lambda row: self._predicted[row["path"]][0])
        others = [row for row in rows if row["path"] not in self._predicted]
        columns = list(rows[0])
        own = [column for column in REVIEW_COLUMNS if column in columns]
        if len(own) == 1:
            log.warning(
                "%s: your own column %s is kept, so the network's %s are not added; to get them, rename the column and train "
                "again", path, own[0], " and ".join(REVIEW_COLUMNS),
            )  # fmt: skip
        else:
            columns = list(dict.fromkeys([*columns, *REVIEW_COLUMNS]))
            others = [row | dict.fromkeys(REVIEW_COLUMNS, "") for row in others]
            with_prediction = [row | self._predicted[row["path"]][1] for row in with_prediction]
        write_csv(path, columns, [*with_prediction, *others])
        return any(row["split"] == "train" for row in rows)
