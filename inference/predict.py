"""Label images: predictions.csv, written row by row, and a summary on the screen."""

import contextlib
import csv
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from common import predictions_csv
from common.atomic_io import atomic_open
from common.errors import UserError
from common.own_test_images import OwnTestImages
from common.progress import Progress
from common.run_folder import RunFolder, missing_folders, remove_empty
from common.run_record import Baseline, ClassScores, Decision, SplitMetrics, describe_test_evaluations
from common.table import Table
from common.text import clean, join_words, plural, printable, short_name
from inference.arguments import check_predict_arguments, checkpoint_argument
from inference.explain.ranking import LABELS_TO_CHECK
from inference.image_inputs import (
    TABLES,
    ImageInput,
    RunImages,
    count_test_evaluation,
    resolve_images,
    run_of_checkpoint,
)
from inference.predictor import Prediction, Predictor

log = logging.getLogger(__name__)

FIRST = 5  # rows on the screen, if more than one would be left
MOST_COUNTED = 12  # classes, in the network's order; if it has more, the most frequent ones
WIDEST = 48  # characters of a path on the screen
OTHER_TABLES = {*TABLES, ".json", ".txt", ".xlsx"} - {".csv"}  # suffixes that users ask for, but that are not written
TRUTH = {True: "true", False: "false", None: ""}


def run(config: DictConfig) -> None:
    """Write predictions.csv and print a summary.

    Raises:
        UserError: a wrong setting; or, after everything is written, some files could not be read.
    """
    checkpoint = checkpoint_argument(config.ckpt, exported=True)
    check_predict_arguments(config.batch_size, config.explain, config.explain_most, config.threshold)
    images = OmegaConf.to_container(config.images) if OmegaConf.is_list(config.images) else config.images
    with Progress("reading the network and the list of images") as progress:
        _run(config, checkpoint, images, progress)


def _run(config: DictConfig, checkpoint: Path, images: str | list[str] | None, progress: Progress) -> None:
    from tqdm import tqdm

    inputs = resolve_images(images, config.root)
    table = table_path(config.out, [part.path for part in inputs.tables])
    if config.explain and isinstance(inputs, RunImages) and table.name == LABELS_TO_CHECK:
        raise UserError(f"out={table}: explain=true writes the labels to check there; use another name, out=NAME.csv")
    model = Predictor.from_checkpoint(checkpoint, str(config.device), config.register)
    if config.threshold is not None:
        model.set_threshold(config.threshold)
    run = run_of_checkpoint(checkpoint)
    own_test = OwnTestImages(run, config.root) if run else None
    summary = PredictionSummary(model.classes, model.decision, own_test)
    is_own = run and isinstance(inputs, RunImages) and inputs.run.path.resolve() == run.path
    tested, changed = own_test.fingerprints if is_own and inputs.split == "test" else (), []
    explanations = None
    if config.explain:
        from inference.explain.explain import Explanations

        explanations = Explanations(model, checkpoint, inputs, config.explain_most, progress)
    stream = model.stream(inputs, config.batch_size)
    hidden = not sys.stderr.isatty()
    progress.set("labeling" if hidden else "")  # else the bar shows it
    with open_table(table, prediction_columns(model.classes, model.decision)) as write_row:
        for image_input, prediction in tqdm(stream, total=len(inputs), unit="image", leave=False, disable=hidden):
            write_row(prediction_row(image_input, prediction))
            summary.add(image_input, prediction)
            if tested and prediction.fingerprint and prediction.fingerprint not in tested:
                changed.append(image_input.path)
            progress.count(summary.n, len(inputs))
            if explanations:
                explanations.add(image_input, prediction)
    if own_test and own_test.unknown and summary.known:
        log.warning(
            "it is unknown whether these are test images of the model, so this is not counted as a test evaluation: %s",
            own_test.unknown,
        )
    if changed:
        log.warning(
            "images=%s: %s of its %s test images have different pixels than when the run was tested, such as %s: they were "
            "replaced, or another library decoded them; this accuracy is not the run's",
            images, f"{len(changed):,}", f"{len(inputs):,}", changed[0],
        )  # fmt: skip
    test_evaluations = count_test_evaluation(run) if summary.evaluates_test else None
    print(*summary.lines(test_evaluations), f"Predictions: {table}", sep="\n")
    if explanations and summary.n > summary.errors:
        print(*explanations.write(table), sep="\n")
    if summary.errors:
        example = summary.first_error if summary.errors == 1 else f"the first: {summary.first_error}"
        raise UserError(
            f"{summary.errors:,} of {summary.n:,} images could not be read ({example}); see the column `error`"
        )


