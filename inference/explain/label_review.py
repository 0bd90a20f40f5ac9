"""labels_to_check.csv: a run's splits.csv with the most doubtful images first, which training takes back."""

import csv
from pathlib import Path

from common.atomic_io import write_csv
from inference.explain.ranking import certainty
from inference.image_inputs import ImageInput
from inference.predictor import Prediction
from inference.run_images import TABLE

NAME = "labels_to_check.csv"
ADDED = ("predicted", "confidence")


class LabelReview:
    """Collects answers for the images of a run; the other lines of its table follow as they stand."""

    def __init__(self, run: Path):
        self.table = run / TABLE
        self.answers: dict[str, tuple] = {}  # path -> certainty, predicted, confidence

    def add(self, source: ImageInput, prediction: Prediction) -> None:
        if not prediction.error:
            confidence = max(prediction.probabilities.values())
            self.answers[source.path] = (certainty(source, prediction), prediction.predicted, f"{confidence:.6f}")

    def write(self, path: Path) -> None:
        """All lines of the run's table, those that were answered first, the most doubtful first."""
        with self.table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
        answered = sorted((r for r in rows if r["path"] in self.answers), key=lambda r: self.answers[r["path"]][0])
        others = [row for row in rows if row["path"] not in self.answers]
        lines = [row | dict(zip(ADDED, self.answers[row["path"]][1:], strict=True)) for row in answered]
        lines += [row | dict.fromkeys(ADDED, "") for row in others]
        write_csv(path, [*columns, *ADDED], lines)
