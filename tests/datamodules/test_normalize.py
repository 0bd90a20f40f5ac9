import numpy as np
import torch

from datamodules.normalize import as_batch, normalize


def test_a_batch_is_the_same_memory_and_its_values_are_normalized_by_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    batch = as_batch(pixels)
    assert batch.shape == (2, 3, 5, 4) and batch.is_contiguous(memory_format=torch.channels_last)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.5])
    result = normalize(batch, mean.tolist(), std.tolist())
    expected = (pixels / 255 - mean) / std
    assert np.abs(result.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-6
    pixels[0, 0, 0, 0] ^= 255
    assert batch[0, 0, 0, 0] == pixels[0, 0, 0, 0] and batch.dtype == torch.uint8
