"""List the images that `images` names: files, folders, patterns, tables, runs. Only a few are in memory at a time."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.errors import UserError
from common.own_test_images import images_folder
from common.predictions_csv import read_predicted_images
from common.run_folder import RunFolder
from common.run_record import DataInfo, RunRecord, increment_test_evaluations
from common.text import plural
from common.untrusted.tables import OwnTable, describe_notes
from datamodules.sources.catalog import split_of
from datamodules.sources.csv_table import FileFinder, check_label
from datamodules.sources.image_folder import ARCHIVES, NAMED, image_suffixes, is_ignored, walk_images
from datamodules.sources.source import relative_to

EXAMPLE = "give an image, a folder, a pattern with *, a table with a column path (.csv), or [A,B] of these"

TABLES = (".csv", ".tsv", ".parquet")

log = logging.getLogger(__name__)


class ImageInput(NamedTuple):
    """An image to label."""

    path: str  # as given, or as found below the folder that was given
    file: Path
    label: str = ""  # if a table has one
    split: str = ""  # if a table has one
    group: str = ""  # if a table has one


class ImageInputs:
    """List all images that `images` names, in order, each time it is iterated over.

    Folders are searched to any depth. A file named directly, by a pattern or by a table is listed whatever it is; if it is not
    an image, that shows when it is read. A file named several times is listed once.

    Args:
        images: an image, folder, pattern or table, or several.
        root: folder of the relative paths in tables; None: the table's own folder, or for a run's tables the folder in its
            record.

    Raises:
        UserError: nothing is given, there are no images, or a table is damaged (the message names the line).
    """

    def __init__(self, images: str | Sequence[str] | None, root: str | None = None):
        places = list(images) if isinstance(images, (list, tuple)) else [images]
        if not places or places[0] in (None, ""):
            raise UserError(f"images is not set; {EXAMPLE}")
        if any(place in (None, "") for place in places):
            raise UserError(f"images={places}: one of them is empty; {EXAMPLE}")
        self._parts = [_open_place(str(place), root) for place in places]
        self.tables = [part for part in self._parts if isinstance(part, ImageTable)]
        given = ",".join(map(str, places)) if len(places) == 1 else f"[{','.join(map(str, places))}]"
        if root is not None and not self.tables:
            raise UserError(
                f"root={root} is only for the relative paths of a table, and images={given} has none; leave out root"
            )
        self._n_repeated = 0
        self.count = sum(1 for _ in self._list(warn=True))
        self._n_repeated += sum(table.n_repeated for table in self.tables)
        if self._n_repeated:
            log.warning(
                "images=%s: %s named more than once; each is taken once", given, plural(self._n_repeated, "image")
            )
        if not self.count:
            raise UserError(f"images={given}: no images in it or below ({image_suffixes()}); {EXAMPLE}")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImageInput]:
        return self._list(warn=False)

    def _list(self, warn: bool) -> Iterator[ImageInput]:
        if len(self._parts) == 1:
            yield from self._parts[0](warn)
            return
        of_part: dict[str, int] = {}  # file -> the first part that names it
        for number, part in enumerate(self._parts):
            for image_input in part(warn):
                if of_part.setdefault(os.path.abspath(image_input.file), number) == number:  # noqa: PTH100 no link is followed
                    yield image_input
                else:
                    self._n_repeated += warn


class ImageTable:
    """List the images of a table with a column path and, optionally, label, split and group.

    Attributes:
        n_repeated: lines that repeat an image of an earlier line; they are skipped, because it would count twice.
    """

    def __init__(self, path: Path, root: str | None):
        self.path, self.n_repeated = path, 0
        run = RunFolder(path.parent)
        predictions = {}
        if run.record.is_file():
            tables = run.predictions, run.predictions_parquet
            predictions = {table(split): split for split in ("test", "val") for table in tables}
        self.split = predictions.get(path, "")  # of all images, in a table without the column
        self.folder = self._resolve_folder(run, root, of_run=path == run.splits or path in predictions)
        if path in predictions:
            self._rows = lambda: enumerate(_predicted_images(run, self.split), 2)
        elif path == run.splits and is_run(run):
            self._rows = run.iterate_splits
        else:
            self._rows = None  # the user's, which may be written in other ways than a run's

    def __call__(self, warn: bool) -> Iterator[ImageInput]:
        """Yield all images; with `warn`, which is the first time, also check the whole table and log what was found."""
        own, files = OwnTable(self.path, ("path",), ("label", "split", "group")), FileFinder(self.folder)
        missing, n_found, labels = None, 0, {}
        try:
            for line, row in self._rows() if self._rows else own:
                found = None if self._rows else files.find(row["path"])
                image_input = self._image(row | {"path": found or row["path"]}, line)
                if not self._rows:
                    check_label(self.path, line, image_input.label)
                    n_found += found is not None
                    missing = missing or (None if found else row["path"])
                    same, n_known = hash(os.path.abspath(image_input.file)), len(labels)  # noqa: PTH100 no link is followed
                    if image_input.label != labels.setdefault(same, image_input.label):
                        raise UserError(
                            f"{self.path}: line {line}: {image_input.path[:200]} has two labels; keep one of the lines"
                        )
                    if len(labels) == n_known:
                        self.n_repeated += warn
                        continue
                yield image_input
            if missing and not n_found:
                raise UserError(
                    f"{self.path}: none of its files exists, e.g. {missing[:200]}{files.advise(missing, 'root')}"
                )
        except UserError as error:
            raise UserError(f"images={error}") from error
        if warn and (notes := describe_notes(own.notes + files.notes)):
            log.info("images=%s: interpreted: %s", self.path, notes)

    def _image(self, row: dict[str, str], line: int) -> ImageInput:
        path = row["path"]
        below = Path(path).is_absolute() or ".." not in PurePosixPath(path).parts
        if not path or "\0" in path or not below:
            raise UserError(
                f"{self.path}: line {line}: path={path!r}: a relative path must stay below {self.folder}; use paths below "
                "it, absolute ones, or root=DIR"
            )
        split = row.get("split") or self.split
        return ImageInput(
            path, self.folder / path, row.get("label", ""), split_of(split) or split, row.get("group", "")
        )

    def _resolve_folder(self, run: RunFolder, root: str | None, of_run: bool) -> Path:
        """Return the folder of the relative paths."""
        if root is not None:
            if not Path(str(root)).is_dir():
                raise UserError(
                    f"root={root}: no such folder{relative_to(str(root))}; it is the folder of the relative paths in "
                    f"{self.path}"
                )
            return Path(str(root))
        if not of_run or not run.record.is_file():
            return run.path
        data = RunRecord.read(run).data or DataInfo()
        if (folder := images_folder(data)) is None:
            raise UserError(
                f"images={self.path}: the run's images are no longer in {data.root}; give their folder: root=DIR"
            )
        return folder


def _predicted_images(run: RunFolder, split: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a run's predictions, with the groups of their images from its splits.csv."""
    groups = run.group_names() if run.splits.is_file() else {}
    return (row | {"group": groups.get(row["path"], "")} for row in read_predicted_images(run, split))


