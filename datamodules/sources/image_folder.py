"""The user's own images: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*.

Split folders may have any name in `catalog.SPLIT_WORDS`. Files and folders of the system are never classes or images.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.text import clean, join_words, plural, typed_override
from datamodules.sources.catalog import SPLITS, UNASSIGNED, split_of
from datamodules.sources.folder_names import CONTAINERS, are_drawn_parts, are_forms, are_parts, is_first_form, split_in
from datamodules.sources.source import ImageRow, Source, readable_names, relative_to

log = logging.getLogger(__name__)

LAYOUTS = "DIR/{train,val,test}/CLASS/* or DIR/CLASS/*"
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".j2k", ".jpx", ".jpf", ".dcm", ".dicom",
}  # fmt: skip
# What file systems, network drives and programs add to folders; names that begin with a dot are ignored anyway
SYSTEM_FILES = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp",
    "@sharebin", "@snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found",
    "__pycache__",
}  # fmt: skip
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
NAMED = 5  # folders or files in a message


class ImageFolder(Source):
    """List the files below a folder; open none. Images of a folder without split folders have no split yet.

    Args:
        root: the folder; None if a table takes its place (datamodule.table).
    """

    key = "datamodule.root"
    names_are_own = True

    def __init__(self, *, root: str | None):
        self.root = None if root is None else Path(str(root))

    def __str__(self) -> str:
        return str(self.root)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return _readable(self.root.resolve().name)

    def images(self) -> Iterator[ImageRow]:
        """Yield the images split by split and class by class.

        Raises:
            UserError: `root` is missing or empty, has fewer than two classes, a class without images, classes that differ
                between splits, or folders that are not classes.
        """
        root = self.root
        if root is None:
            raise UserError("datamodule.root has no value; give it one: datamodule.root=DIR (or datamodule.table=FILE)")
        split_folders, others = _split_folders(root), Counter()
        labels = {name: _readable(name) for name in _classes(root, split_folders)}
        self.classes = list(labels.values())
        for label in [label for name, label in labels.items() if label.encode() != os.fsencode(name)]:
            log.warning(
                "datamodule.root=%s: the name of a class folder is not UTF-8, which tables cannot hold, so the class "
                "is called %s; to change that, rename the folder, e.g. with the program convmv", root, label,
            )  # fmt: skip
        for split, folder in split_folders.items():
            for name, label in labels.items():
                beside_root = "" if folder == root else f"{folder.relative_to(root)}/"
                for path in _walk(folder / name, others=others):
                    yield ImageRow(f"{beside_root}{name}/{path}", label, split)
        others += Counter(f"{_kind(file.name)} beside the class folders" for file in _beside(root, split_folders))
        if hidden := _hidden_beside(root, split_folders):
            log.warning(
                "datamodule.root=%s: skipped images in %s: names that start with a dot are hidden; to use such a folder as a "
                "class, rename it", root, join_words(hidden, NAMED),
            )  # fmt: skip
        if broken := _broken_beside(root, split_folders):
            log.warning(
                "datamodule.root=%s: skipped %s: a link to a folder or file that does not exist; repair or remove it",
                root, join_words(broken, NAMED),
            )  # fmt: skip
        if others:
            files = plural(others.total(), "file")
            log.warning("datamodule.root=%s: skipped %s (not images of a class): %s", root, files, _counts(others))


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; for images without splits, `root` itself."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "no such folder"
        advice = f"it should hold {LAYOUTS}"
        if root.is_file() and root.suffix.lower() in ARCHIVES:
            advice = "unpack it, and give the folder that it makes"
        elif root.is_file() and root.suffix.lower() in (".csv", ".tsv"):
            advice = f"did you mean {typed_override('datamodule.table', root)}"
        elif ":/" in str(root):  # Path has made one slash of two
            advice = "a URL cannot be read; give the path of a folder, without file:// or the like"
        raise UserError(f"datamodule.root={root}: {what}{relative_to(root)}; {advice}")
    folders = _folders(root)
    split_folders: dict[str, Path] = {}
    for folder in folders:
        split = split_of(folder.name)
        if split and (other := split_folders.setdefault(split, folder)) != folder:
            raise UserError(
                f"datamodule.root={root}: {other.name} and {folder.name} are both the {split} split; put their images into "
                "one of them, or remove the other"
            )
    if "train" not in split_folders:
        _refuse_names_of_splits(root, folders)
    if split_folders and "train" not in split_folders:
        found = ", ".join(sorted(folder.name for folder in split_folders.values()))
        raise UserError(
            f"datamodule.root={root}: has {found} but no train (or training); it should hold {LAYOUTS}{_did_you_mean(root)}"
            + "".join(_as_class(folder) for folder in split_folders.values())
        )
    outside = [f for f in folders if f not in split_folders.values()] if split_folders else []
    if outside:
        _refuse_further_split(root, split_folders, outside)
        names = join_words([each.name for each in outside], 10)
        log.warning("datamodule.root=%s: skipped, neither train, val nor test: %s", root, names)
    for split, folder in split_folders.items():
        if folder.name != split:
            log.info("datamodule.root=%s: %s is the %s split", root, folder.name, split)
    return split_folders or {UNASSIGNED: root}


def _refuse_names_of_splits(root: Path, folders: list[Path]) -> None:
    """Raise UserError if the names say that the folders are splits, such as seg_train and seg_test, not classes."""
    full = [each for each in folders if _holds_images(each)]
    named = {each: split for each in full if (split := split_in(each.name))}
    unclear = [each for each in named if not split_of(each.name)]
    if not unclear or len(set(named.values())) < 2 or 2 * len(named) < len(full):
        return
    inner = {each: _inner(each) for each in named}
    with_classes = [each for each in named if not all(split_in(below.name) for below in _full_folders(inner[each]))]
    if not with_classes and (len(named) < len(full) or "train" not in named.values()):
        return  # classes with such words in their names: test_tube and bullet_train among others
    names = join_words([each.name for each in named], NAMED)
    if not with_classes:
        raise UserError(
            f"datamodule.root={root}: the names {names} mean splits, but the folders contain images instead of class "
            "folders; if a table has the classes, or if these folders are the classes: datamodule.table=FILE with "
            "path,label,split"
        )
    moved = [each for each in with_classes if inner[each] != root / named[each]]
    moves = [f"{inner[each].relative_to(root)} to {named[each]}" for each in moved]
    without = [each.name for each in named if each not in with_classes]
    raise UserError(
        f"datamodule.root={root}: the names {names} mean splits, not classes; rename {join_words(moves, NAMED)} to get "
        "DIR/{train,val,test}/CLASS/*"
        + (f", and move {join_words(without, NAMED)} elsewhere (no class folders inside)" if without else "")
    )


def _refuse_further_split(root: Path, split_folders: dict[str, Path], outside: list[Path]) -> None:
    """Raise UserError if a folder beside the splits holds the classes of train, so it is a split that would go unused."""
    classes = {each.name.casefold() for each in _folders(_inner(split_folders["train"]))}
    for folder in outside:
        inner, meant = _inner(folder), split_in(folder.name)
        same = {each.name.casefold() for each in _full_folders(inner)} & classes
        if len(same) < 2:
            continue
        missing = [split for split in SPLITS if split not in split_folders]
        if "test" in missing or meant in missing:
            to = meant if meant in missing else " or ".join(missing)
            raise UserError(
                f"datamodule.root={root}: {folder.name} is not named train, val or test, but holds the same class "
                f"folders as train; rename {inner.relative_to(root)} to {to}, or move it elsewhere"
            )
        log.warning("datamodule.root=%s: %s holds the same class folders as train, but is not used", root, folder.name)


def _refuse_parts(shown: str, root: Path, folder: Path, folders: list[Path]) -> None:
    """Raise UserError if folders that hold the same folders are parts of a data set, such as folds, not classes.

    Names decide which of the two levels holds the classes; if they cannot, a warning gives both readings.
    """
    if are_drawn_parts([each.name for each in folders]) and all(map(_has_images, folders)):
        raise UserError(
            f"{shown}: {join_words([each.name for each in folders], NAMED)} contain images directly, and their names mean "
            "parts of a data set, not classes; list the images in a table, datamodule.table=FILE with path,label and perhaps "
            "group (the part); if these folders are the classes, label them so in the table"
        )
    if len(folders) < 2 or any(map(_has_images, folders)):
        return
    inner = {each: _inner(each) for each in folders}
    below = [] if any(map(_has_images, inner.values())) else [_full_folders(each) for each in inner.values()]
    counts = Counter(each.name for part in below for each in part)
    shared = sorted(name for name, n in counts.items() if n > 1)
    if len(shared) < 2 or 2 * len(shared) < len(counts) or all(map(split_of, shared)):
        return
    names, classes = [each.name for each in folders], join_words([clean(name, 60) for name in shared], NAMED)
    parts = join_words([clean(name, 60) for name in names], NAMED)
    forms = are_forms(names)
    if forms or are_parts(names) or any(map(split_in, names)):
        if not forms:
            advice = f"rename them to {', '.join(SPLITS)} if they are splits, or"
        elif folder == root:
            first = max(folders, key=lambda each: is_first_form(each.name))
            advice = f"use one of them, e.g. {typed_override('datamodule.root', inner[first])}, or"
        else:
            advice = f"move the folders of one of them into {folder}, or"
        raise UserError(
            f"{shown}: {parts} hold the same folders, which seem to be the classes ({classes}); {advice} list all images "
            "in a table, datamodule.table=FILE with path,label,group (images of one group, e.g. of one patient, stay in one "
            f"split); if {parts} are the classes, use a table with path,label"
        )
    if set(counts.values()) == {len(folders)}:
        log.warning(
            "%s: %s are taken as the classes, but they hold the same folders, %s: if those are the classes, list all images "
            "in a table, datamodule.table=FILE with path,label", shown, parts, classes,
        )  # fmt: skip


def _inner(folder: Path) -> Path:
    """Descend through folders that hold a single folder as long as that one holds no images directly; return the last."""
    while not _has_images(folder) and len(below := _full_folders(folder)) == 1 and not _has_images(below[0]):
        folder = below[0]
    return folder


def _as_class(folder: Path) -> str:
    """Return advice for a folder of images that is read as a split but may be meant as a class; else nothing."""
    if not _has_images(folder) or _folders(folder):
        return ""
    return (
        f"; {folder.name} is read as a split: if it is a class, rename the folder, or list the images in a table: "
        "datamodule.table=FILE with path,label"
    )


def _classes(root: Path, split_folders: dict[str, Path]) -> list[str]:
    """Return the names of the class folders, after checking that they are classes.

    Raises:
        UserError: names the folder that is not a class, and what to do.
    """
    of_split = {split: _class_folders(root, folder) for split, folder in split_folders.items()}
    classes = next(iter(of_split.values()))
    for split, names in of_split.items():
        if "train" in of_split and set(names) != set(of_split["train"]):
            unlike = sorted(set(names) ^ set(of_split["train"]))
            shown = list(zip(unlike, readable_names(unlike), strict=True))
            only = {each: [text for name, text in shown if name in of_split[each]] for each in ("train", split)}
            parts = "; ".join(f"only in {each}: {join_words(texts, 20)}" for each, texts in only.items() if texts)
            raise UserError(
                f"datamodule.root={root}: classes differ between train and {split}: {parts}; every split needs the same class "
                "folders"
            )
    if len(classes) < 2:
        raise UserError(
            f"datamodule.root={root}: a single class ({clean(classes[0], 60)}); a classifier needs two or more, each in a "
            f"folder of its own: {LAYOUTS}"
        )
    return sorted(classes)


def _class_folders(root: Path, folder: Path) -> list[str]:
    """Return the names of the class folders of a split, or of all images if `folder` is the root.

    Raises:
        UserError: there are none, one is empty, or one holds split folders or the classes themselves.
    """
    shown = f"datamodule.root={root}" if folder == root else f"datamodule.root={root}: {folder.name}"
    folders = _folders(folder)
    if not folders:
        n = sum(file.suffix.lower() in SUFFIXES and not is_ignored(file.name) for file in folder.iterdir())
        inside = f", but {plural(n, 'image')} directly in it, whose class is unknown" if n else ""
        raise UserError(
            f"{shown}: no class folders inside{inside}; it should hold {LAYOUTS}, a folder for each class"
            + ("; if a table has the classes: datamodule.table=FILE" if n else "")
            + (f"; a {folder.name} folder without classes belongs elsewhere" if n and folder != root else "")
            + (_as_class(folder) if folder != root else "")
        )
    for each in folders:
        if folder != root and (split := split_of(each.name)):
            raise UserError(
                f"{shown}: {each.name} inside it is a {split} split, not a class; it should hold {LAYOUTS}"
                f"{_move_up(root, each)}"
            )
        if each.name != each.name.strip():
            raise UserError(
                f"{shown}: the name of the class folder {each.name!r} starts or ends with a space; rename it"
            )
    direct = {each for each in folders if _has_images(each)}
    full = {each for each in folders if each in direct or _holds_images(each)}
    with_folders = [each for each in folders if each in full and each not in direct]  # only in folders below
    beside = {each.name.casefold() for each in full}
    _refuse_parts(shown, root, folder, [each for each in folders if each in full])
    for each in with_folders:
        _refuse_container(shown, root, each, beside, len(with_folders))
    for each in folders:
        if each not in full:
            next(each.iterdir(), None)  # raises the system's error if the folder may not be read: it is not empty then
            found = Counter(
                _kind(file.name) for file in each.rglob("*") if file.is_file() and not is_ignored(file.name)
            )
            inside = _counts(found) or "nothing"
            advice = f"add some ({image_suffixes()}) or remove the folder"
            if found[_kind("")]:  # as DICOM files often are
                advice = "give images a suffix, such as .dcm, or list them in a table, which needs none: datamodule.table=FILE"
            raise UserError(f"{each}: a class folder without images (it holds {inside}); {advice}")
    if with_folders:
        below = join_words(list(dict.fromkeys(f.name for each in with_folders for f in _folders(each))), NAMED)
        log.warning(
            "%s: no images directly in %s: those in the folders below (%s) are used; these folders are not classes",
            shown, join_words([each.name for each in with_folders], NAMED), below,
        )  # fmt: skip
    return [each.name for each in folders]


def _refuse_container(shown: str, root: Path, folder: Path, beside: set[str], n_with_folders: int) -> None:
    """Raise UserError if a folder that holds only folders is not a class: it holds splits, or the classes themselves.

    Args:
        beside: lowercase names of this folder and those beside it that hold images at any depth.
        n_with_folders: how many of them hold only folders.
    """
    inner = folder
    while not _has_images(inner) and len(below := _full_folders(inner)) == 1:
        inner = below[0]
    below = [] if _has_images(inner) else _full_folders(inner)
    splits = {split for each in _folders(folder) if (split := split_of(each.name))}
    if ("train" in splits or len(splits) > 1) and all(map(_has_images, _full_folders(folder))):
        raise UserError(
            f"{shown}: {folder.name} is a class folder with the splits {', '.join(sorted(splits))} inside; put the splits "
            f"outside: train/{folder.name}/*, or use folders of classes without splits"
        )
    names_of_others = ({each.name.casefold() for each in below} - {folder.name.casefold()}) & beside
    inner_splits = {split for each in below if (split := split_of(each.name))}
    deep, as_others = inner != folder, len(beside) > 1 and n_with_folders == len(beside)
    is_container = (
        "train" in inner_splits
        or len(inner_splits) > 1
        or (len(beside) == 1 and (len(below) > 1 or inner_splits))
        or (len(below) > 1 and (names_of_others or CONTAINERS.fullmatch(folder.name.casefold())))
        or (len(below) > 1 and deep and not as_others)
    )
    if not is_container:
        return
    classes = join_words([each.name for each in below], NAMED)
    in_split = folder.parent != root and not inner_splits
    meant = f"did you mean {typed_override('datamodule.root', inner)}"
    advice = f"move these into {folder.parent}" if in_split else meant
    rest = "" if len(beside) == 1 else f"; if {folder.name} is a class, put its images directly into it"
    raise UserError(f"{shown}: {folder.name} holds no images itself, but {inner} holds {classes}: {advice}{rest}")


def _move_up(root: Path, inside: Path) -> str:
    """Return advice for a split folder inside a split folder, for all of the kind train/train and test/test at once."""
    alike = [each / each.name for each in _folders(root) if split_of(each.name) and _folders(each / each.name)]
    if inside not in alike:
        return f"; move {inside} up to {root / inside.name}" if not (root / inside.name).exists() else ""
    moves = [f"the folders in {each} to {each.parent}" for each in alike]
    return f"; move {join_words(moves, NAMED)}"


def _did_you_mean(root: Path) -> str:
    """Return advice if another folder of `root` holds all splits, train among them."""
    for folder in _folders(root):
        if any(split_of(each.name) == "train" for each in _folders(folder)):
            return f"; did you mean {typed_override('datamodule.root', folder)}"
    return ""


def _folders(folder: Path) -> list[Path]:
    """Return the folders inside; none if `folder` does not exist."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if f.is_dir() and not is_ignored(f.name)), key=lambda f: f.name)


