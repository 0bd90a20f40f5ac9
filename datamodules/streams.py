"""Training images that do not fit on a disk: the engine of a source streams their content; everything else is as usual.

The engine reads in the order of the epoch, in one thread per process. The loader's sampler yields what it reads, so loader
workers only decode and augment, and their number changes neither which images come nor in which order. Memory holds the
engine's own buffers and READ_AHEAD images, however many training images there are.
"""

import contextlib
import hashlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from common.errors import UserError
from common.text import join_words, plural
from datamodules.audit import Finding
from datamodules.decode import UnreadableImageError, read_content
from datamodules.deep_pixels import DeepPixels
from datamodules.loader import EpochSampler, ImageDataset
from datamodules.pixel_cache import Look
from datamodules.transform_list import TransformList
from datamodules.transforms import Augmentation

log = logging.getLogger(__name__)

READ_AHEAD = 256  # images per process
MOST_DIGITS = 20  # of a label that is the number of a class
WAIT_S = 0.1  # seconds after which the reading thread checks again whether its images are still wanted
T = TypeVar("T")


class Sample(NamedTuple):
    """Hold one image of a stream as it was written."""

    content: bytes  # of an image file
    label: str
    name: str  # where the image is from, for messages


class Share(NamedTuple):
    """Identify the process whose share of the images is read."""

    rank: int = 0
    world_size: int = 1
    nodes: int = 1


class Shards:
    """Read the images of one split. Each subclass is an engine.

    Attributes:
        key: setting and value that messages begin with.
        is_local: whether the shards are on a disk, so reading all labels once costs little.
        n_images: number of images; None if only reading all of them would show it.
        stated: number of images that an epoch assumes; set by the stream.
        shuffle_buffer: number of images from which the next one is drawn, which affects the order; 0: it does not.
    """

    key: str
    is_local: bool
    n_images: int | None = None
    stated: int | None = None
    shuffle_buffer: int = 0

    def version(self) -> str:
        """Return a text that changes with the images, but not with where they are stored."""
        raise NotImplementedError

    def stamp(self) -> str:
        """Return a text that changes when the shards are written again, even with the same size."""
        return ""

    def places(self) -> list[str]:
        """Return where the shards are stored, to check that none belongs to two splits."""
        return []

    def check_whole(self) -> None:
        """Raise UserError if a shard was cut off, and warn if that cannot be determined."""

    def check_processes(self, world_size: int) -> None:
        """Raise UserError if there are too few shards for each of `world_size` processes to get images."""

    def read(self, share: Share, *, seed: int, epoch: int, skip: int) -> Iterator[Sample]:
        """Yield the images of one process in the order of an epoch, repeated endlessly, without the first `skip` ones.

        Raises:
            UserError: a shard cannot be read; names it and the reason.
        """
        raise NotImplementedError

    def read_in_order(self) -> Iterator[Sample]:
        """Yield all images once, as they were written."""
        raise NotImplementedError

    def labels(self) -> Iterator[str]:
        """Yield the label of every image, without reading more of them than necessary."""
        return (sample.label for sample in self.read_in_order())


