"""The LightningDataModule: which pictures, split how, resized, augmented and normalised."""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .augmentation import Augmentation
from .catalog import Catalog, check_splits
from .elpv import elpv_catalog
from .folders import folder_catalog
from .loading import PictureDataset, RowSampler, as_it_is
from .pixels import PixelStore, open_store

log = logging.getLogger(__name__)

# Mean and standard deviation of ImageNet's pictures, as torchvision's weights expect them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageDataModule(L.LightningDataModule):
    """Batches of pictures from one catalog.

    Args:
        source: `elpv`, or `image_folder` for the pictures under `root`.
        root: folder of the user's own pictures.
        image_size: pixels, height and width after resizing.
        batch_size: pictures a batch, for each process.
        num_workers: loader processes; 0 decodes nothing twice and is the fastest where there are only two cores.
        seed: of the splits, the order and the augmentation.
        cache: folder of the pixel stores.
    """

    def __init__(
        self,
        *,
        source: Literal["elpv", "image_folder"],
        root: str | None = None,
        image_size: int,
        batch_size: int,
        num_workers: int,
        augmentation: Augmentation,
        seed: int,
        cache: str,
    ):
        super().__init__()
        for name, value, least in (
            ("datamodule.batch_size", batch_size, 1),
            ("datamodule.num_workers", num_workers, 0),
            ("model.image_size", image_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: use {least} or more")
        self.source = source
        self.root = root
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.seed = seed
        self.cache = Path(cache)
        self.mean, self.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        self.store: PixelStore | None = None

    @functools.cached_property
    def catalog(self) -> Catalog:
        """Which pictures there are and how they are split; opens none of them.

        Raises:
            ValueError: what is wrong with the folders or the batch size.
        """
        catalog = elpv_catalog(self.seed) if self.source == "elpv" else folder_catalog(Path(self.root), self.seed)
        check_splits(catalog)
        n_train = len(catalog.rows("train"))
        if self.batch_size > n_train:
            raise ValueError(
                f"datamodule.batch_size={self.batch_size} is larger than the train split ({n_train} "
                f"pictures); use {n_train} or fewer"
            )
        log.info("%s: %s; classes %s", catalog.name, catalog.describe(), ", ".join(catalog.classes))
        return catalog

    def prepare_data(self) -> None:
        """Builds the pixel store where it is not there yet; Lightning calls it in one process of a machine."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Opens the pixel store and writes nothing else; called again, it does nothing."""
        self._open()

    def _open(self) -> None:
        if self.store is None:
            files = [self.catalog.root / path for path in self.catalog.paths]
            self.store = open_store(files, self.image_size, self.cache / "pixels")

    def fingerprint(self) -> str:
        """16 hex digits that name the data set: pictures, labels and splits, whatever the files are called."""
        rows = zip(self.store.fingerprints, self.catalog.labels, self.catalog.splits, strict=True)
        lines = sorted(f"{picture} {self.catalog.classes[label]} {split}" for picture, label, split in rows)
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()

    @property
    def has_test(self) -> bool:
        return len(self.catalog.rows("test")) > 0

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", shuffle=False)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Pixels to normalised floats, on the device: uint8 is a quarter of the bytes to move."""
        batch["pixels"] = normalise(batch["pixels"], self.mean, self.std)
        return batch

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = RowSampler(
            self.catalog.rows(split), shuffle=shuffle, seed=self.seed, rank=rank, world_size=world_size
        )
        dataset = PictureDataset(self.catalog, self.store, self.augmentation if shuffle else None, self.seed)
        single_left = shuffle and self.batch_size > 1 and len(sampler) % self.batch_size == 1
        if single_left:
            log.warning("the last training batch would hold a single picture, too few for batch norm: it is left out, "
                        "another one each epoch")  # fmt: skip
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            drop_last=single_left,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def normalise(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(B, 3, H, W) uint8 of 0 to 255 -> float with each channel (value / 255 - mean) / std; memory layout is kept."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (mean, std))
    return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)
