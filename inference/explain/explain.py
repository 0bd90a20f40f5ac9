"""Do what `predict.py explain=true` asks for: a page of the least certain images and, for a run's images, labels to check."""

import re
from pathlib import Path

from common.atomic_io import write_text
from common.errors import UserError
from common.flags import own_folders
from common.progress import Progress
from common.run_folder import shown_script
from common.run_record import RunRecord
from common.text import SPLIT_NAMES, clean, plural, quote_override, shell_join, shell_split
from common.untrusted.saved_config import read_typed
from inference.explain.explainer import Explainer, FeatureIndex
from inference.explain.page import page_items, render
from inference.explain.ranking import LABELS_TO_CHECK, LabelReview, LeastCertain
from inference.image_inputs import ImageInput, ImageInputs, RunImages, run_of_checkpoint, training_images
from inference.predictor import Prediction, Predictor

TEST_WARNING = (
    "These are test images of the run. A label or a setting that is changed after looking at them is selected on them: the "
    "test accuracy of a model that is trained afterwards is no longer unbiased."
)
# Settings that the table of labels makes, or that are of a command and not of its training
REPLACED = re.compile(
    r"datamodule(\.(table|root|source.*|splits|split_seed|folds?|train_fraction))?|stages|ckpt_path|seeds|debug"
)


class Explanations:
    """Collect predictions while they are written, then explain the least certain ones.

    Args:
        checkpoint: of the model; similar training images are searched for in its run.
    """

    def __init__(
        self, model: Predictor, checkpoint: Path, inputs: ImageInputs | RunImages, most: int, progress: Progress
    ):
        self.progress = progress
        self.explainer = Explainer(model)
        self.checkpoint, self.inputs = checkpoint, inputs
        self.least_certain = LeastCertain(most)
        self.run = inputs.run if isinstance(inputs, RunImages) else None
        self.label_review = LabelReview(self.run) if self.run else None

    def add(self, image_input: ImageInput, prediction: Prediction) -> None:
        self.least_certain.add(image_input, prediction)
        if self.label_review:
            self.label_review.add(image_input, prediction)

    def write(self, predictions: Path) -> list[str]:
        """Write the page beside the table of predictions and, for a run's images, the labels to check; return where."""
        feature_index, similar = self._feature_index()
        self.progress.set("explaining")
        explained, items = self.least_certain.sorted(), []
        for item in page_items(self.explainer, feature_index, explained):
            items.append(item)
            self.progress.count(len(items), len(explained))
        page = predictions.with_suffix(".html")
        warning = TEST_WARNING if self.run and self.inputs.split == "test" else ""
        write_text(page, render(title=self._title(), subtitle=self._subtitle(len(items)), warning=warning,
                                map_size=self.explainer.map_size, similar=similar, items=items))  # fmt: skip
        lines = [f"Explained: {page}"]
        if self.label_review:
            table = page.with_name(LABELS_TO_CHECK)
            lines.append(f"Labels to check: {table}")
            if self.label_review.write(table):
                lines.append(f"then train on them: {self._training_command(table)}")
            else:
                lines.append(
                    "the table has no training images, because they are streamed: correct labels in the shards"
                )
        return lines

    def _feature_index(self) -> tuple[FeatureIndex | None, str]:
        """Return the index of training images, and a description of it."""
        images, reason = training_images(self.checkpoint, self.inputs.root if self.run else None)
        if not images:
            return None, f"No similar training images: {reason}."
        self.progress.set("features of training images, to find similar ones")
        index = FeatureIndex(self.explainer, images, self.progress)
        among = f"{len(index.images):,} training images"
        if len(index.images) + index.n_unread < index.total:
            among = f"{len(index.images):,} of the {index.total:,} training images, evenly spaced,"
        unread = f" {plural(index.n_unread, 'other')} could not be read." if index.n_unread else ""
        return index, (
            f"Below each image are the three most similar of {among} with their label and the cosine of the features (the "
            f"mean of the last feature map; 1 is the same).{unread}"
        )

    def _title(self) -> str:
        run = run_of_checkpoint(self.checkpoint)
        return f"Where the network looked: {clean(RunRecord.read(run).run.name if run else self.checkpoint.name, 100)}"

    def _subtitle(self, n_shown: int) -> str:
        n, n_kept = self.least_certain.n, len(self.least_certain.sorted())
        parts = [f"{plural(n, 'image')} that could be read"]
        parts[0] += f" ({SPLIT_NAMES[self.inputs.split]} split of the run)" if self.run else ""
        parts.append(
            "the least certain first; if labels are known, wrong ones first, by the probability of their label"
        )
        parts += [f"{n - n_kept:,} more certain ones not shown"] if n_kept < n else []
        parts += [f"{n_kept - n_shown:,} deleted since"] if n_shown < n_kept else []
        return "; ".join(parts) + "."

    def _training_command(self, table: Path) -> str:
        """Return the command that trains as the run did, but on the corrected table, which has the images and their splits.

        Raises:
            UserError: what was typed for the run cannot be read.
        """
        record = RunRecord.read(self.run)
        try:
            folders = own_folders(shell_split(record.run.command))
        except ValueError as error:
            raise UserError(
                f"{self.run.record}: run.command is not a command ({error}); copy the record of the run again"
            ) from error
        images = {"datamodule": "image_folder", "datamodule.table": table.resolve(),
                  "datamodule.root": self.inputs.images_folder.resolve()}  # fmt: skip
        by_key = {each.lstrip("+~").partition("=")[0]: each for each in read_typed(record)}
        typed = {key: each for key, each in by_key.items() if not REPLACED.fullmatch(key)}
        positive = record.decision and record.decision.positive_class
        if positive is not None and positive != max(record.data.classes):  # a table's classes are sorted
            typed["decision.positive_class"] = quote_override("decision.positive_class", positive)
        data = [quote_override(key, value) for key, value in images.items()]
        return clean(shell_join(["python", shown_script("train.py"), *folders, *data, *typed.values()]))
