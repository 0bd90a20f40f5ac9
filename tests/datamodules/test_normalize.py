import numpy as np
import pytest
import torch

from datamodules.normalize import as_batch, channel_statistics, normalize, without_flat_channels
from tests.support.configs import data_module


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


@pytest.mark.parametrize("gray", [False, True])
def test_statistics_are_those_of_all_pixels_at_once(gray):
    images = np.random.default_rng(0).integers(90, 131, (9, 40, 30, 3), dtype=np.uint8)
    images[:3] //= 40
    images = np.repeat(images[..., :1], 3, axis=3) if gray else images
    mean, std = channel_statistics(images)
    pixels = images.reshape(-1, 3) / 255
    assert mean == pytest.approx(pixels.mean(0), abs=1e-12) and std == pytest.approx(pixels.std(0), abs=1e-12)


def test_a_channel_of_one_value_is_not_divided_by_nothing(caplog):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    images[..., 2] = 7
    mean, std = channel_statistics(images)
    safe = without_flat_channels(std)
    assert safe[:2] == std[:2] and safe[2] == 1 and mean[2] == pytest.approx(7 / 255)
    (line,) = caplog.messages
    assert "hardly vary in blue" in line and "\n" not in line
    assert without_flat_channels([0.2, 0.2, 0.2]) == [0.2, 0.2, 0.2] and len(caplog.messages) == 1


def test_dataset_is_of_the_training_images_of_this_fold_only(two_colors, tmp_path):
    found = []
    for fold, fraction in ((None, 1), (0, 1), (1, 1), (None, 0.5)):
        rules = {"folds": None if fold is None else 3, "fold": fold, "train_fraction": fraction}
        data = data_module(two_colors, tmp_path, **rules, mean=None, std=None)
        data.setup()
        rows = data.catalog.rows("train")
        pixels = np.stack([data.pixel_cache[int(row)] for row in rows]).reshape(-1, 3) / 255
        assert data.mean == pytest.approx(pixels.mean(0), abs=1e-6)
        assert data.std == pytest.approx(pixels.std(0), abs=1e-6)
        (batch,) = (b for i, b in enumerate(data.val_dataloader()) if i == 0)
        seen = data.on_after_batch_transfer(batch, 0)["pixels"]
        assert torch.isfinite(seen).all() and 0.2 < seen.std() < 5
        found.append(tuple(data.mean))
    assert len(set(found)) == 4
