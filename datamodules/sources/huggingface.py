"""Hugging Face data sets from the hub, a folder, or parquet files with an image and a label column. Needs the extra `hf`."""

import errno
import glob
import logging
from collections.abc import Iterator
from pathlib import Path

from common.errors import DISK_ERRORS, UserError
from common.text import clean, join_words, plural
from datamodules.sources.catalog import SPLIT_WORDS, split_of
from datamodules.sources.source import NO_LABELS
from datamodules.sources.unpacked import Record, UnpackedSource

log = logging.getLogger(__name__)

UNUSED = ("split", "group", "weight")  # columns that a table may have
IMAGE_NAMES, LABEL_NAMES = ("image", "img", "pixels"), ("label", "labels", "class", "target")


class HuggingFace(UnpackedSource):
    """List the images of a data set that `datasets` can load. A data set with a single split is split by this project.

    Args:
        path: ORG/NAME on the hub, a folder (from save_to_disk, or with parquet files in it), a parquet file or a glob of them.
        subset: name of one of several configurations.
        revision: branch, tag or commit of a data set on the hub.
        image: column of the images; None: the only column of type Image, else one of IMAGE_NAMES.
        label: column of the labels; None: the only column of type ClassLabel, else one of LABEL_NAMES.
    """

    def __init__(
        self,
        *,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        image: str | None = None,
        label: str | None = None,
    ):
        import datasets  # the extra hf: engine.config.instantiate names it where it is missing

        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of every retry; the last error is shown
        self._datasets = datasets
        self.path, self.subset, self.revision = path, subset, revision
        self.image, self.label = image, label
        if "*" in path:  # named after the folder, since * cannot be in the name of the folder in the cache
            self.name = next(parent.name for parent in Path(path).absolute().parents if "*" not in parent.name)
        else:
            self.name = Path(path).stem if Path(path).exists() else path.rpartition("/")[2]
        self._splits = None

    def version(self) -> str:
        """Return the fingerprints of all splits, which change with their files."""
        splits = self._load()
        first = next(iter(splits.values()))
        self.known_classes = [name for kind in first.features.values() for name in getattr(kind, "names", None) or ()]
        info = first.info
        columns = [name for name in first.column_names if name.strip().casefold() in UNUSED]
        if unused := [name for name in columns if len(splits) == 1 or name.strip().casefold() != "split"]:
            log.warning(
                "datamodule.source.path=%s: these columns are ignored; only a table (datamodule.table) can use them: %s",
                self.path, join_words([clean(name, 40) for name in unused]),
            )  # fmt: skip
        self.license, self.citation = info.license or None, " ".join((info.citation or "").split()) or None
        return f"{self.image} {self.label} {[(name, split._fingerprint) for name, split in splits.items()]}"

    def records(self) -> Iterator[Record]:
        splits = self._load()
        for name, split in splits.items():
            if len(splits) > 1 and not split_of(name):
                log.warning("%s: split %s is skipped; splits must be named %s", self.path, name, ", ".join(SPLIT_WORDS))
                continue
            image, label = _column(split, self.image, "image"), _column(split, self.label, "label")
            names = getattr(split.features[label], "names", None)
            without = 0
            for row in self._rows(split, image, label):
                if row[image] is None or row[label] in (None, -1, "", *NO_LABELS) or row[label] != row[label]:  # NaN
                    without += 1
                    continue
                named = names[row[label]] if names else str(row[label])
                yield Record(self._content(row[image]), named, split_of(name) if len(splits) > 1 else "")
            if without:
                log.warning(
                    "%s: excluded %s of %s without an image or a label", self.path, plural(without, "row"), name
                )

    def _rows(self, split, image: str, label: str) -> Iterator[dict]:
        """Yield the images, not decoded, with their labels; raise UserError if a column holds something else."""
        kind = split.features[label]
        if type(kind).__name__ not in ("Value", "ClassLabel"):
            raise UserError(
                f"datamodule.source.label={label}: holds {clean(kind, 100)}; a label is one text or number for each image"
            )
        try:
            yield from split.select_columns([image, label]).cast_column(image, self._datasets.Image(decode=False))
        except Exception as error:  # of many types, of pyarrow's
            _raise_of_machine(error)
            raise UserError(
                f"datamodule.source.image={image}: holds {clean(split.features[image], 100)}, which is not one image per row "
                f"({clean(error, 200)})"
            ) from error

    def _content(self, image: dict) -> bytes:
        """Return the bytes of an image. Its file is read only if it belongs to the data set, which may be untrusted."""
        if image["bytes"]:
            return image["bytes"]
        file, config = Path(image["path"] or "").resolve(), self._datasets.config
        folders = [Path(place).resolve() for place in (self.path, config.HF_CACHE_HOME, config.HF_DATASETS_CACHE)]
        if not file.is_file() or not any(file.is_relative_to(folder) for folder in folders):
            raise UserError(
                f"datamodule.source.path={self.path}: refers to the file {file}, which is not part of the data set"
            )
        return file.read_bytes()

    def _load(self) -> dict:
        """Return split name -> split."""
        if self._splits is None:
            for name in ("subset", "revision") if self._is_saved or self._is_parquet else ():
                if (value := getattr(self, name)) is not None:
                    raise UserError(
                        f"datamodule.source.{name}={value}: has no effect on datamodule.source.path={self.path}, which is read "
                        "from this disk as it is; remove it"
                    )
            try:
                loaded = self._open()
            except Exception as error:  # of many types, and of the network's libraries
                _raise_of_machine(error)
                reason = " ".join(str(error).split())[:300]
                raise UserError(
                    f"datamodule.source.path={self.path}: cannot be loaded ({type(error).__name__}: {reason}); {_advice(error)}"
                ) from error
            self._splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
        return self._splits

    @property
    def _is_saved(self) -> bool:
        """Whether the path is a folder that save_to_disk wrote."""
        folder = Path(self.path)
        return folder.is_dir() and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))

    @property
    def _is_parquet(self) -> bool:
        return Path(self.path).is_file() or "*" in self.path

    def _open(self):
        if self._is_saved:
            return self._datasets.load_from_disk(self.path)
        if self._is_parquet:
            return self._datasets.load_dataset("parquet", data_files=sorted(glob.glob(self.path)))  # noqa: PTH207 any folder
        return self._datasets.load_dataset(self.path, self.subset, revision=self.revision)


