"""From the pixels of a batch to the input of a network: the one place, for training, prediction and export alike."""

import numpy as np
import torch
from torch import Tensor


def as_batch(pixels: np.ndarray) -> Tensor:
    """View (B, H, W, 3) uint8 as (B, 3, H, W) of the same memory, which is channels-last then."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalize(pixels: Tensor, mean: list[float] | Tensor, std: list[float] | Tensor) -> Tensor:
    """Turn (B, 3, H, W) uint8 into float, each channel (value / 255 - mean) / std; channels-last memory is kept."""
    mean, std = (torch.as_tensor(values, device=pixels.device) for values in (mean, std))
    lines = pixels.permute(0, 2, 3, 1)  # (B, H, W, 3)
    width = lines.shape[2]
    scale, shift = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
    # Whole lines of W x 3 values: three at a time would cost six times as much
    values = lines.flatten(2).float()
    torch.addcmul(shift, values, scale, out=values)  # a second batch of floats would cost as much time as the sum
    return values.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