def table_path(out: str | None, read: Sequence[Path] = ()) -> Path:
    """Return the table that `out` names.

    Args:
        read: tables that the images come from.

    Raises:
        UserError: no path, or a table that would be lost: one of `read`, or a run's own.
    """
    if out is None:
        raise UserError("out is not set; use out=DIR or out=NAME.csv")
    if OmegaConf.is_config(out):
        raise UserError(f"out={out}: is not one path; use out=DIR or out=NAME.csv")
    path = Path(str(out))
    if path.suffix.lower() in OTHER_TABLES and not path.is_dir():
        raise UserError(f"out={path}: predictions are written as .csv; use out={path.with_suffix('.csv')}, or out=DIR")
    path = path if path.suffix.lower() == ".csv" else RunFolder(path).predictions("test")  # named as a run's
    if any(path.exists() and path.samefile(table) for table in read):
        raise UserError(f"out={path}: is the table that the images are read from; use another out=DIR or out=NAME.csv")
    run = RunFolder(path.parent)
    if run.record.is_file() and path in (run.predictions("test"), run.predictions("val"), run.splits, run.metrics):
        raise UserError(f"out={path}: is a table of the run itself; use another out=DIR or out=NAME.csv")
    return path


def prediction_columns(classes: list[str], decision: Decision | None) -> list[str]:
    """Return the columns of a run's predictions.csv, then those that the decision adds."""
    decided = ["decided"] if has_threshold(decision) else []
    return [*predictions_csv.prediction_columns(classes), *decided, "abstained", "error"]


def has_threshold(decision: Decision | None) -> bool:
    """Return whether predictions have a class chosen by the threshold of the positive class."""
    return decision is not None and decision.threshold is not None


def prediction_row(image_input: ImageInput, prediction: Prediction) -> dict[str, str]:
    """Return a row of the table."""
    return {
        **predictions_csv.prediction_row(
            image_input.path,
            prediction.fingerprint,
            image_input.label,
            prediction.predicted or "",
            prediction.probabilities or {},
        ),
        **({"decided": prediction.decided} if prediction.decided else {}),
        "abstained": TRUTH[prediction.abstained],
        "error": " ".join(prediction.error.split()),
    }


@contextlib.contextmanager
def open_table(path: Path, columns: list[str]) -> Iterator[Callable[[dict], None]]:
    """Yield a function that writes a row; the file appears once all rows are written without an error, or not at all.

    Raises:
        UserError: nothing can be written there.
    """
    made = missing_folders(path.parent)
    try:
        with contextlib.ExitStack() as stack:
            with _disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(atomic_open(path, "w"))
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")

            def write_row(row: dict) -> None:
                with _disk_errors(path):
                    writer.writerow(row)

            with _disk_errors(path):
                writer.writeheader()
            yield write_row
            with _disk_errors(path):
                stack.close()
    except BaseException:
        remove_empty(made)
        raise


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror}); use out=DIR or out=NAME.csv") from error


