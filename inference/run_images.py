"""The images of a run, by split, from its splits.csv."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.run_record import increment_test_evaluations, read_record
from inference.image_inputs import ImageInput, ImageInputs

TABLE = "splits.csv"

log = logging.getLogger(__name__)


class RunImages:
    """The test images of a run; of one that left its test split closed, or has none, those of validation.

    Args:
        folder: of the run.
        root: of its images; None: where its record says.

    Raises:
        ValueError: no images of these splits, or not where they were.
    """

    def __init__(self, folder: Path, root: str | None):
        self.folder, self.root = folder, root
        self.all = ImageInputs(str(folder / TABLE), root)
        self.tables = self.all.tables
        record = folder / "result.json"
        measured = (read_record(record).get("test") or {}) if record.is_file() else {}
        self.split = "test" if measured.get("accuracy") else "val"
        self.count = sum(1 for _ in self)
        if not self.count:
            raise ValueError(
                f"images={folder}: {TABLE} has no {self.split} images; name others: images={folder}/{TABLE}"
            )

    @property
    def images_folder(self) -> Path:
        """What the paths of the table are below."""
        first = next(iter(self))
        return first.file.parents[len(Path(first.path).parts) - 1]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImageInput]:
        return (source for source in self.all if source.split == self.split)


def resolve_images(images: str | Sequence[str] | None, root: str | None) -> RunImages | ImageInputs:
    """What `images` names; a run's folder stands for its test images."""
    if isinstance(images, str) and is_run(Path(images)):
        return RunImages(Path(images), root)
    return ImageInputs(images, root)


def count_test_evaluation(checkpoint: Path, sources: RunImages | ImageInputs) -> int | None:
    """Counts, in the record of the run that a checkpoint is of, that its test split was opened once more.

    To be called when an accuracy on test images has been shown. Returns the number; None where they are not those of the
    run's own tables, or its record cannot be written.
    """
    folder = checkpoint.resolve().parent.parent
    if not is_run(folder) or folder not in (table.path.resolve().parent for table in sources.tables):
        return None
    try:
        return increment_test_evaluations(folder)
    except OSError as error:
        log.warning("%s: that the test split was opened cannot be counted (%s)", folder, error.strerror)
        return None


def is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() and (folder / TABLE).is_file()


def split_images(checkpoint: Path, split: str, root: str | None = None) -> tuple[list[ImageInput], str]:
    """The images of a split of the run that a checkpoint is of, or none and the reason."""
    folder = checkpoint.resolve().parent.parent
    if not is_run(folder):
        return [], f"the checkpoint does not lie in a run's folder with its {TABLE}"
    try:
        found = [source for source in ImageInputs(str(folder / TABLE), root) if source.split == split]
    except ValueError as error:
        return [], str(error)
    if not found:
        return [], f"{TABLE} of the run names no {split} images"
    if not any(source.file.is_file() for source in found[:100]):
        return [], f"the {split} images of the run are not where they were ({found[0].file.parent})"
    return found, ""
