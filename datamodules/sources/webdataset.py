"""WebDataset shards: tar files of images and labels, read by the package webdataset. Needs the extra `streaming`."""

import collections
import glob
import itertools
import json
import logging
import os
import random
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.checks import check_between
from common.errors import UserError
from common.text import clean, join_words, plural
from datamodules.sources.source import relative_to
from datamodules.sources.streamed import StreamedSource
from datamodules.streams import Sample, Shards, Share

log = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")  # suffixes of image members; the first that a sample has is used
LABELS = ("cls", "json")  # suffixes of label members; the first that a sample has is used
JSON_KEYS = ("label", "cls")  # keys of a .json member
REMOTE = ("http://", "https://")  # webdataset would also run commands (pipe:) and the programs of cloud vendors
LARGEST_MEMBER = 2**28  # bytes of a file in a shard
LARGEST_LABEL = 2**20  # bytes of a label
BLOCK, MAGIC_AT = 512, 257  # bytes in a tar file


class WebDataset(StreamedSource):
    """List val and test of a data set in shards, and stream train.

    Args:
        train: a folder of .tar files, a pattern with * or {000..146}, or http and https URLs with such braces.
        val: the same for val.
        test: the same for test; None for none.
        image: suffix of the image in a sample; None: the first of IMAGES that it has.
        label: suffix of the label, `cls` or `json.KEY`; None: cls, else the key label or cls of json.
        classes: see StreamedSource.
        train_images: see StreamedSource.
        shuffle_buffer: number of images in the buffer from which the next one is drawn; shards also come in random order.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str | None = None,
        image: str | None = None,
        label: str | None = None,
        classes: list | None = None,
        train_images: int | None = None,
        shuffle_buffer: int = 1000,
    ):
        import webdataset  # noqa: F401 the extra streaming: engine.config.instantiate names it where it is missing

        super().__init__(train=train, val=val, test=test, classes=classes, train_images=train_images)
        check_between("datamodule.source.shuffle_buffer", shuffle_buffer, 1, 10_000_000)
        self.members = ((image,) if image else IMAGES, label)
        self.shuffle_buffer = shuffle_buffer

    def shards(self, split: str) -> "TarShards":
        return TarShards(
            f"datamodule.source.{split}", getattr(self, split), Members(*self.members), self.shuffle_buffer
        )


class Members(NamedTuple):
    """Select the files of a sample that are its image and its label."""

    image: tuple[str, ...]
    label: str | None

    @property
    def label_suffixes(self) -> tuple[str, ...]:
        return LABELS if self.label is None else (self.label.partition(".")[0],)

    def is_wanted(self, path: str) -> bool:
        """Return whether a file in a shard is read at all."""
        return path.lower().endswith(tuple(f".{suffix}" for suffix in (*self.image, *self.label_suffixes)))

    def take(self, sample: dict, name: str) -> Sample:
        """Return image and label of the files that webdataset has grouped by name; decode only the label.

        Raises:
            ValueError: the image or the label is missing, or the label is malformed.
        """
        image = next((sample[suffix] for suffix in self.image if suffix in sample), None)
        label = next(((suffix, sample[suffix]) for suffix in self.label_suffixes if suffix in sample), None)
        if image is None or label is None:
            suffixes = self.image if image is None else self.label_suffixes
            longer = next((key for key in sample if key.rpartition(".")[2] in suffixes), None)
            hint = f"; suffixes start at the first dot, so one of its files has the suffix {longer}" if longer else ""
            raise ValueError(f"{name}: has no {'image' if image is None else 'label'} ({', '.join(suffixes)}){hint}")
        return Sample(image, self._text(*label, name), name)

    def _text(self, suffix: str, content: bytes, name: str) -> str:
        try:
            text: object = content.decode("utf-8-sig")
            if suffix == "json":
                wanted, fields = self.label and self.label.partition(".")[2], json.loads(text)
                text = next((fields[key] for key in ((wanted,) if wanted else JSON_KEYS) if key in fields), None)
        except (UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{name}: its label is malformed ({error})") from error
        text = text.strip() if isinstance(text, str) else text
        if isinstance(text, bool) or not isinstance(text, str | int) or text == "":
            raise ValueError(f"{name}: its label is {clean(text, 60)!r}; a name or a whole number is needed")
        return str(text)


class TarShards(Shards):
    """Read tar files from a disk or by HTTP."""

    def __init__(self, setting: str, pattern: str, members: Members, shuffle_buffer: int):
        self.key = f"{setting}={pattern}"
        self.members, self.shuffle_buffer = members, shuffle_buffer
        self.is_local = "://" not in pattern
        self.urls = self._expand(pattern)
        self._warned = False  # about more images than stated: once, not in each epoch

    def _expand(self, pattern: str) -> list[str]:
        from braceexpand import UnbalancedBracesError, braceexpand

        if pattern.startswith("pipe:") or (not self.is_local and not pattern.startswith(REMOTE)):
            raise UserError(
                f"{self.key}: shards must be files on a disk or http and https URLs; for other clouds use "
                "datamodule=litdata or a mounted folder"
            )
        try:
            # In a pattern, a backslash would escape the next character; on Windows it separates folders
            parts = list(braceexpand(pattern.replace(os.sep, "/") if self.is_local else pattern))
        except UnbalancedBracesError as error:
            raise UserError(f"{self.key}: unbalanced braces; write e.g. {{000..146}}") from error
        if not self.is_local:
            return parts
        found = []
        for part in parts:
            path = Path(part)
            files = map(str, path.glob("*.tar")) if path.is_dir() else glob.glob(part)  # noqa: PTH207 any folder
            files = sorted(file.replace(os.sep, "/") for file in files)
            missing = [part] if not files else [file for file in files if not Path(file).is_file()]
            if missing:
                raise UserError(
                    f"{self.key}: no shard {missing[0]}{relative_to(missing[0])}; use a folder of .tar files, or a pattern: "
                    "'train-*.tar'"
                )
            found += files
        return found

    def version(self) -> str:
        sizes = [Path(url).stat().st_size for url in self.urls] if self.is_local else []
        return f"{[url.rpartition('/')[2] for url in self.urls]} {sizes} {self.members}"

    def stamp(self) -> str:
        return f"{self.urls} {[Path(url).stat().st_mtime_ns for url in self.urls] if self.is_local else ''}"

    def places(self) -> list[str]:
        return [os.path.realpath(url) if self.is_local else url for url in self.urls]

    def check_whole(self) -> None:
        open_ended = []
        for url in self.urls if self.is_local else []:
            with Path(url).open("rb") as file:
                is_plain = file.read(BLOCK)[MAGIC_AT:].startswith(b"ustar")  # not compressed
                size = file.seek(0, os.SEEK_END)
                if is_plain and size % BLOCK:
                    raise UserError(
                        f"{self.key}: {url}: cannot be read (cut off); write this shard again, or list only the others"
                    )
                file.seek(max(size - BLOCK, 0))
                if is_plain and any(file.read()):
                    open_ended.append(url)
        if open_ended:
            log.warning(
                "%s: %s without the end of a tar file, so images may be missing; write shards that were cut off again: %s",
                self.key, plural(len(open_ended), "shard"), join_words(open_ended, 3),
            )  # fmt: skip

    def check_processes(self, world_size: int) -> None:
        if len(self.urls) < world_size:
            raise UserError(
                f"{self.key}: {plural(len(self.urls), 'shard')} for {world_size} processes; each needs at least one; use fewer "
                "trainer.devices, or write more, smaller shards"
            )

    def read(self, share: Share, *, seed: int, epoch: int, skip: int) -> Iterator[Sample]:
        from webdataset import shuffle

        order = np.random.default_rng((seed, epoch)).permutation(len(self.urls))[share.rank :: share.world_size]
        urls = [self.urls[index] for index in order]
        if skip:
            log.info("%s: to resume, %s images are read again without decoding", self.key, f"{skip:,}")
        for passes in itertools.count(1):
            n_images = 0
            drawn = shuffle(
                self.shuffle_buffer, initial=self.shuffle_buffer, rng=random.Random(f"{seed} {epoch} {share.rank}")
            )
            for sample, following in itertools.pairwise(itertools.chain(drawn(self._samples(urls)), [None])):
                n_images += 1
                if n_images == self.stated and following and share.world_size == passes == 1 and not self._warned:
                    self._warned = True
                    log.warning(
                        "%s: holds more than the stated %s images, so each epoch skips some, not always the same; "
                        "correct classes.json or datamodule.source.train_images", self.key, f"{n_images:,}",
                    )  # fmt: skip
                if skip:
                    skip -= 1
                else:
                    yield sample
            if not n_images:
                raise UserError(
                    f"{self.key}: the shards of process {share.rank} hold no images ({join_words(urls, 3)}); list only shards "
                    "with images"
                )
            if share.world_size == 1 and passes == 1:
                log.warning(
                    "%s: holds %s images, fewer than stated, so the first ones are repeated in this epoch; correct "
                    "classes.json or datamodule.source.train_images", self.key, f"{n_images:,}",
                )  # fmt: skip
            elif share.world_size > 1 and passes == 2:  # not on pass 1: shards that differ a little repeat a few images
                log.warning(
                    "%s: the shards of process %d hold %s images, which come more than twice in this epoch: there are fewer "
                    "images than stated, or the shards differ much in size; correct classes.json or "
                    "datamodule.source.train_images, or write shards of equal sizes", self.key, share.rank,
                    f"{n_images:,}",
                )  # fmt: skip

    def read_in_order(self) -> Iterator[Sample]:
        if self.is_local:
            collections.deque(self.labels(), maxlen=0)  # raises an error for a shard that is damaged in the middle
        return self._samples(self.urls)

    def labels(self) -> Iterator[str]:
        return (sample.label for sample in self._grouped(self.urls, _headers))

    def _samples(self, urls: list[str]) -> Iterator[Sample]:
        return self._grouped(urls, _contents)

    def _grouped(self, urls: list[str], files_of) -> Iterator[Sample]:
        """Yield the samples of shards; `files_of` yields the files of one shard.

        Raises:
            UserError: a shard cannot be read; names it.
        """
        from webdataset.tariterators import group_by_keys

        for url in urls:
            shard = url.rpartition("/")[2]
            try:
                for sample in group_by_keys(files_of(url, self.members)):
                    yield self.members.take(sample, f"{shard}: {sample['__key__']}")
            except (OSError, tarfile.TarError, ValueError, EOFError) as error:  # also zlib's, for a damaged .tar.gz
                reason = " ".join(str(part) for part in error.args if isinstance(part, str)) or type(error).__name__
                raise UserError(
                    f"{self.key}: {url}: cannot be read ({clean(reason, 300)}); write this shard again, or list only the others"
                ) from error


def _contents(url: str, members: Members) -> Iterable[dict]:
    """Yield the wanted files of a shard with their content, in the form that webdataset uses."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import tar_file_expander

    with gopen(url) if url.startswith(REMOTE) else Path(url).open("rb") as stream:
        yield from tar_file_expander([{"url": url, "stream": stream}], select_files=members.is_wanted, eof_value=None)


def _headers(url: str, members: Members) -> Iterable[dict]:
    """Yield the wanted files of a shard on a disk; images come without their content, which is not read."""
    with tarfile.open(url) as tar:
        while (file := tar.next()) is not None:
            tar.members = []  # tarfile would keep all of them
            if not file.isreg() or not members.is_wanted(file.name):
                continue
            is_label = file.name.lower().endswith(tuple(f".{suffix}" for suffix in members.label_suffixes))
            if file.size > (LARGEST_LABEL if is_label else LARGEST_MEMBER):
                raise ValueError(f"{file.name} has {file.size / 2**20:,.0f} MiB")
            yield {"fname": file.name, "data": tar.extractfile(file).read() if is_label else b"", "__url__": url}
        tar.fileobj.seek(tar.offset)  # tarfile takes damage for the end of the file
        while part := tar.fileobj.read(LARGEST_LABEL):
            if part.strip(b"\0"):
                raise ValueError(
                    f"damaged after {tar.offset:,} bytes, or several tar files in one: the rest would be lost"
                )
