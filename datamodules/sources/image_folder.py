"""The user's own images: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from datamodules.sources.catalog import SPLITS, UNASSIGNED
from datamodules.sources.source import ImageRow, Source

log = logging.getLogger(__name__)

LAYOUTS = "DIR/{train,val,test}/CLASS/* or DIR/CLASS/*"
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".j2k", ".jpx", ".jpf", ".dcm", ".dicom",
}  # fmt: skip
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


class ImageFolder(Source):
    """List the files below a folder; open none. Images of a folder without split folders have no split yet.

    Args:
        root: the folder; None where a table takes its place (datamodule.table).
    """

    def __init__(self, *, root: str | None):
        self.root = None if root is None else Path(root)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name

    def images(self) -> Iterator[ImageRow]:
        """Yield split by split and class by class.

        Raises:
            UserError: `root` is missing or empty, fewer than two classes, a class without images, or classes that differ.
        """
        root = self.root
        if root is None:
            raise UserError("datamodule.root has no value; give it one: datamodule.root=DIR (or datamodule.table=FILE)")
        split_folders, others = _split_folders(root), Counter()
        self.classes = _classes(root, split_folders)
        for split, folder in split_folders.items():
            for name in self.classes:
                n = 0
                for file in walk_images(folder / name, others=others):
                    yield ImageRow(os.path.relpath(file, root), name, split)
                    n += 1
                if not n:
                    raise UserError(
                        f"{folder / name}: a class folder without images; add some ({image_suffixes()}) or remove the folder"
                    )
        others += Counter(f"{_kind(file.name)} beside the class folders" for file in _beside(root, split_folders))
        if others:
            listed = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
            log.warning(
                "datamodule.root=%s: skipped %d file(s) that are no images of a class: %s", root, others.total(), listed
            )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; of images without a split, `root` itself."""
    if not root.is_dir():
        raise UserError(f"datamodule.root={root}: no such folder; it should hold {LAYOUTS}")
    folders = _folders(root)
    split_folders = {f.name.lower(): f for f in folders if f.name.lower() in SPLITS}
    if split_folders and "train" not in split_folders:
        raise UserError(
            f"datamodule.root={root}: has {', '.join(sorted(split_folders))} but no train; it should hold {LAYOUTS}"
        )
    outside = [f.name for f in folders if f not in split_folders.values()] if split_folders else []
    if outside:
        log.warning("datamodule.root=%s: skipped, neither train, val nor test: %s", root, ", ".join(outside))
    return split_folders or {UNASSIGNED: root}


def _classes(root: Path, split_folders: dict[str, Path]) -> list[str]:
    of_split = {split: [f.name for f in _folders(folder)] for split, folder in split_folders.items()}
    classes = next(iter(of_split.values()))
    for split, names in of_split.items():
        if "train" in of_split and set(names) != set(of_split["train"]):
            only = sorted(set(names) ^ set(of_split["train"]))
            raise UserError(
                f"datamodule.root={root}: classes differ between train and {split}: only in one of them: "
                f"{', '.join(only)}; every split needs the same class folders"
            )
    if not classes:
        raise UserError(f"datamodule.root={root}: no class folders inside; it should hold {LAYOUTS}")
    if len(classes) < 2:
        raise UserError(f"datamodule.root={root}: a single class ({classes[0]}); a classifier needs two or more")
    return sorted(classes)


def _folders(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.is_dir() and not _hidden(f.name)), key=lambda f: f.name)


def _beside(root: Path, split_folders: dict[str, Path]) -> Iterator[Path]:
    """Yield the images that are in no class folder."""
    for folder in dict.fromkeys((root, *split_folders.values())):
        for file in folder.iterdir():
            if file.suffix.lower() in SUFFIXES and not _hidden(file.name) and file.is_file():
                yield file


def walk_images(folder: Path, warn: bool = True, others: Counter | None = None) -> Iterator[Path]:
    """Yield the image files anywhere below a folder in the order of their paths, with a few folders in memory at a time.

    Links are followed, to each folder once. Hidden and system files are skipped, and folders that cannot be read.

    Args:
        warn: log the folders that are skipped.
        others: counts by suffix the files that are no images by their names.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, True)]
    while waiting:
        path, is_folder = waiting.pop()
        if is_folder:
            waiting += _entries(path, seen, warn)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        elif others is not None:
            others[_kind(path.name)] += 1


def _entries(folder: Path, seen: set[tuple[int, int]], warn: bool) -> list[tuple[Path, bool]]:
    """Return each entry of a folder and whether it is one itself, the last first; nothing where it was seen before."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            raise OSError(0, "a link to a folder that was read already")
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            below = {entry.name: _is_folder(entry) for entry in entries if not _hidden(entry.name)}
    except OSError as error:
        if warn:
            log.warning("%s: skipped, the folder cannot be read (%s)", folder, error.strerror)
        return []
    return [(folder / name, below[name]) for name in sorted(below, key=lambda n: n + os.sep * below[n], reverse=True)]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _kind(name: str) -> str:
    return Path(name).suffix.lower()[:12] or "without a suffix"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def image_suffixes() -> str:
    """Return `bmp, gif, ...` for messages."""
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
