"""The LightningDataModule: which images, split how, resized, augmented and normalized."""

import functools
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from common.checks import check_between
from common.errors import UserError
from common.text import clean, join_words, plural
from common.untrusted.description import IMAGENET_MEAN, IMAGENET_STD, LARGEST_IMAGE, Fit, Interpolation
from datamodules import gpu_cache, near_duplicates
from datamodules.audit import Finding
from datamodules.batch_transform import BatchTransform, check_batch_transform, mix_batch
from datamodules.cache_folder import open_pixel_caches, versions_of
from datamodules.deep_pixels import ValueRange, parse_range
from datamodules.earlier_splits import read_splits
from datamodules.loader import EpochSampler, ImageDataset, StatefulDataLoader, keep_batch, workers_that_fit
from datamodules.memory import Memory
from datamodules.normalize import channel_statistics, normalize, without_flat_channels
from datamodules.pixel_cache import JpegPixels, Look, PixelCache
from datamodules.prepare import prepare_catalog
from datamodules.sources.catalog import SPLITS, Catalog
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.source import Source, read_source
from datamodules.splits import DROPPED, THINNED, check_folds, spread_rows
from datamodules.streams import (
    Share,
    StreamDataset,
    StreamSampler,
    TrainStream,
    check_streamed,
    not_compared,
    range_missing,
)
from datamodules.transform_list import TransformList, full_name
from datamodules.transforms import Augmentation
from datamodules.value_range import describe_range, few_levels, mixed_depths, training_range

log = logging.getLogger(__name__)

CLASSES_SHOWN = 20  # on the screen
LINES = 2**16  # fingerprint lines, one per image, in memory at a time
JPEG_QUALITY = 95  # of images that are cached as JPEGs
MOST_OF_STREAM = 10_000  # images that are read from a stream at most, if a step would need every training image
LONG = 2.0  # ratio of the longer side to the shorter one from which squashing to a square draws a warning