class RunImages:
    """List the test images of a run, or its validation images if it was not evaluated on test.

    Args:
        root: folder of its images; None: the one in its record.

    Raises:
        UserError: no images of this split, or they are no longer where they were.
    """

    def __init__(self, run: RunFolder, root: str | None):
        self.run, self.root = run, root
        record = RunRecord.read(run)
        self.split = "test" if record.test and record.test.accuracy else "val"
        self._table = ImageTable(run.splits, root)
        self.tables = [self._table]
        self.images_folder = self._table.folder
        self.count = sum(1 for _ in self)
        if not self.count:
            raise UserError(
                f"images={run.path}: {run.splits.name} has no {self.split} images; name others: images={run.splits}"
            )
        check_whole(run, self.split, self.count)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImageInput]:
        return (image_input for image_input in self._table(False) if image_input.split == self.split)


def check_whole(run: RunFolder, split: str, n: int) -> None:
    """Raise UserError unless splits.csv has as many images of a split as the record: it may have been copied in part."""
    recorded = getattr(RunRecord.read(run).data, f"n_{split}", None)
    if recorded is not None and recorded != n:
        raise UserError(
            f"images={run.path}: {run.splits.name} has {n:,} {split} images, and {run.record.name} {recorded:,}: copied in "
            f"part, or edited; copy the run again, or name the table: images={run.splits}"
        )