def _full_folders(folder: Path) -> list[Path]:
    """Return the folders inside that hold images, at any depth."""
    return [each for each in _folders(folder) if _holds_images(each)]


def _holds_images(folder: Path) -> bool:
    """Return whether there are images anywhere below a folder."""
    return _has_images(folder) or next(_walk(folder, warn=False), None) is not None


def _has_images(folder: Path) -> bool:
    """Return whether a folder holds images directly."""
    try:
        with os.scandir(folder) as entries:
            return any(_suffix(e.name) in SUFFIXES and not is_ignored(e.name) and not _is_folder(e) for e in entries)
    except OSError:  # walk_images names it
        return False


def _beside(root: Path, split_folders: dict[str, Path]) -> Iterator[Path]:
    """Yield the images that are not in any class folder."""
    for folder in dict.fromkeys((root, *split_folders.values())):
        for file in folder.iterdir():
            if file.suffix.lower() in SUFFIXES and not is_ignored(file.name) and file.is_file():
                yield file


def _hidden_beside(root: Path, split_folders: dict[str, Path]) -> list[str]:
    """Return the hidden folders with images that are beside the class folders, relative to the root."""
    beside = [each for folder in dict.fromkeys((root, *split_folders.values())) for each in folder.glob(".*")]
    return sorted(str(each.relative_to(root)) for each in beside if each.is_dir() and _has_images(each))


