import contextlib

import pytest
import torch

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from common.errors import UserError
from lightning_modules.checkpoint import epochs_done
from lightning_modules.image_classifier import ImageClassifier
from tests.support.helpers import SIMPLE_CNN, at_step


def test_the_best_epoch_is_one_of_the_last_where_that_is_configured(train, monkeypatch):
    accuracies = iter([0.9, 0.8, 0.3, 0.5, 0.5, 0.5])
    usual = ImageClassifier.log
    monkeypatch.setattr(
        ImageClassifier,
        "log",
        lambda self, name, value, **o: usual(self, name, next(accuracies) if name == "val/accuracy" else value, **o),
    )
    fraction = "callbacks.best_checkpoint.select_after_fraction=0.5"
    ran = train(fraction, "trainer.max_epochs=5", "stages=[fit]", *SIMPLE_CNN, "logger=none")
    assert ran.status == 0, ran.err
    assert ran.record.best.epoch == 4 and ran.record.best.value == 0.5  # of the third to the fifth
    assert epochs_done(ran.folder / "checkpoints" / "best.ckpt") == 4


def test_the_last_state_is_kept_after_so_many_minutes_too(train, monkeypatch, tmp_path):
    def stop():
        raise KeyboardInterrupt

    at_step(monkeypatch, 2, stop)
    with contextlib.suppress(KeyboardInterrupt):
        train("callbacks.last_checkpoint.every_n_minutes=1e-6", "stages=[fit]", *SIMPLE_CNN, "logger=none")
    last = tmp_path / "run0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1  # the first of three steps an epoch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BestCheckpoint(monitor="val/loss", select_after_fraction=1),
            "callbacks.best_checkpoint.select_after_fraction=1: use a share from 0 to below 1",
        ),
        (
            lambda: LastCheckpoint(every_n_minutes=0),
            "callbacks.last_checkpoint.every_n_minutes=0: use more than 0, or null for never",
        ),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
