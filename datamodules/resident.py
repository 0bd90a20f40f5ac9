"""All pictures of a run on a GPU: row numbers and draws are all that moves there in training."""

import torch
from torch import Tensor

from .pixels import PixelStore

CHUNK = 256  # pictures that move at once


def fits(store: PixelStore, limit_gib: float) -> bool:
    """Whether the pictures take no more than the limit, as uint8."""
    return len(store) * store.image_size**2 * 3 <= limit_gib * 2**30


def on_device(store: PixelStore, device: torch.device) -> Tensor:
    """Every row of the store, (N, H, W, 3) uint8."""
    side = store.image_size
    pixels = torch.empty((len(store), side, side, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(store), CHUNK):
        rows = range(start, min(start + CHUNK, len(store)))
        pixels[start : rows.stop] = torch.stack([torch.from_numpy(store[row]) for row in rows]).to(device)
    return pixels


def batch_of(pixels: Tensor, rows: Tensor) -> Tensor:
    """(N, H, W, 3) and rows (B,) to (B, 3, H, W) in channels-last memory."""
    return pixels[rows.to(pixels.device)].permute(0, 3, 1, 2)
