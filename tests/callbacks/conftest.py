"""A prepared data module, and a trainer that is a plain object."""

from itertools import chain, repeat
from types import SimpleNamespace

import pytest

from lightning_modules.image_classifier import ImageClassifier
from tests.support.configs import data_module


@pytest.fixture
def small_data(tmp_path, two_colors):
    """Open two_colors at 32 pixels without augmentation."""
    small = ("model.image_size=32", "datamodule.batch_size=8", "augmentation=none")
    data = data_module(two_colors, tmp_path / "cache", *small)
    data.setup()
    return data


@pytest.fixture
def fake_trainer(small_data):
    """What the callbacks ask of a trainer before the first step."""
    return SimpleNamespace(
        datamodule=small_data,
        global_step=0,
        strategy=SimpleNamespace(batch_to_device=lambda batch, device: small_data.on_after_batch_transfer(batch, 0)),
    )


@pytest.fixture
def given(monkeypatch):
    """Give validations made-up metrics, one after the other and the last one from then on: `given(accuracy=[0.5, 0.7])`."""
    usual = ImageClassifier.log

    def give(**metrics):
        values = {f"val/{name}": chain(each, repeat(each[-1])) for name, each in metrics.items()}

        def log(self, name, value, **options):
            usual(self, name, next(values[name]) if name in values else value, **options)

        monkeypatch.setattr(ImageClassifier, "log", log)

    return give