class TrainStream:
    """Hold the training images of a source, about which only stated or counted numbers are known.

    Args:
        class_counts: number of training images of each class; None: not known.
        count: reads all shards to count the images of each label; None: that would take too long.
    """

    def __init__(
        self,
        shards: Shards,
        classes: Sequence[str],
        n_images: int,
        class_counts: list[int] | None,
        count: Callable[[], Counter] | None,
    ):
        self.shards = shards
        self.classes = list(classes)
        self.n_images = self.shards.stated = n_images
        self._class_counts, self._count = class_counts, count
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        # Of the classes 1 to 5, the label 1 would be the first by its name and the second by its number
        self._only_names = any(
            is_number(name) and number != int(name) < len(self.classes) for name, number in self._numbers.items()
        )

    def take_counts(self, counts: Counter) -> None:
        """Store how many images each label has.

        Raises:
            UserError: the total is not the stated number, a label has no class, or a class has no images.
        """
        if counts.total() != self.n_images:
            raise other_number(self.shards, counts.total(), self.n_images)
        self._class_counts = [0] * len(self.classes)
        for label, n in counts.items():
            self._class_counts[self.label(Sample(b"", label, plural(n, "image")))] += n
        missing = [name for name, n in zip(self.classes, self._class_counts, strict=True) if not n]
        if missing:
            raise UserError(f"{self.shards.key}: has no image of class {join_words(missing)}; every class needs images")

    def version(self) -> str:
        """Return 16 hex digits that identify the images, as far as their shards show, and their number."""
        described = f"{self.shards.version()} {self.classes} {self.n_images}"
        return hashlib.blake2b(described.encode(errors="surrogateescape"), digest_size=8).hexdigest()

    @property
    def class_counts(self) -> list[int]:
        """Number of training images of each class; a UserError if they are neither stated nor counted."""
        if self._class_counts is None and self._count is not None:
            self.take_counts(self._count())
        if self._class_counts is None:
            raise UserError(
                f"{self.shards.key}: the number of training images of each class is unknown, but a loss that weights classes "
                "needs it; state class_counts in classes.json (docs/data.md), or use loss=cross_entropy"
            )
        return self._class_counts

    def label(self, sample: Sample, key: str | None = None) -> int:
        """Return the number of a sample's class: by its name, or the label itself unless that could be another class's name.

        Raises:
            UserError: there is no such class; begins with `key`, or that of the training images.
        """
        label = sample.label
        number = self._numbers.get(label)
        if number is None and not self._only_names and is_number(label) and int(label) < len(self.classes):
            return int(label)
        if number is None:
            raise UserError(
                f"{key or self.shards.key}: {sample.name}: label {label[:60]!r} is none of the {len(self.classes):,} classes "
                f"{join_words(self.classes)}; correct the label, or datamodule.source.classes"
            )
        return number


def is_number(label: str) -> bool:
    """Return whether a label is a whole number of up to MOST_DIGITS digits, leading zeros included."""
    return label.isascii() and label.isdigit() and len(label) <= MOST_DIGITS


class StreamItem(NamedTuple):
    """Hold what the sampler yields for a streamed image: the fields of EpochSampler's items, and the image."""

    epoch: int
    number: int  # in the epoch, over all processes; the augmentation follows from it
    occurrence: int  # always 0, since no image comes twice under one number
    content: bytes | np.ndarray  # of an image file; pixels (H, W, 3) once it is decoded
    label: int
    name: str


class StreamSampler(Sampler):
    """Yield the images of one process as they are streamed; the order depends on (seed, epoch) and on the number of processes.

    All processes use the same number of images. A process that the engine gives fewer repeats its first images; a process
    that gets more skips its last ones in this epoch.
    """

    follows_from = f"{EpochSampler.follows_from}, trainer.devices included"

    def __init__(self, stream: TrainStream, *, n_images: int, seed: int, share: Share | None = None):
        self.stream = stream
        self.n_images = n_images
        self.seed = seed
        self.share = share or Share()
        self.world_size = self.share.world_size
        self.epoch = 0
        self.skip = 0  # images at the start of the next pass that were seen before the run was interrupted

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_images // self.world_size)

    def digest(self) -> str:
        """Return 16 hex digits that identify the order of the epoch."""
        nodes = f" on {self.share.nodes} nodes" if self.share.nodes > 1 else ""
        read = f"{self.stream.version()} {self.n_images} images of {self.world_size} processes{nodes}"
        drawn = f", drawn from {buffer}" if (buffer := self.stream.shards.shuffle_buffer) else ""
        described = f"{read}, seed {self.seed}, epoch {self.epoch}{drawn}"
        return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()

    def __iter__(self) -> Iterator[StreamItem]:
        skip, self.skip = self.skip, 0
        samples = self.stream.shards.read(self.share, seed=self.seed, epoch=self.epoch, skip=skip)
        for place, sample in enumerate(read_ahead(islice(samples, len(self) - skip), READ_AHEAD), skip):
            number = place * self.world_size + self.share.rank
            yield StreamItem(self.epoch, number, 0, sample.content, self.stream.label(sample), sample.name)


def read_ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """Yield items that a thread reads ahead, so a disk or network that is fast enough on average causes no waiting."""
    ready: queue.Queue = queue.Queue(most)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=WAIT_S)
        return None

    def read() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised where the items are taken
            put((None, error))

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()