def _broken_beside(root: Path, split_folders: dict[str, Path]) -> list[str]:
    """Return the links beside the class folders that lead nowhere, relative to the root: each may be meant as a class."""
    beside = [each for folder in dict.fromkeys((root, *split_folders.values())) for each in folder.iterdir()]
    return sorted(
        str(each.relative_to(root))
        for each in beside
        if each.is_symlink() and not (is_ignored(each.name) or each.is_dir() or each.is_file())
    )


def walk_images(folder: Path, warn: bool = True, others: Counter | None = None) -> Iterator[Path]:
    """Yield the image files anywhere below a folder in the order of their paths, with a few folders in memory at a time.

    Links are followed, but each folder is read once. Hidden files, system files and folders that cannot be read are skipped.

    Args:
        warn: log the folders that cannot be read.
        others: counts, by suffix, the files whose names are not those of images.
    """
    return (folder / path for path in _walk(folder, warn, others))


def _walk(folder: Path, warn: bool = True, others: Counter | None = None) -> Iterator[str]:
    """Yield what `walk_images` yields as text relative to the folder: a hundred thousand Paths would take a second."""
    seen = {_identity(parent) for parent in folder.resolve().parents}  # a link to one of them leads back here
    waiting = [("", True)]
    while waiting:
        path, is_folder = waiting.pop()
        if is_folder:
            waiting += _entries(folder, path, seen, warn)
        elif "." + path.rpartition(".")[2].lower() in SUFFIXES:  # half the time of os.path.splitext
            yield path
        elif others is not None:
            others[_kind(path)] += 1


