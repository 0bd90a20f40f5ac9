"""What a network responds to in one image of the split that a run evaluates last."""

import pytest
from PIL import Image

from callbacks import feature_maps
from tests.support.helpers import SIMPLE_CNN


@pytest.mark.parametrize(
    ("settings", "split"),
    [
        (["stages=[fit]"], "val"),
        pytest.param(["datamodule.folds=2", "datamodule.fold=0"], "val", marks=pytest.mark.thorough),
        pytest.param(["stages=[fit,test]"], "test", marks=pytest.mark.thorough),
    ],
)
def test_every_run_that_asks_for_feature_maps_has_them(train, monkeypatch, settings, split):
    shown = []
    rows_of_images = feature_maps.rows_of_images
    monkeypatch.setattr(feature_maps, "rows_of_images", lambda rows: shown.append(rows[0][0]) or rows_of_images(rows))
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", "callbacks.feature_maps.enabled=true", *settings)
    assert ran.status == 0, ran.err
    assert shown[-1].startswith(f"One {split} image")
    with Image.open(ran.folder / "feature_maps.png") as image:
        assert image.width > 100