class ImageDataModule(L.LightningDataModule):
    """Load batches of images from one catalog.

    Args:
        root: folder of the user's own images, for the sources that refer to it and for `table`.
        table: CSV with path, label and optionally split, group and weight; replaces what the source lists.
        folds: number of folds that train and val are divided into; fold number `fold` is val, and test does not change.
        select_on: whether the epoch is chosen on val, or on test as the study did.
        train_fraction: stratified share of the training images that is used; each `seed` draws a different part.
        on_unreadable: whether files that are not images end the run or are excluded.
        on_leak: what to do about training images that are also in val or test.
        sampler: every training image once per epoch, or the same number drawn with all classes equally likely.
        image_size: height and width in pixels after resizing.
        fit: how an image becomes a square of that size; see `decode.place`.
        range: LOW,HIGH, the values that become 0 and 255 in images of more than 8 bits per channel; auto: the range that a
            file states, else one that covers most values of the training images.
        interpolation: how images are resized; should match what the network's weights were trained with, like mean and std.
        mean: normalization mean of each channel; None: mean and std of the training images.
        std: normalization standard deviation of each channel.
        batch_size: images per batch and process.
        num_workers: loader processes; 0 decodes nothing twice and is the fastest on only two cores.
        augmentation: applied to each training image separately.
        batch_transform: applied to a batch of augmented and normalized training images and their labels; None for none.
        splits: folder of an earlier run, or a splits.csv: images listed there keep their splits.
        split_seed: of splits and folds; separate from `seed`, so runs with other seeds have the same test images.
        seed: of `train_fraction`, the order, the augmentation and the batch transform.
        cache: folder of the pixel caches.
        cache_max_gib: limit for all pixel caches together; the least recently used are removed. 0: decode in every epoch.
        cache_format: how decoded images are cached: as uint8, or as JPEGs, which take a fifth of the space and change the
            last bits; auto: as JPEGs if uint8 would take more than `cache_max_gib`.
        gpu_cache_gib: on a GPU, keep the images in its memory if they take no more than this as uint8.
    """

    def __init__(
        self,
        *,
        source: Source,
        root: str | None = None,
        table: str | None,
        folds: int | None,
        fold: int | None,
        select_on: Literal["val", "test"],
        train_fraction: float,
        on_unreadable: Literal["error", "skip"],
        on_leak: Literal["warn", "error", "drop"],
        sampler: Literal["shuffle", "balanced"],
        image_size: int,
        batch_size: int,
        num_workers: int,
        augmentation: Augmentation | TransformList,
        batch_transform: BatchTransform | None = None,
        split_seed: int,
        seed: int,
        cache: str,
        cache_max_gib: float,
        gpu_cache_gib: float,
        fit: Fit = "squash",  # runs from before this setting existed resume with it
        range: str | list | float = "auto",
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        splits: str | None = None,
        cache_format: Literal["auto", "uint8", "jpeg"] = "auto",
    ):
        super().__init__()
        check_between("datamodule.batch_size", batch_size, 1, 2**20)
        check_between("datamodule.num_workers", num_workers, 0, 1024)
        check_between("model.image_size", image_size, 1, LARGEST_IMAGE)
        check_between("datamodule.split_seed", split_seed, 0, 2**32 - 1)
        check_between("datamodule.cache_max_gib", cache_max_gib, 0, 1_000_000)
        check_between("datamodule.gpu_cache_gib", gpu_cache_gib, 0, 1_000_000)
        if not 0 < train_fraction <= 1:
            raise UserError(f"datamodule.train_fraction={train_fraction}: use a share above 0 and up to 1")
        if not isinstance(source, Source):
            raise UserError(
                f"datamodule.source={type(source).__name__}: is not a Source; see datamodules/sources/source.py"
            )
        self.source = source if table is None else CsvTable(table=table, root=root or source.root)
        if not hasattr(augmentation, "draw"):
            raise UserError(
                f"augmentation._target_={full_name(augmentation)}: not an augmentation by itself; put it into a list, as "
                "conf/augmentation/trivial_augment.yaml does"
            )
        self.select_on = select_on
        self.rules = {
            "seed": split_seed, "splits": splits, "folds": folds, "fold": fold, "select_on": select_on,
            "train_fraction": train_fraction, "train_seed": seed, "on_unreadable": on_unreadable, "on_leak": on_leak,
        }  # fmt: skip
        if self.source.streams:
            check_streamed(rules=self.rules, sampler=sampler, mean=mean)
        check_folds(folds, fold)
        self.sampler = sampler
        self.image_size, self.fit, self.interpolation = image_size, fit, interpolation
        self.value_range = parse_range(range)  # None: not known before `setup`, or not needed
        self._finds_range = self.value_range is None
        self._compares_by_own = self._finds_range  # the near-duplicate check scales each image by its own values
        self.train_size = image_size  # side in pixels of the training images that the network sees
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.batch_transform = batch_transform
        self.seed = seed
        self.cache, self.cache_max_gib, self.cache_format = Path(cache), cache_max_gib, cache_format
        self.mean, self.std = (None if each is None else list(each) for each in (mean, std))  # None: not before `setup`
        self._statistics: tuple[Tensor, Tensor] | None = None  # both, on the device
        self.pixel_cache: PixelCache | None = None
        self.gpu_cache_gib = gpu_cache_gib
        self.gpu_pixels: Tensor | None = None  # all images on the device
        self._placed = False  # whether it was decided if they are kept there
        self.findings: list[Finding] = []
        self._warned_single = False
        self.limits: dict[str, int | float] = {}  # split -> number or share of its batches that are used; absent: all
        self.trains = True  # False: only evaluates, so that a small train split is no problem
        self.overfits = False  # validates on its training images, which are not augmented
        self.against_imbalance = ""  # settings that would help where a class has few images, for the warning
        self.read_s = 0.0  # seconds of listing, decoding and auditing
        self.memory = Memory()  # the engine gives all jobs of a sweep the same

    @functools.cached_property
    def catalog(self) -> Catalog:
        """All images of the source; opens none. `setup` decides splits and exclusions."""
        started = time.perf_counter()
        key = self._source_key  # first, since it may replace self.memory
        catalog = self.memory.get(key, lambda: read_source(self.source))
        self.read_s += time.perf_counter() - started
        return replace(catalog, splits=catalog.splits.copy())

    @functools.cached_property
    def _source_key(self) -> str:
        """Everything that decides what the source lists. Computed before it lists, since listing may change its attributes."""
        self.source.cache = self.cache / "sources"
        if not all(_is_plain(value) for value in vars(self.source).values()):
            self.memory = Memory()  # not shared: a user's own sources may differ in ways that this text cannot show
        return f"{self.source} {sorted(vars(self.source).items())}"

    def keep_range(self, trained: list | None, checkpoint: object) -> None:
        """Scale images of more than 8 bits the way a checkpoint was trained, whatever the images are now.

        Args:
            trained: the arguments of ValueRange; None if it was trained on 8 bits.
            checkpoint: its path, for the message.

        Raises:
            UserError: datamodule.range gives another range.
        """
        value_range = None if trained is None else ValueRange(*trained)
        if not self._finds_range and self.value_range != value_range:
            raise UserError(
                f"ckpt_path={checkpoint}: was trained with the range {value_range or 'of 8 bits'}, but datamodule.range gives "
                f"{self.value_range}; remove datamodule.range"
            )
        self.value_range, self._finds_range = value_range, False
        # Compare images as the checkpoint's run did, so near duplicates and splits are the same and nothing is decoded again
        self._compares_by_own &= value_range is None or not value_range.of_all

    def setup(self, stage: str | None = None) -> None:
        """Open or build the pixel cache, decide the splits and audit the images; do nothing when called again.

        Raises:
            UserError: the transforms, the images, the splits or the batch size cannot be used.
        """
        if self.pixel_cache is not None:
            return
        self.augmentation.check(self.image_size, torch.device("cpu"))
        if self.batch_transform is not None:
            check_batch_transform(self.batch_transform, len(self.catalog.classes), self.image_size, self.batch_size)
        if self.source.streams and self.overfits:
            raise UserError(
                "trainer.overfit_batches cannot be used with streamed training images, which differ in every epoch; "
                "use debug=fast"
            )
        if self.stream:
            self.stream.shards.check_processes(self._share.world_size)  # here, so all of them end with the same error
        started = time.perf_counter()
        pixel_cache = self._prepare()
        catalog, n_train = self.catalog, self.n_images("train")
        if self.trains and self.batch_size > n_train:
            raise UserError(
                f"datamodule.batch_size={self.batch_size} is larger than the train split ({n_train} "
                f"images); use {n_train} or fewer"
            )
        described = f"train {n_train:,} (streamed), {catalog.describe()}" if self.stream else catalog.describe()
        classes = join_words(list(map(clean, catalog.classes)), CLASSES_SHOWN)
        log.info("%s: %s; classes %s", catalog.name, described, classes)
        width, height = pixel_cache.stats.sizes[catalog.present()].T
        if self.fit == "squash" and np.median(np.maximum(width, height) / np.minimum(width, height)) >= LONG:
            log.warning("half of the images are at least %g times as long as wide; datamodule.fit=squash distorts them, "
                        "crop and pad do not", LONG)  # fmt: skip
        self.pixel_cache = pixel_cache
        if self.mean is None:
            self.mean, self.std = self._normalization_of_train(pixel_cache)
        self.read_s += time.perf_counter() - started

    def _prepare(self) -> PixelCache:
        """Decide splits, exclusions and the range of values; return the pixels. Reuse what an earlier job of a sweep found."""
        source_key = self._source_key  # first, since it may replace self.memory
        compared_look = near_duplicates.compared_look("own" if self._compares_by_own else self.value_range)
        look = self._kept_as(self._look._replace(value_range=compared_look.value_range), beside=compared_look)
        rules = self.rules if self.rules["train_fraction"] < 1 else self.rules | {"train_seed": None}
        key = f"{source_key} {compared_look} {sorted(rules.items())}"
        earlier = functools.cache(lambda: None if self.rules["splits"] is None else read_splits(self.rules["splits"]))
        if key not in self.memory:
            earlier()  # a wrong file is refused before all images are read
        compared, pixels = self._pixels(compared_look, look)
        if self.cache_format == "auto" and pixels.kept_as == JpegPixels.kept_as:
            log.info(
                "datamodule.cache_max_gib=%g: %s images take %.1f GiB as uint8; they are kept as JPEGs of quality %d (see "
                "docs/scale.md)", self.cache_max_gib, f"{len(self.catalog):,}", self._uint8_gib(look, compared_look),
                JPEG_QUALITY,
            )  # fmt: skip

        def prepare() -> tuple[Catalog, list[Finding]]:
            rules = self.rules | {"splits": earlier(), "streams_train": self.source.streams}
            rules["against_imbalance"] = self.against_imbalance
            return self.catalog, prepare_catalog(self.catalog, compared, **rules)

        self.catalog, findings = self.memory.get(key, prepare)
        stats = compared.stats
        if self._finds_range:
            self.value_range = training_range(self.catalog, stats)
        deep = self.catalog.present() & stats.deep
        if self.stream and self.value_range is None and (deep & ~stats.states_range).any():
            raise range_missing("datamodule.range=auto: images of val or test")
        if self._compares_by_own and deep.any():
            look = look._replace(value_range=self.value_range)
            [pixels] = self._pixels(look, beside=compared)
        if described := describe_range(self.catalog, stats, self.value_range):
            log.info("%s: %s", self.catalog.name, described)
        of_values = few_levels(self.catalog, stats, self.value_range), mixed_depths(self.catalog, stats)
        for finding in filter(None, of_values):
            log.warning(finding.text)
        self.findings = [*findings, *filter(None, of_values), *([not_compared(self.stream)] if self.stream else [])]
        errors = [
            pixels.stats.errors[row] for row in np.flatnonzero(self.catalog.present()) if pixels.stats.errors[row]
        ]
        if errors:  # these images hold another kind of values than the training images
            raise UserError(
                f"{plural(len(errors), 'image')} cannot be scaled like the training images; convert them, or give "
                f"datamodule.range=LOW,HIGH: {errors[0]}"
            )
        return pixels

    def _normalization_of_train(self, pixels: PixelCache) -> tuple[list[float], list[float]]:
        """Return mean and std of each channel over the training images that are used, resized and scaled as for the network."""
        rows = np.sort(self.rows("train"))
        key = (self._source_key, self._look, hashlib.blake2b(rows.tobytes()).digest())
        mean, std = self.memory.get(key, lambda: channel_statistics(pixels[int(row)] for row in rows))
        std = without_flat_channels(std)
        log.info(
            "model.normalization=dataset: mean %s, std %s, of %s training images",
            *(" ".join(f"{value:.4f}" for value in values) for values in (mean, std)), f"{len(rows):,}",
        )  # fmt: skip
        return list(mean), std

    @property
    def _look(self) -> Look:
        return Look(self.image_size, self.fit, self.value_range, self.interpolation)

    def _kept_as(self, look: Look, beside: Look) -> Look:
        """Return the look with the cache format: JPEGs if `cache_format` says so or, with auto, if uint8 exceeds the limit."""
        is_too_much = self._uint8_gib(look, beside) > self.cache_max_gib > 0
        if self.cache_format == "uint8" or (self.cache_format == "auto" and not is_too_much):
            return look
        return look._replace(jpeg_quality=JPEG_QUALITY)

    def _uint8_gib(self, look: Look, beside: Look) -> float:
        return len(self.catalog) * (look.image_bytes + beside.image_bytes) / 2**30

    def _pixels(self, *looks: Look, beside: PixelCache | None = None) -> list[PixelCache]:
        place = self.cache / "pixels"
        return self.memory.get(
            (self._source_key, looks),
            lambda: open_pixel_caches(self.catalog.files, looks, place, self.cache_max_gib, beside),
        )

    def warn_of_changed_files(self) -> None:
        """Warn if files that are decoded in every epoch are no longer those that were checked and recorded."""
        if self.pixel_cache.versions is None:
            return
        changed = (versions_of(self.catalog.files) != self.pixel_cache.versions).any(axis=1) & self.catalog.present()
        if changed.any():
            log.warning(
                "%s of %s files were changed since they were checked, such as %s, and images are decoded in every epoch, "
                "so results partly come from other images than the record lists; retrain",
                f"{changed.sum():,}", f"{len(changed):,}", clean(self.catalog.files[int(changed.argmax())], 200),
            )  # fmt: skip

    def fingerprint(self, *splits: str, thinned: bool = True, of_all_folds: bool = False) -> str:
        """Return 16 hex digits that identify the images, labels and splits of `splits` (none: all), whatever the file names.

        If a table gives weights, those of the training images count.

        Args:
            thinned: whether to skip the training images that `train_fraction` excluded; False gives one value for all seeds.
            of_all_folds: count val, and what was dropped from train, as train, which gives one value for all folds.
        """
        in_split = self.catalog.splits.copy()
        left_out = {THINNED.format(self.rules["train_fraction"])} if not thinned else set()
        if of_all_folds:
            left_out.add(DROPPED)
            in_split[in_split == "val"] = "train"
        in_split[[row for row, why in self.catalog.excluded.items() if why in left_out]] = "train"
        fingerprints, labels = self.pixel_cache.stats.fingerprints.numbers, self.catalog.labels
        rows = np.flatnonzero(np.isin(in_split, splits or SPLITS))
        rows = rows[np.argsort(fingerprints[rows], kind="stable")]
        names = np.array(self.catalog.classes, object)
        digest = hashlib.blake2b(digest_size=8)
        for part in _parts_of(fingerprints[rows]):  # the lines of a million images at once would take 100 MB
            columns = [each[rows[part]].tolist() for each in (fingerprints, names[labels], in_split)]
            lines = [f"{image:016x} {name} {split}" for image, name, split in zip(*columns, strict=True)]
            if self.catalog.weights is not None:
                weights = self.catalog.weights[rows[part]].tolist()
                lines = [
                    f"{line} {weight}" if split == "train" else line
                    for line, weight, split in zip(lines, weights, columns[2], strict=True)
                ]
            digest.update(("\n" * bool(part.start) + "\n".join(sorted(lines))).encode())
        if self.stream and "train" in (splits or SPLITS):
            digest.update(f"\ntrain {self.stream.version()}".encode())
        return digest.hexdigest()

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return len(self.catalog.rows("test")) > 0

    @property
    def class_counts(self) -> list[int]:
        """Number of training images of each class."""
        if self.stream:
            return self.stream.class_counts
        return np.bincount(
            self.catalog.labels[self.catalog.rows("train")], minlength=len(self.catalog.classes)
        ).tolist()

    @property
    def stream(self) -> TrainStream | None:
        """The training images if they are streamed, in which case they are not rows of the catalog; else None."""
        return self.source.stream if self._source_key else None  # _source_key tells the source where its cache is

    def n_images(self, split: str) -> int:
        """Return the number of images of a split."""
        return self.stream.n_images if self.stream and split == "train" else len(self.catalog.rows(split))

    def n_used(self, split: str) -> int:
        """Return how many images of a split an epoch uses: those of `rows`, or of the stream."""
        if not self.stream or split != "train":
            return len(self.rows(split))
        return min(self.stream.n_images, self._wanted(self.stream.n_images, "train") or self.stream.n_images)

    def _wanted(self, n_images: int, limit: str) -> int | None:
        """Return how many of `n_images` the limit with this key leaves; None: all."""
        together = self.batch_size * self._share.world_size  # images in one step of all processes
        batches, limited = -(-n_images // together), self.limits.get(limit, 1.0)
        wanted = limited if isinstance(limited, int) else max(1, int(limited * batches))
        return None if wanted >= batches else wanted * together

    def rows(self, split: str, limit: str | None = None) -> np.ndarray:
        """Return the rows of a split that are used: all, or what its limit leaves, of every class and the same in every epoch.

        Lightning would take the loader's first batches, which hold one class if the catalog is sorted by class. For val and
        test the result is the same for all seeds, like the splits themselves.

        Args:
            limit: key of `limits`; None: the split's own.

        Raises:
            UserError: the training images are streamed.
        """
        if self.stream and split == "train":
            raise UserError(f"datamodule.source.train={self.source.train}: is streamed, but this needs all training images "
                            "as files; use datamodule=image_folder")  # fmt: skip
        rows = self.catalog.rows(split)
        wanted = self._wanted(len(rows), limit or split)
        if wanted is None:
            return rows
        seed = self.seed if split == "train" else self.rules["seed"]
        return rows[spread_rows(self.catalog.labels[rows], wanted, seed)]

    @property
    def validated_split(self) -> str:
        """The split on which each epoch is validated: val, test with `select_on="test"`, or train in an overfitting run."""
        return "train" if self.overfits else self.select_on

    def validated_rows(self) -> np.ndarray:
        """Return the rows on which each epoch is validated: of this split, what the limit of val leaves."""
        return self.rows(self.validated_split, limit="val")

    def describe_part(self, split: str) -> str | None:
        """Return `8 of 14 test images` if a limit leaves only a part, else None; val of an overfitting run is train."""
        if split == "val" and self.overfits:
            return f"{len(self.rows('train')):,} training images"
        used, total = len(self.rows(split)), len(self.catalog.rows(split))
        return f"{used:,} of {total:,} {split} images" if used < total else None

    @property
    def _share(self) -> Share:
        trainer = self.trainer
        return Share(trainer.global_rank, trainer.world_size, trainer.num_nodes) if trainer else Share()

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _augments_on_gpu(self) -> bool:
        """Return whether training images are augmented on a GPU; if so, try that first."""
        if self._device.type != "cuda" or not self.augmentation.on_device:
            return False
        self.augmentation.check(self.image_size, self._device)
        return True

    def train_dataloader(self) -> StatefulDataLoader:
        return self._stream_loader() if self.stream else self._loader(self.rows("train"), training=True)

    def val_dataloader(self) -> StatefulDataLoader:
        """Load the images that choose the epoch: val, or test with `select_on="test"`; train in an overfitting run."""
        return self._loader(self.validated_rows())

    def test_dataloader(self) -> StatefulDataLoader:
        return self._loader(self.rows("test"))

    def unaugmented_train_dataloader(self) -> DataLoader:
        """Load all training images unaugmented, in catalog order, the same in every process; of a stream only the first."""
        if self.stream:
            n = min(MOST_OF_STREAM, self.stream.n_images)
            if n < self.stream.n_images:
                of_all = f"{n:,} of {self.stream.n_images:,}"
                log.info("only the first %s streamed training images are used for this", of_all)
            return self.sample_of_train_dataloader(n, batch_size=self.batch_size, augmented=False)
        rows = EpochSampler(np.sort(self.rows("train")), shuffle=False, seed=self.seed)
        dataset = ImageDataset(self.catalog, self.pixel_cache, None, self.seed)
        return DataLoader(dataset, batch_size=self.batch_size, sampler=rows, collate_fn=keep_batch)

    def sample_of_train_dataloader(self, n: int, *, batch_size: int, augmented: bool) -> DataLoader:
        """Load `n` training images in random order, the same in every process and call; augmented as in the first epoch."""
        augmentation = self.augmentation if augmented else None
        if self.stream:
            sampler = StreamSampler(self.stream, n_images=min(n, self.stream.n_images), seed=self.seed)
            dataset = self._stream_dataset(augmentation)
        else:
            rows = np.random.default_rng(self.seed).permutation(np.sort(self.rows("train")))[:n]
            sampler = EpochSampler(rows, shuffle=False, seed=self.seed)
            dataset = ImageDataset(self.catalog, self.pixel_cache, augmentation, self.seed)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=keep_batch)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Augment (on a GPU), resize, normalize and mix on the device, since uint8 is a quarter of the bytes to move."""
        if "pixels" not in batch:
            rows = batch["rows"].to(self.gpu_pixels.device)
            batch["pixels"] = self.gpu_pixels[rows].permute(0, 3, 1, 2)  # (B, 3, H, W) in channels-last memory
        if "params" in batch:
            batch["pixels"] = self.augmentation.apply_on_device(batch["pixels"], batch.pop("params"))
        if self.train_size != self.image_size and self.trainer.training:
            size, on_cpu = (self.train_size, self.train_size), batch["pixels"].device.type == "cpu"
            pixels = batch["pixels"] if on_cpu else batch["pixels"].float()  # CUDA resizes no uint8 with antialias
            pixels = F.interpolate(pixels, size=size, mode=self.interpolation, antialias=True)
            batch["pixels"] = pixels if on_cpu else pixels.clamp(0, 255)  # bicubic overshoots
        batch["pixels"] = normalize(batch["pixels"], *self._mean_and_std(batch["pixels"].device))
        if "mix_seed" in batch:
            mix_batch(batch, self.batch_transform, len(self.catalog.classes), batch.pop("mix_seed"))
        return batch

    def _mean_and_std(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and std on the device, made once: new tensors in each step would make the CPU wait for the GPU."""
        if self._statistics is None or self._statistics[0].device != device:
            with torch.inference_mode(False):  # training uses them too, even if validation makes them
                self._statistics = torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)
        return self._statistics

    def _place_on_gpu(self) -> None:
        """Copy all images to the GPU if they fit; decide that once for all splits."""
        self._placed = True
        if gpu_cache.fits_on_gpu(self.pixel_cache, self.gpu_cache_gib, gpu_cache.free_bytes(self._device)):
            self.gpu_pixels = gpu_cache.copy_to_gpu(self.pixel_cache, self._device)
            mib = self.gpu_pixels.nbytes / 2**20
            log.info("%s images are kept on the GPU (%.0f MiB)", f"{len(self.pixel_cache):,}", mib)

    def _stream_loader(self) -> StatefulDataLoader:
        sampler = StreamSampler(self.stream, n_images=self.n_used("train"), seed=self.seed, share=self._share)
        dataset = self._stream_dataset(
            self.augmentation, augment_on_gpu=self._augments_on_gpu(), mixes=self.batch_transform is not None
        )
        return self._open_loader(dataset, sampler, training=True)

    def _stream_dataset(self, augmentation: Augmentation | TransformList | None, **options) -> StreamDataset:
        on_unreadable = self.rules["on_unreadable"]
        return StreamDataset(self.stream.n_images, self._look, augmentation, self.seed, on_unreadable, **options)

    def _loader(self, rows: np.ndarray, training: bool = False) -> StatefulDataLoader:
        rank, world_size, _ = self._share
        if self._device.type == "cuda" and not self._placed:
            self._place_on_gpu()
        shuffle = training and not self.overfits
        if training and self.overfits:
            rows = rows[: len(rows) // world_size * world_size]  # equal numbers, since the processes step together
        balance = self.catalog.labels[rows] if shuffle and self.sampler == "balanced" else None
        sampler = EpochSampler(rows, shuffle=shuffle, balance=balance, seed=self.seed, rank=rank, world_size=world_size)
        augment_on_gpu = shuffle and self._augments_on_gpu()
        dataset = ImageDataset(
            self.catalog, self.pixel_cache, self.augmentation if shuffle else None, self.seed,
            augment_on_gpu=augment_on_gpu,
            in_gpu_cache=self.gpu_pixels is not None and (augment_on_gpu or not shuffle),
            mixes=shuffle and self.batch_transform is not None,
        )  # fmt: skip
        return self._open_loader(dataset, sampler, training)

    def _open_loader(
        self, dataset: ImageDataset, sampler: EpochSampler | StreamSampler, training: bool
    ) -> StatefulDataLoader:
        if self.trainer:  # worker processes ask for rows before Lightning sets the epoch
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        drops_single = training and self.batch_size > 1 and len(sampler) % self.batch_size == 1
        if drops_single and not self._warned_single:
            self._warned_single = True
            which = "" if self.overfits else ", a different one each epoch"
            log.warning("the last training batch would hold a single image, too few for batch norm; this image is skipped%s",
                        which)  # fmt: skip
        workers = workers_that_fit(self.num_workers, self.batch_size * self.image_size**2 * 3)
        return StatefulDataLoader(
            dataset,
            batch_size=self.batch_size,
            drop_last=drops_single,
            sampler=sampler,
            num_workers=workers,
            collate_fn=keep_batch,
            persistent_workers=workers > 0,
            pin_memory=self._device.type == "cuda",
        )


def _parts_of(values: np.ndarray) -> Iterator[slice]:
    """Cut sorted values into parts of at least LINES (the last may be smaller); equal values stay together."""
    begin = 0
    while begin < len(values):
        end = int(np.searchsorted(values, values[min(begin + LINES, len(values)) - 1], side="right"))
        yield slice(begin, end)
        begin = end


def _is_plain(value: object) -> bool:
    """Return whether the text of a value shows all of it: built-in types and paths."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | Path)
