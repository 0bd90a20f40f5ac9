"""From rows to batches: the order of the rows, and their pixels.

Shapes: B batch, H = W pixels.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, get_worker_info

from common.errors import UserError
from datamodules.normalize import as_batch
from datamodules.pixel_cache import PixelCache
from datamodules.sources.catalog import Catalog
from datamodules.transform_list import SEEDS, TransformList
from datamodules.transforms import Augmentation

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 2  # batches that each worker loads ahead; torch's default
SHOWN = 20  # unreadable images of a stream that are shown on the screen
NO_ROW = 2**32 - 1  # separates rows from their occurrences in the key of a random draw


class EpochSampler(Sampler):
    """Yield the rows of a split for one of `world_size` processes, as items (epoch, row, occurrence).

    The occurrence counts how often the row came before in the epoch, over all processes, so repeats are augmented differently.

    Shuffled: the order depends only on (seed, epoch). All processes get the same number of rows, since their gradients are
    averaged step by step; a few rows from the front may be repeated at the end for that. Not shuffled: every row comes exactly
    once over all processes, so metrics summed over them are exact.

    With `balance`, the labels (rows,) of the rows, the same number is drawn with replacement, all classes equally likely.
    """

    follows_from = "seed, images and settings of datamodule and trainer.limit_train_batches"  # what decides its order

    def __init__(
        self,
        rows: np.ndarray,
        *,
        shuffle: bool,
        seed: int,
        balance: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.rows = rows
        self.shuffle = shuffle
        self.seed = seed
        self.balance = balance
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0  # rows at the start of the next pass that were seen before the run was interrupted

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return -(-len(self.rows) // self.world_size)
        return len(range(self.rank, len(self.rows), self.world_size))

    def order(self) -> np.ndarray:
        """Return the rows of the epoch in their order, over all processes."""
        if not self.shuffle:
            return self.rows
        generator = np.random.default_rng((self.seed, self.epoch))
        return self._balanced(generator) if self.balance is not None else generator.permutation(self.rows)

    def digest(self) -> str:
        """Return 16 hex digits that identify the order of the epoch."""
        return hashlib.blake2b(np.ascontiguousarray(self.order(), np.int64).tobytes(), digest_size=8).hexdigest()

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        rows = self.order()
        if self.shuffle:
            rows = np.resize(rows, len(self) * self.world_size)  # repeats from the front
        skip, self.skip = self.skip, 0
        items = np.stack([rows, occurrences(rows)], axis=1)  # for the whole epoch, before each process takes its share
        own = items[self.rank :: self.world_size][skip:]
        for begin in range(0, len(own), 2**14):  # a million lists at once would take 200 MB
            for row, occurrence in own[begin : begin + 2**14].tolist():
                yield self.epoch, row, occurrence

    def _balanced(self, generator: np.random.Generator) -> np.ndarray:
        kinds = np.unique(self.balance)
        drawn = generator.integers(len(kinds), size=len(self.rows))
        picks = np.empty_like(self.rows)
        for index, kind in enumerate(kinds):
            places = np.flatnonzero(drawn == index)
            picks[places] = generator.choice(self.rows[self.balance == kind], size=len(places))
        return picks


def occurrences(rows: np.ndarray) -> np.ndarray:
    """Return (rows,) how often each row number came before in the list."""
    order = np.argsort(rows, kind="stable")
    places = np.arange(len(rows))
    is_first = np.diff(rows[order], prepend=-1) != 0
    before = np.empty_like(places)
    before[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return before


class ImageDataset(Dataset):
    """Return whole batches of pixels, augmented if an augmentation is given.

    An index is a list of EpochSampler's items. Its batch has `pixels` (B, 3, H, W) uint8 in channels-last memory, `labels`
    (B,) and `rows` (B,), both int64, and `weights` (B,) float32 if the catalog has them. With `augment_on_gpu` the pixels are
    not augmented, and the batch has `params` (B, P), the parameters that the augmentation has drawn. With `in_gpu_cache` it
    has no `pixels`, which are on the GPU already. With `mixes` it has `mix_seed`, a number drawn from the seed and the items.

    In a worker process, a batch whose augmentation fails is returned as its UserError, for StatefulDataLoader to raise: raised
    in the worker, it would arrive with a traceback as its message.
    """

    def __init__(
        self,
        catalog: Catalog,
        cache: PixelCache,
        augmentation: Augmentation | TransformList | None,
        seed: int,
        augment_on_gpu: bool = False,
        in_gpu_cache: bool = False,
        mixes: bool = False,
    ):
        self.labels = torch.from_numpy(catalog.labels.astype(np.int64))
        self.weights = None if catalog.weights is None else torch.from_numpy(catalog.weights)
        self.cache = cache
        self.image_size = cache.image_size
        self.augmentation = augmentation
        self.seed = seed
        self.augment_on_gpu = augment_on_gpu
        self.in_gpu_cache = in_gpu_cache
        self.mixes = mixes

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, items: list[tuple[int, int, int]]) -> dict[str, torch.Tensor | int] | UserError:
        try:
            return self._batch(items)
        except UserError as error:
            if get_worker_info() is None:
                raise
            return error

    def _batch(self, items: list[tuple[int, int, int]]) -> dict[str, torch.Tensor | int]:
        batch = self._targets(items)
        params = []
        if self.augmentation is not None:
            params = [self.augmentation.draw(self.image_size, self._generator([item])) for item in items]
        if params and self.augment_on_gpu:
            batch["params"] = torch.tensor(params)
        if not self.in_gpu_cache:
            batch["pixels"] = as_batch(self._pixels(items, [] if self.augment_on_gpu else params))
        if self.mixes:
            batch["mix_seed"] = int(self._generator(items).integers(SEEDS))
        return batch

    def _targets(self, items: list[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([row for _, row, _ in items])
        weights = {} if self.weights is None else {"weights": self.weights[rows]}
        return {"labels": self.labels[rows], "rows": rows} | weights

    def _generator(self, items: list[tuple[int, int, int]]) -> np.random.Generator:
        """Return the generator for items of one epoch; a row that comes again in the epoch gets different numbers."""
        _, rows, occurrences_of_rows = zip(*(item[:3] for item in items), strict=True)
        key = [self.seed, items[0][0], *rows]
        if any(occurrences_of_rows):
            key += [NO_ROW, *occurrences_of_rows]
        return np.random.default_rng(key)

    def _pixels(self, items: list[tuple[int, int, int]], params: list[tuple[float, ...]]) -> np.ndarray:
        pixels = np.empty((len(items), self.image_size, self.image_size, 3), np.uint8)
        for place, item in enumerate(items):
            image = self._image(item)
            pixels[place] = self.augmentation.apply(image, params[place]) if params else image
        return pixels

    def _image(self, item: tuple[int, int, int]) -> np.ndarray:
        return self.cache[item[1]]


def workers_that_fit(wanted: int, batch_bytes: int) -> int:
    """Return `wanted` loader processes, or 0 if the shared memory is too small for their batches of `batch_bytes`."""
    needed = wanted * (BATCHES_AHEAD + 1) * batch_bytes
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return wanted
    log.warning(
        "datamodule.num_workers=%d needs %.0f MiB of shared memory, but %s has %.0f: images are loaded without workers",
        wanted, needed / 2**20, SHARED_MEMORY, free / 2**20,
    )  # fmt: skip
    return 0


class EpochBatches(BatchSampler):
    """Divide a pass into batches. If the run resumes with another batch size, the first batch may be shorter or longer.

    From then on, batches end where those of an uninterrupted pass end, so the last batch is the same.
    """

    @property
    def batches_done(self) -> int:
        """Number of batches of a whole pass that are done. One that lacks a single image counts; the next one takes it."""
        batches, images = divmod(self.sampler.skip, self.batch_size)
        return batches + (self.batch_size > 1 and images == self.batch_size - 1)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        size = (self.batches_done + 1) * self.batch_size - self.sampler.skip
        items = iter(self.sampler)
        while batch := list(islice(items, size)):
            if len(batch) == size or not self.drop_last:
                yield batch
            size = self.batch_size


class StatefulDataLoader(DataLoader):
    """Count the images of a pass, so a checkpoint in the middle of an epoch resumes with the next image.

    It can resume with any batch size and any number of processes and workers, but only in the same order.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, sampler: EpochSampler, drop_last: bool = False, **options):
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, drop_last=drop_last, **options)
        self.seen = 0  # images that this process was given in the pass
        self._unreadable: set[str] = set()  # errors that were shown
        # Replaces torch's batch sampler, whose first batch has no other size; DataLoader accepts one only without a sampler
        self.__dict__["batch_sampler"] = EpochBatches(sampler, batch_size, drop_last)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.seen = self.sampler.skip
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            self.seen += len(batch["labels"])
            self._warn_of_unreadable(batch.pop("unreadable", []))
            yield batch

    def _warn_of_unreadable(self, errors: list[str]) -> None:
        """Show which images of a stream (datamodules/streams.py) were replaced, each once and at most SHOWN of them."""
        for error in errors:
            if error not in self._unreadable and len(self._unreadable) < SHOWN:
                self._unreadable.add(error)
                more = "; more of them are not shown" if len(self._unreadable) == SHOWN else ""
                log.warning("datamodule.on_unreadable=skip: replaced by another image: %s%s", error, more)

    @property
    def images(self) -> int:
        """Number of images in a whole pass of this process."""
        return len(self.sampler) - (len(self.sampler) % self.batch_size if self.drop_last else 0)

    def state_dict(self) -> dict[str, int | str]:
        """Return the position for a checkpoint; Lightning's protocol for a loader that can resume."""
        if not 0 < self.seen < self.images:  # not begun, or finished
            return {"images": 0}
        return {
            "images": self.seen * self.sampler.world_size,
            "batch_size": self.batch_size,
            "order": self.sampler.digest(),
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Skip in the next pass the images that were seen before.

        Raises:
            UserError: the rest of the epoch would have other images in this command, or too few.
        """
        processes = self.sampler.world_size
        if "batches" in state:  # a checkpoint of an older version
            state = {"images": state["batches"] * self.batch_size * processes}
        images = state["images"]
        if type(images) is not int or images < 0:
            raise UserError(
                f"ckpt_path: the number of images seen in its epoch is {str(images)[:60]!r}; use another checkpoint"
            )
        if not images:
            return
        began = f"ckpt_path: it was saved after {images:,} images of an epoch"
        if images % processes:
            raise UserError(
                f"{began}, which cannot be divided among {processes} processes; resume with the run's own trainer.devices"
            )
        if "order" in state and state["order"] != self.sampler.digest():
            raise UserError(
                f"{began}, but this command has other images or another order; resume with the run's own "
                f"{self.sampler.follows_from} (batch_size and num_workers may differ)"
            )
        skip = images // processes
        if self.images - skip < min(2, self.batch_size):
            raise UserError(
                f"{began}, but an epoch of this command has {self.images * processes:,}, so no batch is left; resume with the "
                f"run's own datamodule.batch_size={state.get('batch_size', self.batch_size)} and trainer.limit_train_batches"
            )
        self.sampler.skip = skip


def keep_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate nothing: the data set already returns batches."""
    return batch
