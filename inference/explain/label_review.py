"""Write labels_to_check.csv: a run's splits.csv with the least certain images first, to correct and train on."""

from pathlib import Path

from common.atomic_io import write_csv
from common.run_folder import REVIEW_COLUMNS, RunFolder
from inference.explain.ranking import certainty
from inference.image_inputs import ImageInput
from inference.predictor import Prediction

LABELS_TO_CHECK = "labels_to_check.csv"


class LabelReview:
    """Collect predictions for a run's images, and write its table ordered by their certainty."""

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

        Return whether training images are among the rows, as in every run that does not stream them.
        """
        rows = self.run.read_splits()
        with_prediction = [row for row in rows if row["path"] in self._predicted]
        with_prediction.sort(key=lambda row: self._predicted[row["path"]][0])
        others = [row | dict.fromkeys(REVIEW_COLUMNS, "") for row in rows if row["path"] not in self._predicted]
        with_prediction = [row | self._predicted[row["path"]][1] for row in with_prediction]
        write_csv(path, list(dict.fromkeys([*rows[0], *REVIEW_COLUMNS])), [*with_prediction, *others])
        return any(row["split"] == "train" for row in rows)