def _entries(root: Path, below_root: str, seen: set[tuple[int, int]], warn: bool) -> list[tuple[str, bool]]:
    """Return each entry of a folder, the last first, and whether it is a folder; nothing if this one was seen before."""
    folder = root / below_root
    try:
        if (identity := _identity(folder)) in seen:
            raise OSError(0, "a link to a folder that was read already or contains it")
        seen.add(identity)
        with os.scandir(folder) as entries:
            below = {entry.name: _is_folder(entry) for entry in entries if not is_ignored(entry.name)}
    except OSError as error:
        if warn:
            log.warning("%s: skipped, the folder cannot be read (%s)", folder, error.strerror)
        return []
    beside = f"{below_root}/" if below_root else ""
    names = sorted((name + os.sep * is_folder for name, is_folder in below.items()), reverse=True)
    return [(beside + name.rstrip(os.sep), name.endswith(os.sep)) for name in names]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _counts(kinds: Counter) -> str:
    """Return `9 .txt, 2 .ico`: the number of files of each kind, the most frequent first, then that of all others."""
    shown = dict(kinds.most_common(NAMED))
    rest = kinds.total() - sum(shown.values())
    others = [f"{rest:,} of other kinds"] if rest else []
    return ", ".join([*(f"{count:,} {kind}" for kind, count in shown.items()), *others])


def _readable(name: str) -> str:
    """Return the name of a folder as UTF-8; bytes that are not become escapes, as in `red\\xe9`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _kind(name: str) -> str:
    return Path(name).suffix.lower()[:12] or "without a suffix"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 a tenth of the time


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to the system."""
    return name.startswith(".") or name.casefold() in SYSTEM_FILES


def image_suffixes() -> str:
    """Return `bmp, gif, ...` for messages."""
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
