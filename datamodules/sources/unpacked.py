"""Data sets whose images are not files: they are written to files below the cache once, and read like all others after that."""

import csv
import hashlib
import io
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from common.atomic_io import atomic_folder
from common.errors import UserError
from common.locks import locked, one_at_a_time
from common.text import clean
from datamodules.decode import FORMATS
from datamodules.memory import collect_warnings
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.source import UNASSIGNED, ImageRow, Source

log = logging.getLogger(__name__)

TABLE = "images.csv"
WARNINGS = "warnings.txt"  # warnings while writing, such as about rows without a label
SILENT_S = 3600  # seconds; a folder whose table was not written for this long belongs to a process that was killed


class Record(NamedTuple):
    """Hold one image of such a data set."""

    image: bytes | Image.Image  # the content of a file, or pixels that are written as PNG
    label: str
    split: str = UNASSIGNED


class UnpackedSource(Source):
    """List the images of a data set that yields records. A subclass has `records` and `version`.

    The files are in CACHE/NAME-HASH, with images.csv beside them; that folder is complete or absent. Remove it to unpack again.
    """

    def records(self) -> Iterable[Record]:
        """Yield every image with its label and split."""
        raise UserError(f"{self.key}={self}: its class needs a method records that yields a Record for each image")

    def version(self) -> str:
        """Return a text of everything that the records depend on; a different text means a different folder."""
        raise UserError(
            f"{self.key}={self}: its class needs a method version that returns a text of what its records depend on"
        )

    def images(self) -> Iterator[ImageRow]:
        digest = hashlib.blake2b(self.version().encode(), digest_size=8).hexdigest()
        self.root = self.cache / f"{self.name}-{digest}"
        is_new = False
        if not (self.root / TABLE).is_file():
            with one_at_a_time(self.root.with_name(f"{self.root.name}.lock"), f"writing the images of {self.name}"):
                if is_new := not (self.root / TABLE).is_file():
                    log.info("%s: writing its images to %s; later runs read them there", self.name, self.root)
                    _unpack(self.records(), self.root)
        if not is_new and (self.root / WARNINGS).is_file():  # for this run's log and record too
            for text in (self.root / WARNINGS).read_text(encoding="utf-8").splitlines():
                log.warning("%s", clean(text))
        yield from CsvTable(table=self.root / TABLE).images()


def _unpack(records: Iterable[Record], folder: Path) -> None:
    """Write all records into a folder with their table; file names are content hashes, so datamodule.splits can match them."""
    for table in folder.parent.glob(f"*.building-*/{TABLE}"):
        if time.time() - table.stat().st_mtime > SILENT_S:
            _remove_unless_written(table.parent, folder)
    copies: Counter = Counter()  # number of further copies of an image
    with (
        atomic_folder(folder) as building,
        (building / TABLE).open("w", encoding="utf-8", newline="") as file,
        collect_warnings() as warnings,
    ):
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for record in records:
            content, suffix = _encode(record.image)
            name = hashlib.blake2b(content, digest_size=8).hexdigest()
            path = f"{record.split or 'images'}/{name[:2]}/{name}.{suffix}"  # few files per folder
            if (building / path).exists():
                copies[path] += 1
                path = f"{path.removesuffix(suffix)}{copies[path]}.{suffix}"
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).write_bytes(content)
            table.writerow((path, record.label, record.split))
        if warnings:
            texts = "\n".join(clean(each.getMessage()) for each in warnings)
            (building / WARNINGS).write_text(texts, encoding="utf-8", errors="replace")


def _remove_unless_written(left: Path, folder: Path) -> None:
    """Remove what a process that has ended has left; one that downloads before it writes has the lock of its folder."""
    other = left.with_name(left.name.partition(".building-")[0])
    if other == folder:  # its lock is held here
        shutil.rmtree(left, ignore_errors=True)
        return
    with locked(other.with_name(f"{other.name}.lock"), removes=True) as is_free:
        if is_free:
            shutil.rmtree(left, ignore_errors=True)


def _encode(image: bytes | Image.Image) -> tuple[bytes, str]:
    """Return the content of a file and its suffix."""
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue(), "png"
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            return image, opened.format.lower()
    except Exception:  # of many types; reading the data set will name the file that is not an image
        return image, "unknown"
