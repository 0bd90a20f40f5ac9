"""The pictures of a run, by split, from its splits.csv."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from callbacks.predicting.sources import Picture, Pictures
from reports.records import count_opening, read_record

TABLE = "splits.csv"

log = logging.getLogger(__name__)


class RunPictures:
    """The test pictures of a run; of one that left its test split closed, or has none, those of validation.

    Args:
        folder: of the run.
        root: of its pictures; None: where its record says.

    Raises:
        ValueError: no pictures of these splits, or not where they were.
    """

    def __init__(self, folder: Path, root: str | None):
        self.folder, self.root = folder, root
        self.all = Pictures(str(folder / TABLE), root)
        self.tables = self.all.tables
        record = folder / "result.json"
        measured = (read_record(record).get("test") or {}) if record.is_file() else {}
        self.split = "test" if measured.get("accuracy") else "val"
        self.count = sum(1 for _ in self)
        if not self.count:
            raise ValueError(
                f"images={folder}: {TABLE} has no {self.split} pictures; name others: images={folder}/{TABLE}"
            )

    @property
    def pictures_folder(self) -> Path:
        """What the paths of the table are below."""
        first = next(iter(self))
        return first.file.parents[len(Path(first.path).parts) - 1]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Picture]:
        return (picture for picture in self.all if picture.split == self.split)


def pictures_of(images: str | Sequence[str] | None, root: str | None) -> RunPictures | Pictures:
    """What `images` names; a run's folder stands for its test pictures."""
    if isinstance(images, str) and is_run(Path(images)):
        return RunPictures(Path(images), root)
    return Pictures(images, root)


def count_opened(checkpoint: Path, pictures: RunPictures | Pictures) -> int | None:
    """Counts, in the record of the run that a checkpoint is of, that its test split was opened once more.

    To be called when an accuracy on test pictures has been shown. Returns the number; None where they are not those of the
    run's own tables, or its record cannot be written.
    """
    folder = checkpoint.resolve().parent.parent
    if not is_run(folder) or folder not in (table.path.resolve().parent for table in pictures.tables):
        return None
    try:
        return count_opening(folder)
    except OSError as error:
        log.warning("%s: that the test split was opened cannot be counted (%s)", folder, error.strerror)
        return None


def is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() and (folder / TABLE).is_file()


def split_of(checkpoint: Path, split: str, root: str | None = None) -> tuple[list[Picture], str]:
    """The pictures of a split of the run that a checkpoint is of, or none and the reason."""
    folder = checkpoint.resolve().parent.parent
    if not is_run(folder):
        return [], f"the checkpoint does not lie in a run's folder with its {TABLE}"
    try:
        found = [picture for picture in Pictures(str(folder / TABLE), root) if picture.split == split]
    except ValueError as error:
        return [], str(error)
    if not found:
        return [], f"{TABLE} of the run names no {split} pictures"
    if not any(picture.file.is_file() for picture in found[:100]):
        return [], f"the {split} pictures of the run are not where they were ({found[0].file.parent})"
    return found, ""