class PredictionSummary:
    """Count predictions as they are made, for the screen.

    Args:
        decision: of the network; None: it has none.
        own_test: the test images of the run that trained the model; None: unknown.

    Attributes:
        evaluates_test: whether the accuracy includes any of those test images.
    """

    def __init__(self, classes: list[str], decision: Decision | None, own_test: OwnTestImages | None = None):
        self.classes = classes
        self.decision = decision
        self.own_test, self.evaluates_test = own_test, False
        self.first: list[dict] = []
        self.n = self.errors = self.abstained = 0
        self.first_error = ""
        self.predicted, self.decided = Counter(), Counter()
        self.unknown_labels = Counter()
        # Split -> of each labeled image: is it correct, did the model not abstain, is `decided` correct, its group, its class
        self.known: dict[str, tuple[list[bool], list[bool], list[bool], list[str], list[int]]] = {}
        self.learned = Counter()  # split -> number of images that trained or chose the network

    def add(self, image_input: ImageInput, prediction: Prediction) -> None:
        self.n += 1
        if len(self.first) <= FIRST:
            self.first.append(prediction_row(image_input, prediction))
        if prediction.error:
            self.errors += 1
            self.first_error = self.first_error or prediction.error
            return
        self.predicted[prediction.predicted] += 1
        self.decided[prediction.decided] += 1
        self.abstained += bool(prediction.abstained)
        if image_input.label in self.classes:
            label = self.classes.index(image_input.label)
            correct, decided = (image_input.label == each for each in (prediction.predicted, prediction.decided))
            found = correct, not prediction.abstained, decided, image_input.group, label
            columns = self.known.setdefault(image_input.split, ([], [], [], [], []))
            for column, value in zip(columns, found, strict=True):
                column.append(value)
            if self.own_test:
                self.learned[image_input.split] += self.own_test.chose_the_network(image_input.file)
            if self.own_test and not self.evaluates_test:
                self.evaluates_test = self.own_test.include(prediction.fingerprint, image_input.file)
        elif image_input.label:
            self.unknown_labels[image_input.label] += 1

    def lines(self, test_evaluations: int | None = None) -> list[str]:
        """Return the first rows as a table, the counts, and the accuracy if labels are known.

        Args:
            test_evaluations: number so far for this model, including this one; None: this is not a test evaluation.
        """
        from evaluation.describe import describe_accuracy, describe_caveats, describe_recall  # late: scipy
        from evaluation.intervals import design_effect, format_accuracy, group_numbers, proportion

        shown = self.first if self.n == len(self.first) else self.first[:FIRST]
        lines = [*self._table_of(shown).as_text(), ""]
        if self.n > len(shown):
            lines[-1:] = [f"... and {self.n - len(shown):,} more", ""]
        lines += self._counts() if self.n > self.errors else []
        if self.errors:
            lines.append(f"not read: {self.errors:,}")
        for split, columns in self.known.items():
            name = f"{split} accuracy".strip().capitalize()
            correct, kept, decided, labels = (np.array(columns[place]) for place in (0, 1, 2, 4))
            groups = group_numbers(columns[3])
            accuracy = proportion(int(correct.sum()), len(correct), design_effect(correct, groups))
            counts = np.bincount(labels, minlength=len(self.classes)).tolist()
            by_class = dict(zip(self.classes, counts, strict=True))  # ties go to the first, as in the record
            metrics = SplitMetrics(accuracy=accuracy, baseline=Baseline.of(by_class))
            lines += [f"{name}: {describe_accuracy(metrics)}", *describe_caveats(metrics)]
            if len(np.unique(labels)) > 1:
                recall = describe_recall(self._recalls(correct, labels, groups))
                lines.append(f"{split.capitalize()} {recall}" if split else f"{recall[:1].upper()}{recall[1:]}")
            if has_threshold(self.decision):
                recall = describe_recall(self._recalls(decided, labels, groups)).removeprefix("recall: ")
                lines.append(f"{f'{split} recall'.strip().capitalize()} of `decided` ({self._threshold()}): {recall}")
            if learned := self.learned[split]:
                which = f"{learned:,} of these {len(correct):,} images" if len(correct) > 1 else "this image"
                are = "is a train or validation image" if learned == 1 else "are train or validation images"
                lines.append(f"{which} {are} of this network, so this accuracy is too good")
            if self.decision and 0 < (n := int(kept.sum())) < len(kept):
                effect = design_effect(correct[kept], None if groups is None else groups[kept])
                found = format_accuracy(proportion(int(correct[kept].sum()), n, effect))
                lines.append(f"{name} where not abstained: {found}")
        if test_evaluations and test_evaluations > 1:
            selected_on_test = self.own_test is not None and self.own_test.data.select_on == "test"
            lines.append(describe_test_evaluations(test_evaluations, selected_on_test))
        if self.unknown_labels:
            unknown = join_words([short_name(name) for name in sorted(self.unknown_labels)])
            lines.append(
                f"excluded from the accuracy: {plural(self.unknown_labels.total(), 'image')} with a label that the "
                f"network does not know ({unknown}); it knows {join_words(self.classes, 20)}"
            )
        return [printable(line) for line in lines]  # names of classes may come from an untrusted file

    def _counts(self) -> list[str]:
        """Return how often each class is predicted and decided, and how many predictions are abstained."""
        from evaluation.describe import describe_promise  # late: scipy

        frequent = [name for name, _ in self.predicted.most_common(MOST_COUNTED)]
        shown = self.classes if len(self.classes) <= MOST_COUNTED else frequent
        counts = [f"{self.predicted[name]:,} as {short_name(name)}" for name in shown]
        others = self.predicted.total() - sum(self.predicted[name] for name in shown)
        counts += [f"{others:,} as other classes"] if others else []
        lines = [f"{plural(self.n, 'image')}, predicted: {', '.join(counts)}"]
        if has_threshold(self.decision):
            counts = [f"{self.decided[name]:,} as {short_name(name)}" for name in self.classes]
            lines.append(f"`decided` ({self._threshold()}): {', '.join(counts)}")
        if self.decision:
            which, promise = "abstained:", describe_promise(self.decision, like="those of validation")
            if self.decision.confidence is None:
                which = "abstained from all" if self.abstained > 1 else which
                promise = f"{promise}; `predicted` still has the most probable class"
            lines.append(f"{which} {self.abstained:,} ({promise})")
        return lines

    def _threshold(self) -> str:
        from evaluation.describe import format_threshold  # late: scipy

        return f"'{short_name(self.decision.positive_class)}' from {format_threshold(self.decision.threshold)} on"

    def _recalls(self, correct: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> list[ClassScores]:
        from evaluation.intervals import class_effects, proportion  # late: scipy

        effects = class_effects(correct, labels, len(self.classes), groups)
        of_class = [correct[labels == index] for index in range(len(self.classes))]
        return [
            ClassScores(name=name, n=len(right), recall=proportion(int(right.sum()), len(right), effect))
            for name, right, effect in zip(self.classes, of_class, effects.tolist(), strict=True)
            if len(right)
        ]

    def _table_of(self, rows: list[dict]) -> Table:
        titles = ["path", "predicted", "p", *(["decided"] if has_threshold(self.decision) else [])]
        titles += ["abstained"] if self.decision else []
        lines = []
        for row in rows:
            path = clean(row["path"])
            path = path if len(path) <= WIDEST else f"…{path[1 - WIDEST :]}"
            p = "" if row["error"] else f"{float(row['p_' + row['predicted']]):.4f}"
            line = {**row, "path": path, "predicted": "not read" if row["error"] else row["predicted"], "p": p}
            lines.append([line.get(name, "") for name in titles])
        return Table.of(titles, lines, texts=len(titles))