def resolve_images(images: str | Sequence[str] | None, root: str | None) -> RunImages | ImageInputs:
    """Return the images that `images` names; the folder of a run means its test images."""
    run = named_run(images)
    return RunImages(run, root) if run else ImageInputs(images, root)


def named_run(images: str | Sequence[str] | None) -> RunFolder | None:
    """Return the run whose folder `images` names; None if it names something else.

    Raises:
        UserError: the folder of an incomplete run, whose figures are not images to label.
    """
    run = RunFolder(Path(images)) if isinstance(images, str) else None
    if run and is_run(run):
        return run
    if run and run.config.is_file():
        missing = run.splits if run.record.is_file() else run.record
        raise UserError(
            f"images={images}: the folder of a run without {missing.name}, so its images are not known; copy that file, "
            "too, or name images: images=DIR"
        )
    return None


def is_run(folder: RunFolder) -> bool:
    """Return whether the folder has the record and the splits of a run."""
    return folder.record.is_file() and folder.splits.is_file()


def run_of_checkpoint(checkpoint: Path) -> RunFolder | None:
    """Return the run whose folder has the checkpoint; None if its record or its splits are missing."""
    run = RunFolder.of_checkpoint(checkpoint)
    return run if run and is_run(run) else None


def count_test_evaluation(run: RunFolder) -> int | None:
    """Count one more test evaluation in the record of a run, when an accuracy on its test images has been shown.

    Return the number of test evaluations; None if the record cannot be written.
    """
    try:
        return increment_test_evaluations(run)
    except OSError as error:
        log.warning("could not write %s (%s), which counts test evaluations; continuing", run.record, error.strerror)
        return None


def training_images(checkpoint: Path, root: str | None = None) -> tuple[list[ImageInput], str]:
    """Return the training images of the run whose folder has the checkpoint, or none and the reason."""
    run = run_of_checkpoint(checkpoint)
    if run is None:
        return [], "the checkpoint is not in the folder of a run with its record and splits"
    try:
        images = [image_input for image_input in ImageTable(run.splits, root)(False) if image_input.split == "train"]
    except UserError as error:
        return [], str(error)
    if not images:
        return [], f"{run.splits.name} of the run has no train images"
    if not any(image_input.file.is_file() for image_input in images[:100]):
        return [], f"the train images of the run are not where they were ({images[0].file.parent})"
    return images, ""


def _open_folder(path: Path, warn: bool) -> Iterator[ImageInput]:
    others = Counter()
    for file in walk_images(path, warn, others):
        yield ImageInput(str(file), file)
    if warn and others:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(NAMED))
        log.warning("images=%s: skipped %s by suffix: %s", path, plural(others.total(), "file"), listed)


def _open_place(place: str, root: str | None) -> Callable[[bool], Iterable[ImageInput]]:
    """Return a function that lists the images of one place; its argument says whether to warn of skipped files."""
    path = Path(place)
    if path.is_dir():
        return lambda warn: _open_folder(path, warn)
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        raise UserError(f"images={place}: is an archive; unpack it, and give the folder that it makes: images=DIR")
    if path.is_file():
        return ImageTable(path, root) if path.suffix.lower() in TABLES else lambda _: [ImageInput(place, path)]
    if path.exists():
        raise UserError(f"images={place}: not a file but a pipe or device; {EXAMPLE}")
    if not glob.has_magic(place):
        raise UserError(f"images={place}: no such file or folder{relative_to(place)}; {EXAMPLE}")
    named = set(path.parts)  # a pattern may name a folder that is skipped otherwise
    files = sorted(
        found for found in glob.glob(place, recursive=True)  # noqa: PTH207
        if Path(found).is_file() and not any(is_ignored(part) for part in set(Path(found).parts) - named)
    )  # fmt: skip
    if not files:
        raise UserError(f"images={place}: no file matches the pattern; for a folder, give its name only")
    return lambda _: (ImageInput(found, Path(found)) for found in files)
