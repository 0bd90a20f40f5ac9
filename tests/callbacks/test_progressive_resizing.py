from types import SimpleNamespace

import pytest

from callbacks.progressive_resizing import ProgressiveResizing
from common.errors import UserError
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.registry import build_network


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


def test_a_network_of_one_size_cannot_have_smaller_images():
    network = build_network(network="simple_cnn", image_size=48, num_classes=2)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(image_size=48))
    with pytest.raises(UserError, match=r"initial_scale=0.5: this network does not take images of 24"):
        ProgressiveResizing(initial_scale=0.5, epoch_fraction=0.5).setup(
            trainer, SimpleNamespace(network=network), "fit"
        )


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
