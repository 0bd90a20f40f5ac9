"""torchvision's classification data sets, selected by class name."""

import hashlib
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image
from torch.utils.data import Dataset

from common.errors import DISK_ERRORS, UserError
from common.text import clean, did_you_mean, override_value, plural
from datamodules.cache_folder import versions_of
from datamodules.sources.unpacked import Record, UnpackedSource

log = logging.getLogger(__name__)

# This project's splits and torchvision's words for each; the first word that a data set has is used
SPLITS = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
# Data sets of pairs, boxes, masks, texts, videos or optical flow, and base classes
NO_CLASSES = {
    "_optical_flow", "_stereo_matching", "cityscapes", "coco", "phototour", "flickr", "voc", "kinetics", "hmdb51", "ucf101",
    "kitti", "lsun", "sbd", "sbu", "widerface", "moving_mnist", "vision", "folder", "celeba", "VisionDataset", "DatasetFolder",
    "ImageFolder", "LFWPairs", "wrap_dataset_for_transforms_v2",
}  # fmt: skip
OWN_ARGUMENTS = {"self", "root", "train", "download", "transform", "target_transform", "transforms", "loader"}


class TorchvisionDataset(UnpackedSource):
    """List the images of torchvision.datasets.NAME with torchvision's splits; if it has none, this project splits them.

    Args:
        dataset: name of the class, such as CIFAR10.
        root: folder of its files, in the layout that torchvision documents; None: download them into the cache.
        arguments: further arguments of the class, such as {split: letters} for EMNIST.
    """

    def __init__(self, *, dataset: str, root: str | None = None, arguments: dict | None = None):
        kinds = {name: kind for name in torchvision.datasets.__all__ if (kind := _classifies(name))}
        if dataset not in kinds:
            raise UserError(f"datamodule.source.dataset={dataset}: no such data set; {did_you_mean(dataset, kinds)}")
        self.name, self.kind = dataset, kinds[dataset]
        self.given_root = None if root is None else Path(root)
        self.arguments = arguments or {}

    def version(self) -> str:
        where = "downloaded" if self.given_root is None else self.given_root.resolve()
        version = f"torchvision {torchvision.__version__} {self.name} {where} {sorted(self.arguments.items())}"
        if self.given_root is None:
            return version
        if issubclass(self.kind, torchvision.datasets.DatasetFolder):
            files = [path for _, dataset in self._open_splits() for path, _ in dataset.samples]
        else:  # which of the files a data set reads, only torchvision knows
            cache, folders = f"{self.cache.resolve()}/", os.walk(self.given_root.resolve())
            files = sorted(f"{folder}/{name}" for folder, _, names in folders for name in names)
            files = [file for file in files if not file.startswith(cache)]
        return f"{version} {hashlib.blake2b(versions_of(files), digest_size=8).hexdigest()}"

    def records(self) -> Iterator[Record]:
        found = list(self._open_splits())
        if not found:
            raise UserError(
                f"datamodule.source.dataset={self.name}: has none of the splits {', '.join(SPLITS)}; use another data set"
            )
        for split, dataset in found:
            names, without = _names(getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []), 0
            for index in range(len(dataset)):
                image, target = self._item(dataset, index, split)
                if target is None:
                    without += 1
                else:
                    yield Record(image, _label(names, target), split)
            if without:
                log.warning("%s: excluded %s of %s without a label", self.name, plural(without, "image"), split)

    def _item(self, dataset: Dataset, index: int, split: str) -> tuple[bytes | Image.Image, object]:
        """Return an image and its target; an image in a class folder is returned as its file, which may be unreadable."""
        try:
            if isinstance(dataset, torchvision.datasets.DatasetFolder):
                path, target = dataset.samples[index]
                return Path(path).read_bytes(), target
            image, target = dataset[index]
            return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)), target
        except Exception as error:  # of many types: what Pillow and SciPy make of a damaged file
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in DISK_ERRORS:
                raise
            if isinstance(error, TypeError) and self.arguments:
                raise self._not_available(error) from error
            raise UserError(
                f"datamodule.source.dataset={self.name}: {split or 'its'} image {index} (from 0) cannot be read "
                f"({clean(error, 300)}); repair its file"
            ) from error

    def _open_splits(self) -> Iterator[tuple[str, Dataset]]:
        """Yield the name and the data set of each split; the name is empty if the data set has no splits."""
        accepted = inspect.signature(self.kind).parameters
        if "train" in accepted or issubclass(self.kind, torchvision.datasets.MNIST):  # EMNIST's `split` is not a split
            yield "train", self._open(train=True)
            yield "test", self._open(train=False)
        elif "split" in accepted and "split" not in self.arguments:
            for split, words in SPLITS.items():
                opened = (self._open(split=word) for word in words)
                if (dataset := next((each for each in opened if each is not None), None)) is not None:
                    yield split, dataset
        else:
            yield "", self._open()

    def _open(self, **arguments) -> Dataset | None:
        """Return the data set, or None if it has no such split."""
        accepted = inspect.signature(self.kind).parameters
        if "root" in accepted:
            arguments["root"] = str(self.given_root or self.cache / "torchvision")
        if "download" in accepted or issubclass(self.kind, torchvision.datasets.MNIST):
            arguments["download"] = self.given_root is None
        try:
            dataset = self.kind(**arguments, **self.arguments)
            len(dataset)  # of a wrong argument of FakeData, this raises the error
            return dataset
        except Exception as error:  # of many types, and of the network's libraries
            if "split" in arguments and isinstance(error, ValueError) and "for argument split" in str(error):
                return None
            raise self._not_available(error) from error

    def _not_available(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, TypeError) or (isinstance(error, ValueError) and "argument" in reason):
            known = ", ".join(sorted(_arguments_of(self.kind))) or "none"
            return UserError(
                f"datamodule.source.arguments={override_value(self.arguments)}: {self.name} does not accept them ({reason}); "
                f"its arguments: {known}"
            )
        if self.given_root is None:
            return UserError(
                f"datamodule.source.dataset={self.name}: cannot be downloaded or opened ({reason}); if you have its files "
                "in the layout that torchvision documents, use datamodule.root=DIR"
            )
        return UserError(
            f"datamodule.root={self.given_root}: torchvision cannot open {self.name} there ({reason}); remove datamodule.root "
            "to download it"
        )


def _classifies(name: str) -> Callable | None:
    """Return the data set class of this name if its items are an image and one label; else None."""
    kind = getattr(torchvision.datasets, name)
    module = kind.__module__.rpartition(".")[2]
    return None if module in NO_CLASSES or name in NO_CLASSES else kind


def _arguments_of(kind: type) -> set[str]:
    """Return the arguments of a data set that a user can set; with **kwargs, those of its base class too."""
    names: set[str] = set()
    for each in kind.__mro__:
        parameters = inspect.signature(each.__init__).parameters.values()
        names |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names - OWN_ARGUMENTS


def _names(classes: list) -> list[str]:
    """Return a name for each class: the first if it has several, with its number if classes share it, as the two cranes do."""
    names = [str(name[0] if isinstance(name, tuple) else name) for name in classes]
    counts = Counter(names)
    return [f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)]


def _label(names: list[str], target) -> str:
    """Return the name of a class, or its number if the data set has no name for it."""
    target = int(target)
    return names[target] if 0 <= target < len(names) else str(target)
