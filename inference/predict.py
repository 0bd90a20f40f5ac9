"""predictions.csv of predict.py, written line by line, and what the screen shows of it."""

import contextlib
import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from common.atomic_io import whole
from common.predictions_csv import COLUMNS
from common.run_record import describe_test_evaluations
from common.text import clean, join_words, plural, printable
from inference.image_inputs import ImageInput
from inference.predictor import Prediction

FIRST = 5  # lines on the screen
WIDEST = 48  # characters of a path there
TRUTH = {True: "true", False: "false", None: ""}


def prediction_columns(classes: list[str], decision: dict | None) -> list[str]:
    """Those of a run's predictions.csv, and what follows from the checkpoint's decision."""
    follows = ["decided"] if decision and "threshold" in decision else []
    return [*COLUMNS, *(f"p_{name}" for name in classes), *follows, "abstained", "error"]


def prediction_row(source: ImageInput, prediction: Prediction) -> dict[str, str]:
    """A line of the table."""
    shares = prediction.probabilities or {}
    return {
        "path": source.path,
        "fingerprint": prediction.fingerprint,
        "label": source.label,
        "predicted": prediction.predicted or "",
        **{f"p_{name}": f"{p:.6f}" for name, p in shares.items()},
        **({"decided": prediction.decided} if prediction.decided else {}),
        "abstained": TRUTH[prediction.abstained],
        "error": " ".join(prediction.error.split()),
    }


@contextlib.contextmanager
def whole_csv(path: Path, names: list[str]) -> Iterator[Callable[[dict], None]]:
    """Gives a function that writes a line; the file is there, whole, when all are written, or else not at all.

    Raises:
        ValueError: nothing can be written there.
    """
    made = not path.parent.exists()
    try:
        with contextlib.ExitStack() as stack:
            with _told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                options = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
                file = stack.enter_context(whole(path, "w", **options))
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")

            def write(row: dict) -> None:
                with _told(path):
                    writer.writerow(row)

            with _told(path):
                writer.writeheader()
            yield write
            with _told(path):
                stack.close()
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # where nothing else is in it
        raise


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"out={path}: cannot be written ({error.strerror}); use out=DIR or out=NAME.csv") from error


class PredictionSummary:
    """Counts, line by line, for the screen."""

    def __init__(self, classes: list[str], decision: dict | None):
        self.classes = classes
        self.decision = decision
        self.first: list[dict] = []
        self.n = self.errors = self.abstained = 0
        self.first_error = ""
        self.predicted = Counter()
        self.unknown_labels = Counter()
        self.right: dict[str, list[int]] = {}  # split -> right, n, right of those not abstained from, n of them

    def add(self, source: ImageInput, prediction: Prediction) -> None:
        self.n += 1
        if len(self.first) < FIRST:
            self.first.append(prediction_row(source, prediction))
        if prediction.error:
            self.errors += 1
            self.first_error = self.first_error or prediction.error
            return
        self.predicted[prediction.predicted] += 1
        self.abstained += bool(prediction.abstained)
        if source.label in self.classes:
            right, kept = source.label == prediction.predicted, not prediction.abstained
            counts = self.right.setdefault(source.split, [0, 0, 0, 0])
            for place, count in enumerate((right, 1, right and kept, kept)):
                counts[place] += count
        elif source.label:
            self.unknown_labels[source.label] += 1

    def in_words(self, opened: int | None = None) -> list[str]:
        """The first lines as a table, counts, and accuracy where labels are known.

        Args:
            opened: how often the test split of a training was opened, this time included.
        """
        from evaluation.intervals import accuracy_entry, format_accuracy  # late: scipy

        lines = [*_aligned(self._shown()), ""]
        if self.n > len(self.first):
            lines[-1:] = [f"... and {self.n - len(self.first):,} more", ""]
        lines.append(
            f"{plural(self.n, 'image')}: {', '.join(f'{name} {self.predicted[name]:,}' for name in self._most())}"
        )
        if self.decision:
            limit = self.decision["confidence"]
            why = f"confidence below {limit:.3f}" if limit is not None else "no confidence was enough on validation"
            wanted = f"for an accuracy of {self.decision['target_accuracy']:g}"
            lines.append(f"abstained: {self.abstained:,} ({why}, {wanted})")
        if self.errors:
            lines.append(f"not read: {self.errors:,}")
        for split, (right, n, right_kept, kept) in self.right.items():
            name = f"Accuracy {split}".strip()
            lines.append(f"{name}: {format_accuracy(accuracy_entry(right, n))}")
            if self.decision and 0 < kept < n:
                lines.append(f"{name} where not abstained: {format_accuracy(accuracy_entry(right_kept, kept))}")
        if opened and opened > 1:
            lines.append(describe_test_evaluations(opened))
        if self.unknown_labels:
            lines.append(
                f"not in the accuracy: {plural(self.unknown_labels.total(), 'image')} whose label the network does not know "
                f"({join_words([clean(name, 40) for name in sorted(self.unknown_labels)])}); it knows {join_words(self.classes, 20)}"
            )
        return [printable(line) for line in lines]  # names of classes may be a stranger's

    def _most(self) -> list[str]:
        """Classes as the network has them; of many the commonest."""
        return self.classes if len(self.classes) <= 12 else [name for name, _ in self.predicted.most_common(12)]

    def _shown(self) -> list[list[str]]:
        header = ["path", "predicted", "p", *(["decided"] if self.decision and "threshold" in self.decision else [])]
        header += ["abstained"] if self.decision else []
        table = [header]
        for row in self.first:
            path = clean(row["path"])
            path = path if len(path) <= WIDEST else f"…{path[1 - WIDEST :]}"
            if row["error"]:
                table.append([path, "not read"])
                continue
            p = f"{float(row['p_' + row['predicted']]):.4f}"
            table.append([path, row["predicted"], p, *(row[name] for name in header[3:])])
        return table


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in table if place < len(row)) for place in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in table]
