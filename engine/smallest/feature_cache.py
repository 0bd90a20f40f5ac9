"""Features of a pass over the images, kept on disk, so that another metric or number of folds needs no second pass."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from common.atomic_io import atomic_open, tolerate_disk_errors

log = logging.getLogger(__name__)

LARGEST_GIB = 2.0  # of all files, within datamodule.cache_max_gib; the least recently used files are removed
VERSION = 1  # of the computation of features


def weights_name(weights: Mapping[str, Tensor]) -> str:
    """Return hex digits that name the weights of a network, its state dict."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Keep (N, C) float32 features of each cut in one file, named by a hash of everything they depend on.

    Args:
        folder: folder of the files, shared by all searches.
        key: what the features depend on.
        limit_gib: size of all files together; 0: nothing is kept.
    """

    def __init__(self, folder: Path, key: Sequence[object], limit_gib: float):
        name = hashlib.blake2b(f"{VERSION} {list(map(str, key))}".encode(errors="surrogateescape"), digest_size=12)
        self.path = folder / f"{name.hexdigest()}.npz"
        self.limit = int(min(limit_gib, LARGEST_GIB) * 2**30)

    def load(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[np.ndarray], float, str | None] | None:
        """Return the features, the seconds of their pass and any disturbance; None if they are missing or damaged."""
        if not self.path.is_file():
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                features = [held[f"f{index}"] for index in range(len(shapes))]
                seconds = float(held["seconds"])
                flag = (str(held["flag"]) if "flag" in held else "") or None  # earlier versions had no flag
        except Exception as error:  # numpy and zipfile raise many types of errors on a damaged file
            log.info("%s: damaged (%s); the features are computed again", self.path, error)
            return None
        if [each.shape for each in features] != list(shapes) or any(each.dtype != np.float32 for each in features):
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return features, seconds, flag

    def save(self, features: Sequence[np.ndarray], seconds: float, flag: str | None = None) -> None:
        """Keep features, unless they exceed the limit; a full disk does no harm."""
        needed = sum(each.nbytes for each in features)
        if needed > self.limit:
            return
        with tolerate_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(needed)
            with atomic_open(self.path, "wb") as file:
                np.savez(
                    file, seconds=seconds, flag=flag or "", **{f"f{index}": each for index, each in enumerate(features)}
                )

    def _make_room(self, needed: int) -> None:
        files = []
        for file in self.path.parent.glob("*.npz"):
            with contextlib.suppress(FileNotFoundError):  # removed by another process in between
                status = file.stat()
                files.append((status.st_mtime, file, status.st_size))
        total = needed + sum(size for _, _, size in files)
        for _, file, size in sorted(files):
            if total <= self.limit:
                return
            file.unlink(missing_ok=True)
            total -= size
