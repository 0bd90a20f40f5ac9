"""What `images` names: images, folders, patterns, tables. Listed as they are needed: a million of them take no memory."""

import csv
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.predictions_csv import FILES
from common.run_folder import PROJECT
from common.run_record import read_record
from datamodules.sources.image_folder import image_suffixes, walk_images

RUN_TABLES = ("splits.csv", *FILES.values())  # whose paths are below the images' folder, which the run's record knows
EXAMPLE = "give an image, a folder, a pattern with *, a table with a column path (.csv), or [A,B] of these"


class ImageInput(NamedTuple):
    """One line to come."""

    path: str  # as given, or as found below the folder that was given
    file: Path
    label: str = ""  # where a table knows it
    split: str = ""  # where a table knows it


class ImageInputs:
    """All images that `images` names, in their order; can be gone through again and again.

    Folders are searched to any depth. A file that is named itself, in a pattern or in a table is taken whatever it is: that
    it is no image is said when it is read.

    Args:
        images: an image, folder, pattern or table, or several.
        root: of the relative paths of tables. None: the folder that a table lies in; for the tables of a run, the folder
            that its record says.

    Raises:
        ValueError: nothing given, nothing there, or a table that is none; with its line.
    """

    def __init__(self, images: str | Sequence[str] | None, root: str | None = None):
        places = list(images) if isinstance(images, (list, tuple)) else [images]
        if not places or places[0] in (None, ""):
            raise ValueError(f"images: nothing is given; {EXAMPLE}")
        self._parts = [_part(str(place), root) for place in places]
        self.tables = [part for part in self._parts if isinstance(part, Table)]
        if root is not None and not self.tables:
            raise ValueError(
                f"root={root} is of the relative paths of a table, and images={_in_words(places)} has none"
            )
        self.count = sum(1 for part in self._parts for _ in part(True))
        if not self.count:
            raise ValueError(f"images={_in_words(places)}: no images in it or below ({image_suffixes()}); {EXAMPLE}")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImageInput]:
        for part in self._parts:
            yield from part(False)


class Table:
    """The images of a CSV with a column path and, where wanted, label and split."""

    def __init__(self, path: Path, root: str | None):
        self.path = path
        self.folder = _folder(path, root)
        of_a_run = (path.parent / "result.json").is_file()
        self.split = next((split for split, name in FILES.items() if of_a_run and name == path.name), "")

    def __call__(self, say: bool) -> Iterator[ImageInput]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                if "path" not in (reader.fieldnames or []):
                    found = ", ".join(reader.fieldnames or []) or "nothing"
                    raise ValueError(f"images={self.path}: the column path is missing; found {found}")
                for row in reader:
                    yield self._image(row, reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"images={self.path}: not a CSV in UTF-8 ({error})") from error

    def _image(self, row: dict, line: int) -> ImageInput:
        path = row["path"] or ""
        absolute = Path(path).is_absolute()
        if not path or "\0" in path or (not absolute and ".." in PurePosixPath(path).parts):
            raise ValueError(
                f"images={self.path}, line {line}: path={path!r}: a relative path has to stay below {self.folder}; use paths "
                "below it, absolute ones, or root=DIR"
            )
        return ImageInput(path, self.folder / path, row.get("label") or "", row.get("split") or self.split)


def _part(place: str, root: str | None) -> Callable[[bool], Iterable[ImageInput]]:
    """Gives the images of one place, each time anew; told whether to say what cannot be read."""
    path = Path(place)
    if path.is_dir():
        return lambda say: (ImageInput(str(file), file) for file in walk_images(path, say))
    if path.is_file():
        return Table(path, root) if path.suffix.lower() == ".csv" else lambda _: [ImageInput(place, path)]
    if not glob.has_magic(place):
        raise ValueError(f"images={place}: no such file or folder; {EXAMPLE}")
    files = sorted(found for found in glob.glob(place, recursive=True) if Path(found).is_file())  # noqa: PTH207
    if not files:
        raise ValueError(f"images={place}: the pattern fits no file; a folder is given without a pattern")
    return lambda _: (ImageInput(found, Path(found)) for found in files)


def _folder(table: Path, root: str | None) -> Path:
    """What the relative paths of a table are below."""
    if root is not None:
        if not Path(str(root)).is_dir():
            raise ValueError(f"root={root}: no such folder; it is where the relative paths of {table} begin")
        return Path(str(root))
    record = table.parent / "result.json"
    if table.name not in RUN_TABLES or not record.is_file():
        return table.parent
    noted = (read_record(record).get("data") or {}).get("root")
    for folder in (Path(str(noted)), PROJECT / str(noted)):
        if noted and folder.is_dir():
            return folder
    raise ValueError(f"images={table}: the run's images are not at {noted} any more; say where: root=DIR")


def _in_words(places: Sequence) -> str:
    return ",".join(map(str, places)) if len(places) == 1 else f"[{','.join(map(str, places))}]"