def _raise_of_machine(error: Exception) -> None:
    """Raise what the disk or the memory refused, which is nothing that another data set or column would change."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or getattr(link, "errno", None) in DISK_ERRORS:
            raise link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    if "Not enough disk space" in str(error):
        raise OSError(errno.ENOSPC, str(error)) from error


def _advice(error: Exception) -> str:
    """Return the next step after an error of the library."""
    if isinstance(error, ConnectionError):
        return "check the network, or use a folder or parquet files of this disk"
    if type(error).__name__ == "DatasetNotFoundError":
        return "check ORG/NAME and datamodule.source.revision; if it is private or gated, log in with: hf auth login"
    if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
        return "give it one of its subsets: datamodule.source.subset=NAME"
    return "use ORG/NAME of the hub, a folder, or parquet files"


def _column(split, given: str | None, kind: str) -> str:
    """Return the name of the column of images or labels.

    Raises:
        UserError: the given column does not exist, or none is given and it is unclear which one is meant.
    """
    columns = split.column_names
    if given is not None:
        if given not in columns:
            raise UserError(f"datamodule.source.{kind}={given}: no such column; found {', '.join(columns)}")
        return given
    wanted, type_name = (IMAGE_NAMES, "Image") if kind == "image" else (LABEL_NAMES, "ClassLabel")
    typed = [name for name in columns if type(split.features[name]).__name__ == type_name]
    found = typed if len(typed) == 1 else [name for name in wanted if name in columns][:1]
    if not found:
        raise UserError(
            f"datamodule.source.{kind} has no value, and it is unclear which column to use: {', '.join(columns)}; give it "
            f"one: datamodule.source.{kind}=COLUMN"
        )
    return found[0]
