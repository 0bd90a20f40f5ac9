"""What `explain=true` adds to predict.py: a page of the most doubtful images, and of a run's also labels to check."""

import shlex
from pathlib import Path

from common.atomic_io import write_text
from common.run_record import read_record
from common.text import clean, plural, quote_override
from inference.explain.explainer import Explainer, FeatureIndex
from inference.explain.label_review import NAME, LabelReview
from inference.explain.page import page_items, render
from inference.explain.ranking import LeastCertain
from inference.image_inputs import ImageInput, ImageInputs
from inference.predictor import Prediction, Predictor
from inference.run_images import RunImages, is_run, split_images
from reports.card_sections import SPLITS

LOOKED_AT = (
    "These are test images of the run. What is changed after looking at them, a label or a setting, is chosen on them: the "
    "figure of a training that follows is no longer that of images that nobody had seen."
)


class Explanations:
    """Collects answers while they are written, then explains the most doubtful.

    Args:
        checkpoint: that the model is of; training images are looked for in its run.
    """

    def __init__(self, model: Predictor, checkpoint: Path, sources: ImageInputs | RunImages, most: int):
        self.explainer = Explainer(model)
        self.checkpoint, self.sources = checkpoint, sources
        self.doubtful = LeastCertain(most)
        self.run = sources.folder if isinstance(sources, RunImages) else None
        self.labels = LabelReview(self.run) if self.run else None

    def add(self, source: ImageInput, prediction: Prediction) -> None:
        self.doubtful.add(source, prediction)
        if self.labels:
            self.labels.add(source, prediction)

    def write(self, predictions: Path) -> list[str]:
        """Writes the page beside the table of predictions and, of a run's images, those to check; returns where."""
        gallery, similar = self._gallery()
        shown = list(page_items(self.explainer, gallery, self.doubtful.sorted()))
        page = predictions.with_suffix(".html")
        write_text(page, render(title=self._title(), subtitle=self._subtitle(len(shown)), warning=self._warning(),
                                map_size=self._map_size(), similar=similar, items=shown))  # fmt: skip
        lines = [f"Explained: {page}"]
        if self.labels:
            self.labels.write(page.with_name(NAME))
            lines += [
                f"Labels to check: {page.with_name(NAME)}",
                f"and when they are: {self._training(page.with_name(NAME))}",
            ]
        return lines

    def _gallery(self) -> tuple[FeatureIndex | None, str]:
        """Training images, and what is to be said of them."""
        found, reason = split_images(self.checkpoint, "train", self.sources.root if self.run else None)
        if not found:
            return None, f"No similar training images: {reason}."
        gallery = FeatureIndex(self.explainer, found)
        among = f"{len(gallery.sources):,} training images"
        if len(gallery.sources) + gallery.unread < gallery.total:
            among = f"{len(gallery.sources):,} of the {gallery.total:,} training images, evenly taken,"
        unread = f" {plural(gallery.unread, 'other')} could not be read." if gallery.unread else ""
        return gallery, (
            f"Below stand the three most similar of {among} with their label and the cosine of the features (the mean of the "
            f"last feature map; 1 is the same).{unread}"
        )

    def _title(self) -> str:
        folder = self.checkpoint.resolve().parent.parent
        name = read_record(folder / "result.json")["run"].get("name") if is_run(folder) else self.checkpoint.name
        return f"What a network looks at: {clean(name, 100)}"

    def _subtitle(self, shown: int) -> str:
        n, kept = self.doubtful.n, len(self.doubtful.sorted())
        parts = [f"{plural(n, 'image')} that could be read"]
        parts[0] += f" ({SPLITS[self.sources.split]} split of the run)" if self.run else ""
        parts.append("the most doubtful first, wrong ones before right ones where labels are known")
        parts += [f"{n - kept:,} less doubtful left out"] if kept < n else []
        parts += [f"{kept - shown:,} gone since"] if shown < kept else []
        return "; ".join(parts) + "."

    def _warning(self) -> str:
        return LOOKED_AT if self.run and self.sources.split == "test" else ""

    def _map_size(self) -> str:
        (height, width), side = self.explainer.map_size, self.explainer.model.image_size
        return f"{height} x {width} places over an image of {side} x {side} pixels"

    def _training(self, table: Path) -> str:
        """The command that trains on the corrected table."""
        record = read_record(self.run / "result.json")
        source = record["run"]["settings"].get("datamodule.source", "image_folder")
        settings = {"datamodule": source, "datamodule.root": self.sources.images_folder.resolve()}
        settings |= {"datamodule.table": table.resolve()}
        if source == "elpv":
            del settings["datamodule.root"]
        positive = (record.get("decision") or {}).get("positive_class")
        if positive is not None and positive != max(record["data"]["classes"]):  # a table's classes are sorted
            settings["decision.positive_class"] = positive
        return shlex.join(["python", "train.py", *(quote_override(key, value) for key, value in settings.items())])
