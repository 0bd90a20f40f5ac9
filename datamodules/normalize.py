"""From the pixels of a batch to the input of a network: the one place for training, prediction and export."""

import logging
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

FLAT = 1 / 255  # dividing by a std below one gray level would turn the smallest change into a huge one


def as_batch(pixels: np.ndarray) -> Tensor:
    """Return (B, H, W, 3) uint8 as a view (B, 3, H, W) in channels-last memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalize(pixels: Tensor, mean: list[float] | Tensor, std: list[float] | Tensor) -> Tensor:
    """Turn (B, 3, H, W) uint8 into float, each channel (value / 255 - mean) / std; channels-last memory is kept."""
    mean, std = (torch.as_tensor(values, device=pixels.device) for values in (mean, std))
    lines = pixels.permute(0, 2, 3, 1)  # (B, H, W, 3)
    width = lines.shape[2]
    scale, shift = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
    # Whole lines of W x 3 values; three values at a time would take six times as long
    values = lines.flatten(2).float()
    torch.addcmul(shift, values, scale, out=values)  # in place: another batch of floats would take as long as the sum
    return values.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def channel_statistics(images: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Return the exact mean and std of each channel of (H, W, 3) uint8 images, as shares of 1; hold one image at a time."""
    counts = np.zeros((3, 256), np.int64)
    for image in images:
        counts += np.array(Image.fromarray(image).histogram()).reshape(3, 256)
    shares, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    return mean.tolist(), np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1)).tolist()


def without_flat_channels(std: list[float]) -> list[float]:
    """Return the std with 1 for channels that hardly vary, with a warning."""
    flat = [name for name, each in zip(("red", "green", "blue"), std, strict=True) if each < FLAT]
    if flat:
        log.warning(
            "model.normalization=dataset: the training images hardly vary in %s (std %.2g), so a std of 1 is used",
            " and ".join(flat), min(std),
        )  # fmt: skip
    return [1.0 if each < FLAT else each for each in std]
