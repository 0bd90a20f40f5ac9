from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.progressive_resizing import ProgressiveResizing
from common.errors import UserError
from lightning_modules.image_classifier import ImageClassifier


def test_training_starts_with_smaller_images_and_val_has_full_size(train, monkeypatch):
    seen = []
    usual = ImageClassifier.forward
    monkeypatch.setattr(
        ImageClassifier, "forward", lambda self, x: seen.append((self.training, x.shape[-1])) or usual(self, x)
    )
    resizing = [f"callbacks.progressive_resizing.{key}" for key in ("initial_scale=0.75", "epoch_fraction=0.7")]
    ran = train(*resizing, "stages=[fit]")
    assert ran.status == 0, ran.err
    assert [side for training, side in seen if training] == 3 * [24] + 3 * [32]  # two epochs of three steps
    assert {side for training, side in seen if not training} == {32}


@pytest.mark.thorough
def test_the_share_of_a_time_limit_counts_too(train, monkeypatch):
    seen = []
    usual = ImageClassifier.training_step
    monkeypatch.setattr(
        ImageClassifier, "training_step", lambda self, b, i: seen.append(b["pixels"].shape[-1]) or usual(self, b, i)
    )
    monkeypatch.setattr("lightning_modules.epoch_end.time_share", lambda trainer: trainer.current_epoch / 2)
    resizing = [f"callbacks.progressive_resizing.{key}" for key in ("initial_scale=0.75", "epoch_fraction=0.4")]
    ran = train(*resizing, "trainer.max_epochs=5", "stages=[fit]")
    assert ran.status == 0, ran.err
    assert seen == 3 * [24] + 12 * [32]  # by the epochs the first two would be small
    assert not any("full size" in text for text in ran.record.run.warnings)


def test_a_training_that_ends_before_images_in_full_size_warns(train):
    stopping = [f"callbacks.early_stopping.{key}" for key in ("min_delta=9", "patience=1")]
    resizing = "callbacks.progressive_resizing.initial_scale=0.75"
    ran = train("callbacks=early_stopping", *stopping, resizing, "trainer.max_epochs=9", "stages=[fit]")
    assert ran.status == 0, ran.err
    assert any("ended before it used images in full size" in text for text in ran.record.run.warnings)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_smaller_images_are_resized_as_all_are(small_data, interpolation):
    small_data.interpolation, small_data.train_size = interpolation, 24
    small_data.trainer = SimpleNamespace(training=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    batch = {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2)}
    seen = small_data.on_after_batch_transfer(batch, 0)["pixels"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (small_data.mean, small_data.std))
    levels = ((seen * std + mean) * 255).permute(0, 2, 3, 1).numpy()
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = np.stack([Image.fromarray(each).resize((24, 24), filter) for each in pixels])
    assert np.abs(levels - expected).max() < 1.01


def test_a_size_that_the_network_does_not_take_is_refused_before_images_are_read(train, monkeypatch):
    monkeypatch.setattr("engine.run.stages.read_images", lambda *_: pytest.fail("the images were read"))
    ran = train("model=simple_cnn", "callbacks.progressive_resizing.initial_scale=0.5", "stages=[fit]")  # of 32
    assert "initial_scale=0.5: this network does not take images of 16 x 16 pixels" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_scale": 0, "epoch_fraction": 0.5}, "initial_scale=0: use a share above 0"),
        ({"initial_scale": 0.5, "epoch_fraction": 1.5}, "epoch_fraction=1.5: use a share above 0"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(UserError, match=f"callbacks.progressive_resizing.{message}"):
        ProgressiveResizing(**options)
