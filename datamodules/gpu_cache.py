"""All images of a run on a GPU: row numbers and draws are all that moves there in training."""

import logging

import torch
from torch import Tensor

from datamodules.pixel_cache import PixelCache

log = logging.getLogger(__name__)

CHUNK = 256  # images that move at once


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def fits_on_gpu(store: PixelCache, limit_gib: float, free_bytes: int) -> bool:
    """Whether the images, as uint8, take no more than the limit and than half of what is free: training needs room too."""
    needed = len(store) * store.image_size**2 * 3
    if needed > limit_gib * 2**30:
        return False
    if needed > free_bytes / 2:
        log.warning(
            "the images would take %.1f GiB of the GPU, of which %.1f are free: each batch is moved there",
            needed / 2**30,
            free_bytes / 2**30,
        )
        return False
    return True


def copy_to_gpu(store: PixelCache, device: torch.device) -> Tensor:
    """Every row of the store, (N, H, W, 3) uint8."""
    side = store.image_size
    pixels = torch.empty((len(store), side, side, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(store), CHUNK):
        rows = range(start, min(start + CHUNK, len(store)))
        pixels[start : rows.stop] = torch.stack([torch.from_numpy(store[row]) for row in rows]).to(device)
    return pixels


def gather_batch(pixels: Tensor, rows: Tensor) -> Tensor:
    """(N, H, W, 3) and rows (B,) to (B, 3, H, W) in channels-last memory."""
    return pixels[rows.to(pixels.device)].permute(0, 3, 1, 2)
