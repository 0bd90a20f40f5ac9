"""The study's recipe gives what it gave before the faster one, distillation and the other additions came."""

import csv

import pytest

from tests.support.helpers import NOT_DRAWN

# Written down with the code before them, by this very command; the same with one and with two threads
LOSSES = {
    "train/loss": [0.690329372882843, 0.6861586570739746, 0.6923229098320007],
    "val/loss": [0.6943604350090027, 0.6942453384399414, 0.6941090226173401],
}


def test_final_model_gives_the_same_losses_to_six_digits(train, two_colors, tmp_path):
    ran = train(
        "experiment=final_model",
        "datamodule=image_folder",
        f"datamodule.root={two_colors}",
        f"datamodule.cache={tmp_path / 'cache'}",
        "model.weights=null",
        "trainer=cpu",
        "trainer.precision=64-true",  # single precision differs in the fourth digit between thread counts
        "trainer.max_epochs=3",
        "stages=[fit]",
        *NOT_DRAWN,
        "overview=false",
        small=False,
    )
    rows = list(csv.DictReader((ran.folder / "metrics.csv").read_text().splitlines()))
    for name, losses in LOSSES.items():
        assert [float(row[name]) for row in rows] == pytest.approx(losses, rel=1e-6)
