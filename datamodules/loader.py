"""From rows to batches: which rows in which order, and their pixels."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.normalize import as_batch
from datamodules.pixel_cache import PixelCache
from datamodules.sources.catalog import Catalog
from datamodules.transforms import Augmentation, AugmentationParams, apply

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 2  # of each worker; torch's default


class EpochSampler(Sampler):
    """Rows of a split for one of `world_size` processes, as (epoch, row) pairs.

    Shuffled: the order follows from (seed, epoch) alone; all processes take equally many, for which the last few rows
    may be filled up from the front (their gradients are averaged step by step). Not shuffled: every row exactly once
    over all processes, so that metrics summed over them are exact.

    With `balance`, the labels (rows,) of the rows, as many rows are drawn with replacement, all classes equally likely.
    """

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
        self.skip = 0  # rows of the next pass that were seen before

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return -(-len(self.rows) // self.world_size)
        return len(range(self.rank, len(self.rows), self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rows = self.rows
        if self.shuffle:
            generator = np.random.default_rng((self.seed, self.epoch))
            rows = self._balanced(generator) if self.balance is not None else generator.permutation(rows)
            rows = np.resize(rows, len(self) * self.world_size)  # repeats from the front
        skip, self.skip = self.skip, 0
        for row in rows[self.rank :: self.world_size][skip:]:
            yield self.epoch, int(row)

    def _balanced(self, generator: np.random.Generator) -> np.ndarray:
        kinds = np.unique(self.balance)
        drawn = generator.integers(len(kinds), size=len(self.rows))
        picks = np.empty_like(self.rows)
        for index, kind in enumerate(kinds):
            places = np.flatnonzero(drawn == index)
            picks[places] = generator.choice(self.rows[self.balance == kind], size=len(places))
        return picks


class ImageDataset(Dataset):
    """Whole batches of pixels, augmented where an augmentation is given.

    An item is a list of (epoch, row) pairs; it gives `pixels` (B, 3, H, W) uint8 in channels-last memory, `labels` (B,)
    and `rows` (B,), both int64, `weights` (B,) float32 where the catalog has them, and with `on_device` the `draws`
    (B, len(Draw)) that are left to the device; with `resident` no `pixels`, since they are there already.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: PixelCache,
        augmentation: Augmentation | None,
        seed: int,
        on_device: bool = False,
        resident: bool = False,
    ):
        self.labels = torch.from_numpy(catalog.labels.astype(np.int64))
        self.weights = None if catalog.weights is None else torch.from_numpy(catalog.weights)
        self.store = store
        self.augmentation = augmentation
        self.seed = seed
        self.on_device = on_device
        self.resident = resident

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([row for _, row in items])
        batch = {"labels": self.labels[rows], "rows": rows}
        if self.weights is not None:
            batch["weights"] = self.weights[rows]
        draws = [self._draw(epoch, row) for epoch, row in items] if self.augmentation is not None else []
        if draws and self.on_device:
            batch["draws"] = torch.tensor(draws)
        if not self.resident:
            batch["pixels"] = as_batch(self._pixels(rows.tolist(), [] if self.on_device else draws))
        return batch

    def _draw(self, epoch: int, row: int) -> AugmentationParams:
        return self.augmentation.draw(self.store.image_size, np.random.default_rng((self.seed, epoch, row)))

    def _pixels(self, rows: list[int], draws: list[AugmentationParams]) -> np.ndarray:
        side = self.store.image_size
        pixels = np.empty((len(rows), side, side, 3), np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = apply(self.store[row], draws[place]) if draws else self.store[row]
        return pixels


def workers_that_fit(wanted: int, batch_bytes: int) -> int:
    """`wanted` loader processes, or none where the shared memory that they hand batches over in is too small."""
    needed = wanted * (BATCHES_AHEAD + 1) * batch_bytes
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return wanted
    log.warning(
        "datamodule.num_workers=%d needs %.0f MiB of shared memory and %s has %.0f: images are loaded without workers",
        wanted, needed / 2**20, SHARED_MEMORY, free / 2**20,
    )  # fmt: skip
    return 0


class StatefulDataLoader(DataLoader):
    """Knows how many batches of a pass it has given, so that a checkpoint in the middle of an epoch goes on with the next."""

    given = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        skipped = self.sampler.skip // self.batch_size
        for number, batch in enumerate(super().__iter__(), start=skipped + 1):
            self.given = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Lightning's protocol of a loader that can go on."""
        return {"batches": self.given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.skip = state["batches"] * self.batch_size


def keep_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate function: the data set already gives batches."""
    return batch
