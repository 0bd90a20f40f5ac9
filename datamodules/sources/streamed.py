"""A data set in shards: val and test, which are small, are unpacked once; train is streamed in every epoch.

Settings, or classes.json beside the shards of train, state what a stream does not show; shards on a disk can also be counted
once.
"""

import functools
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.atomic_io import write_json
from common.errors import UserError
from common.locks import one_at_a_time
from common.progress import Progress
from common.text import clean, join_words, plural
from common.untrusted.json_files import read_json
from datamodules.sources.catalog import split_of
from datamodules.sources.source import MOST_CLASSES, NO_LABELS, ImageRow
from datamodules.sources.unpacked import Record, UnpackedSource
from datamodules.streams import Shards, TrainStream, is_number, other_number

log = logging.getLogger(__name__)

STATED = "classes.json"
LARGEST_STATED = 64 * 2**20  # bytes


class StreamedSource(UnpackedSource):
    """List the images of val and test, and provide those of train as a stream. A subclass opens the shards of an engine.

    Args:
        train: where the shards of train are.
        val: where the shards of val are.
        test: where the shards of test are; None for none.
        classes: names in the order of numeric labels; None: those that classes.json states, or the labels that are found.
        train_images: number of training images; None: as stated by the shards or classes.json, or counted.
    """

    streams = True

    def __init__(self, *, train: str, val: str, test: str | None, classes: list | None, train_images: int | None):
        self.train, self.val, self.test = train, val, test
        if classes is not None:
            _check_classes(classes, f"datamodule.source.classes={classes}")
        if train_images is not None and not train_images > 0:
            raise UserError(f"datamodule.source.train_images={train_images}: use a number above 0")
        self.stated_classes = None if classes is None else [str(name) for name in classes]
        self.train_images = train_images
        self.name = _name_of(train)

    def shards(self, split: str) -> Shards:
        """Open the shards of a split; raise UserError if there are none, or they cannot be used."""
        raise NotImplementedError

    @functools.cached_property
    def stream(self) -> TrainStream:
        """The training images."""
        shards, stated = self.shards("train"), self._stated()
        shards.check_whole()
        classes = self.stated_classes or stated.get("classes")
        n_images = self.train_images or stated.get("train_images") or shards.n_images
        if shards.n_images and n_images != shards.n_images:
            raise other_number(shards, shards.n_images, n_images)
        counts = self._count(shards) if shards.is_local and not (classes and n_images) else Counter()
        if not classes and (missing := sorted(NO_LABELS.intersection(counts))):
            raise UserError(
                f"{shards.key}: {plural(counts[missing[0]], 'image')} without a label (found {missing[0]}); write the shards "
                f"without them, or if it is a class, name all classes: datamodule.source.classes=[NAME,{missing[0]}]"
            )
        classes, n_images = classes or _in_order(counts), n_images or counts.total()
        if not classes or not n_images:
            missing = "classes" if not classes else "train_images"
            raise UserError(
                f"datamodule.source.{missing} has no value, and shards that are not on a disk are not counted; give "
                f"it one: datamodule.source.{missing}={'[NAME,NAME]' if missing == 'classes' else 'N'}"
            )
        count = functools.partial(self._count, shards) if shards.is_local else None
        # Those of other classes, or in another order, say nothing of these
        stated_counts = stated.get("class_counts") if classes == stated.get("classes") else None
        stream = TrainStream(shards, classes, n_images, stated_counts, count)
        if counts:
            stream.take_counts(counts)
        return stream

    def images(self) -> Iterator[ImageRow]:
        self.classes = self.stream.classes
        shards = {"train": self.stream.shards} | {split: self.shards(split) for split in self._unpacked}
        taken: dict[str, str] = {}
        for split, each in shards.items():
            for place in each.places():
                if (other := taken.setdefault(place, split)) != split:
                    raise UserError(f"{each.key}: {place} also belongs to {other}; give each split its own shards")
            if split != "train":
                each.check_whole()
        return super().images()

    def version(self) -> str:
        return f"{self.classes} {[(split, _state(self.shards(split))) for split in self._unpacked]}"

    def records(self) -> Iterator[Record]:
        for split in self._unpacked:
            shards, sample = self.shards(split), None
            for sample in shards.read_in_order():
                yield Record(sample.content, self.classes[self.stream.label(sample, shards.key)], split)
            if sample is None:
                raise UserError(f"{shards.key}: has no images")

    @property
    def _unpacked(self) -> list[str]:
        return ["val"] + ["test"] * (self.test is not None)

    def _stated(self) -> dict:
        """Return what classes.json beside the shards of train states: classes, and perhaps train_images and class_counts.

        Raises:
            UserError: the file is malformed or contradicts itself.
        """
        folder = Path(self.train)
        path = (folder if folder.is_dir() else folder.parent) / STATED
        if not path.is_file():
            return {}
        stated = read_json(path, LARGEST_STATED, "write it again, or remove it")
        classes, counts, n_images = (stated.get(name) for name in ("classes", "class_counts", "train_images"))
        _check_classes(classes, f"{path}: classes")
        whole = counts is None or (
            isinstance(counts, list) and len(counts) == len(classes) and all(type(n) is int and n >= 0 for n in counts)
        )
        if not whole or not (n_images is None or (type(n_images) is int and n_images > 0)):
            raise UserError(
                f'{path}: must be {{"classes": [NAMES], "train_images": N, "class_counts": [N of each class]}}; the '
                "last two keys are optional"
            )
        if counts and n_images and sum(counts) != n_images:
            raise UserError(
                f"{path}: class_counts sum to {sum(counts):,}, but train_images is {n_images:,}; correct one of them"
            )
        if counts and 0 in counts:
            missing = [str(name) for name, n in zip(classes, counts, strict=True) if not n]
            raise UserError(f"{path}: class_counts has no image of class {join_words(missing)}; every class needs some")
        found = {"classes": [str(name) for name in classes], "class_counts": counts}
        found["train_images"] = n_images or (counts and sum(counts))
        return {name: value for name, value in found.items() if value}

    def _count(self, shards: Shards) -> Counter:
        """Return how many training images each label has; counted once and kept in the cache."""
        version = hashlib.blake2b(_state(shards).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        kept = self.cache / f"{self.name}-{version}.labels.json"
        with one_at_a_time(kept.with_suffix(".lock"), f"counting the training images of {self.name}"):
            if kept.is_file():
                try:
                    found = json.loads(kept.read_text(encoding="utf-8"))
                    if not isinstance(found, dict) or not all(type(n) is int and n > 0 for n in found.values()):
                        raise ValueError("not a number of images of each label")
                    return Counter(found)
                except ValueError as error:
                    log.warning("%s: damaged (%s); counting again", kept, error)
            counts: Counter = Counter()
            text = f"counting the training images of {self.name}, once (classes.json can state them)"
            with Progress(log=log) as progress:
                progress.set(text, lambda: f"{counts.total():,} so far")
                for label in shards.labels():
                    counts[label] += 1
                    if len(counts) > MOST_CLASSES:
                        raise UserError(
                            f"{shards.key}: more than {MOST_CLASSES:,} different labels, e.g. {label[:60]!r}"
                        )
            if not counts:
                raise UserError(f"{shards.key}: has no images")
            write_json(kept, dict(counts))
        return counts


def _state(shards: Shards) -> str:
    return f"{shards.version()} {shards.stamp()}"


def _name_of(place: str) -> str:
    """Return the last part of a folder or pattern that is more than the name of a split."""
    folders = place.replace(os.sep, "/").split("/")
    parts = [re.split(r"[{*?[]", part)[0].removesuffix(".tar").rstrip("-_.0123456789") for part in folders]
    return next((part for part in reversed(parts) if part and ":" not in part and split_of(part) is None), "streamed")


def _check_classes(classes: object, what: str) -> None:
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    if not 2 <= len(set(names)) == len(names) or any(not name or name != name.strip() for name in names):
        raise UserError(f"{clean(what, 200)}: give a list of two or more different names")


def _in_order(counts: Counter) -> list[str]:
    """Return the labels in the order of the classes: numerically if all are numbers, else alphabetically."""
    return sorted(counts, key=lambda label: (int(label), label) if all(map(is_number, counts)) else (0, label))