class StreamDataset(ImageDataset):
    """Return batches of streamed images like ImageDataset, but with `names` (where images are from) instead of `rows`.

    With on_unreadable=skip, an image that cannot be read is replaced by another image of the batch with an augmentation of
    its own; `unreadable` holds the reasons.
    """

    def __init__(
        self,
        n_images: int,
        look: Look,
        augmentation: Augmentation | TransformList | None,
        seed: int,
        on_unreadable: Literal["error", "skip"],
        augment_on_gpu: bool = False,
        mixes: bool = False,
    ):
        self.n_images, self.look, self.image_size = n_images, look, look.image_size
        self.augmentation, self.seed = augmentation, seed
        self.on_unreadable = on_unreadable
        self.augment_on_gpu, self.in_gpu_cache, self.mixes = augment_on_gpu, False, mixes

    def __len__(self) -> int:
        return self.n_images

    def _batch(self, items: list[StreamItem]) -> dict:
        decoded, errors = {}, []
        for place, item in enumerate(items):
            try:
                decoded[place] = item._replace(content=self._decode(item))
            except UnreadableImageError as error:
                if self.on_unreadable == "error":
                    raise UserError(f"{error}; repair or remove it, or use datamodule.on_unreadable=skip") from error
                errors.append(str(error))
        if not decoded:
            raise UserError(f"no image of a whole batch can be read; the first error is: {errors[0]}")
        others = list(decoded.values())
        for place, item in enumerate(items):
            if place not in decoded:
                decoded[place] = others[place % len(others)]._replace(number=item.number)
        batch = super()._batch([decoded[place] for place in range(len(items))])
        return batch | ({"unreadable": errors} if errors else {})

    def _targets(self, items: list[StreamItem]) -> dict:
        return {"labels": torch.tensor([item.label for item in items]), "names": [item.name for item in items]}

    def _image(self, item: StreamItem) -> np.ndarray:
        return item.content

    def _decode(self, item: StreamItem) -> np.ndarray:
        """Decode and resize as the pixel cache does; (H, W, 3) uint8."""
        decoded, value_range = read_content(item.content, item.name, self.image_size), self.look.value_range
        if isinstance(decoded.source, DeepPixels) and decoded.source.stated is None and value_range is None:
            raise range_missing(item.name)
        return np.asarray(self.look.resize(decoded.rgb(value_range, item.name)))


def check_streamed(*, rules: dict, sampler: str, mean: object) -> None:
    """Refuse settings that need all training images as files, or all at once.

    Args:
        rules: the attribute of ImageDataModule.

    Raises:
        UserError: names the setting and what is possible.
    """
    wanted = {
        "datamodule.folds": (rules["folds"], None, "are not divided: train, val and test are given"),
        "datamodule.fold": (rules["fold"], None, "are not divided: train, val and test are given"),
        "datamodule.splits": (rules["splits"], None, "are not divided: train, val and test are given"),
        "datamodule.select_on": (rules["select_on"], "val", "need a validation split of their own"),
        "datamodule.train_fraction": (rules["train_fraction"], 1, "are not reduced; name fewer shards"),
        "datamodule.on_leak": (rules["on_leak"], "warn", "are not compared with those of val and test"),
        "datamodule.sampler": (sampler, "shuffle", "come once per epoch; see loss=weighted_cross_entropy"),
    }  # fmt: skip
    for key, (value, only, reason) in wanted.items():
        if value != only:
            shown = "null" if only is None else only
            raise UserError(f"{key}={value}: streamed training images {reason}; use {key}={shown}")
    if mean is None:
        raise UserError(
            "model.normalization=dataset: mean and std of streamed training images are not computed; give them as "
            "model.normalization='[[0.5,0.5,0.5],[0.25,0.25,0.25]]', or use model.normalization=imagenet"
        )


def not_compared(stream: TrainStream) -> Finding:
    """Log and return what was not checked, since the training images are not read before training."""
    text = (
        f"streamed: the {stream.n_images:,} training images were not checked for duplicates, images that are also in val "
        "or test, images under two labels, or unusual sizes"
    )
    log.warning(text)
    return Finding("streamed", text, [])


def other_number(shards: Shards, n_images: int, stated: int) -> UserError:
    """Return the error for a stated number of training images that differs from the real one."""
    return UserError(
        f"{shards.key}: has {n_images:,} images, but {stated:,} are stated; remove datamodule.source.train_images, or "
        "correct classes.json"
    )


def range_missing(what: str) -> UserError:
    """Return the error for images of more than 8 bits without a range."""
    return UserError(
        f"{what}: more than 8 bits per channel, but the range of streamed images is not determined automatically; set the "
        "values that become black and white: datamodule.range=LOW,HIGH"
    )
