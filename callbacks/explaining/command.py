"""What `explain=true` adds to predict.py: a page of the most doubtful pictures, and of a run's also labels to check."""

import re
import shlex
from pathlib import Path

from callbacks.predicting.picture_classifier import Classifier, Prediction
from callbacks.predicting.sources import Picture, Pictures
from reports.card_figures import SPLITS
from reports.files import write_text
from reports.records import read_record
from reports.words import clean, plural

from .doubt import MostDoubtful
from .explainer import Explainer, Gallery
from .page import items, render
from .run_pictures import RunPictures, is_run, split_of
from .to_check import NAME, LabelsToCheck

LOOKED_AT = (
    "These are test pictures of the run. What is changed after looking at them, a label or a setting, is chosen on them: the "
    "figure of a training that follows is no longer that of pictures that nobody had seen."
)


class Explaining:
    """Collects answers while they are written, then explains the most doubtful.

    Args:
        checkpoint: that the model is of; training pictures are looked for in its run.
    """

    def __init__(self, model: Classifier, checkpoint: Path, pictures: Pictures | RunPictures, most: int):
        self.explainer = Explainer(model)
        self.checkpoint, self.pictures = checkpoint, pictures
        self.doubtful = MostDoubtful(most)
        self.run = pictures.folder if isinstance(pictures, RunPictures) else None
        self.labels = LabelsToCheck(self.run) if self.run else None

    def add(self, picture: Picture, prediction: Prediction) -> None:
        self.doubtful.add(picture, prediction)
        if self.labels:
            self.labels.add(picture, prediction)

    def write(self, predictions: Path) -> list[str]:
        """Writes the page beside the table of predictions and, of a run's pictures, those to check; returns where."""
        gallery, similar = self._gallery()
        shown = list(items(self.explainer, gallery, self.doubtful.sorted()))
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

    def _gallery(self) -> tuple[Gallery | None, str]:
        """Training pictures, and what is to be said of them."""
        found, reason = split_of(self.checkpoint, "train", self.pictures.root if self.run else None)
        if not found:
            return None, f"No similar training pictures: {reason}."
        gallery = Gallery(self.explainer, found)
        among = f"{len(gallery.pictures):,} training pictures"
        if len(gallery.pictures) + gallery.unread < gallery.total:
            among = f"{len(gallery.pictures):,} of the {gallery.total:,} training pictures, evenly taken,"
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
        parts = [f"{plural(n, 'picture')} that could be read"]
        parts[0] += f" ({SPLITS[self.pictures.split]} split of the run)" if self.run else ""
        parts.append("the most doubtful first, wrong ones before right ones where labels are known")
        parts += [f"{n - kept:,} less doubtful left out"] if kept < n else []
        parts += [f"{kept - shown:,} gone since"] if shown < kept else []
        return "; ".join(parts) + "."

    def _warning(self) -> str:
        return LOOKED_AT if self.run and self.pictures.split == "test" else ""

    def _map_size(self) -> str:
        (height, width), side = self.explainer.map_size, self.explainer.model.image_size
        return f"{height} x {width} places over a picture of {side} x {side} pixels"

    def _training(self, table: Path) -> str:
        """The command that trains on the corrected table."""
        record = read_record(self.run / "result.json")
        source = record["run"]["settings"].get("datamodule.source", "image_folder")
        settings = {"datamodule": source, "datamodule.root": self.pictures.pictures_folder.resolve()}
        settings |= {"datamodule.table": table.resolve()}
        if source == "elpv":
            del settings["datamodule.root"]
        positive = (record.get("decision") or {}).get("positive_class")
        if positive is not None and positive != max(record["data"]["classes"]):  # a table's classes are sorted
            settings["decision.positive_class"] = positive
        return shlex.join(["python", "train.py", *(setting(key, value) for key, value in settings.items())])


def setting(key: str, value: str | Path) -> str:
    """KEY=VALUE as Hydra reads it, whatever the value is."""
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9._/-]+", text):
        return f"{key}={text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'
