"""All images of a run on a GPU, so training moves only row numbers and augmentation parameters there."""

import logging

import torch
from torch import Tensor

from datamodules.pixel_cache import PixelCache

log = logging.getLogger(__name__)

CHUNK = 256  # images that are copied at once


def free_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def fits_on_gpu(cache: PixelCache, limit_gib: float, free: int) -> bool:
    """Return whether the images, as uint8, take at most `limit_gib` and half of the `free` bytes: training needs room too."""
    needed = len(cache) * cache.image_size**2 * 3
    if needed > limit_gib * 2**30:
        return False
    if needed > free / 2:
        log.warning(
            "the images would take %.1f GiB of GPU memory, over half of the %.1f GiB that are free: each batch is copied to "
            "the GPU instead", needed / 2**30, free / 2**30,
        )  # fmt: skip
        return False
    return True


def copy_to_gpu(cache: PixelCache, device: torch.device) -> Tensor:
    """Return every row of the cache, (N, H, W, 3) uint8, on the device."""
    side = cache.image_size
    pixels = torch.empty((len(cache), side, side, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(cache), CHUNK):
        rows = range(start, min(start + CHUNK, len(cache)))
        pixels[start : rows.stop] = torch.stack([torch.from_numpy(cache[row]) for row in rows]).to(device)
    return pixels
