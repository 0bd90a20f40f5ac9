"""Batch norms are validated and kept with the statistics of the weights, and resuming equals never having stopped."""

import os
import signal

import pytest
import torch

from callbacks.recalibrate_batch_norm import RecalibrateBatchNorm
from common.errors import UserError
from lightning_modules.checkpoint import load_classifier
from lightning_modules.networks.surgery import batch_norms
from tests.support.helpers import at_step, outcome, read_csv

ON = ("callbacks.recalibrate_batch_norm.enabled=true", "stages=[fit,test]")


def state(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def statistics(weights):
    return {name: value for name, value in weights.items() if "running_" in name}


@pytest.mark.thorough
@pytest.mark.parametrize("average", [[], ["callbacks.ema.enabled=true"]], ids=["weights", "average"])
def test_the_statistics_are_those_of_the_training_images(train, small_data, average):
    ran = train(*ON, *average, "callbacks.best_checkpoint.monitor=val/loss")
    assert ran.status == 0, ran.err
    best = ran.folder / "checkpoints" / "best.ckpt"
    model = load_classifier(best)
    for norm in batch_norms(model.network).values():
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    batches = list(small_data.unaugmented_train_dataloader())
    pixels = torch.cat([small_data.on_after_batch_transfer(batch, 0)["pixels"] for batch in batches])
    with torch.no_grad():
        model(pixels)
    for name, value in statistics(state(ran.folder, "best")).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-4)
    rows = read_csv(ran.folder / "metrics.csv")  # what was validated, kept and evaluated again is the same
    assert ran.record.val.loss == pytest.approx(min(float(row["val/loss"]) for row in rows), rel=1e-5)


@pytest.mark.thorough
def test_training_does_not_see_them(train):
    usual, other = train("stages=[fit]"), train(*ON, "stages=[fit]")
    before, after = state(usual.folder), state(other.folder)
    differ = {name.rsplit(".", 1)[1] for name in before if not torch.equal(before[name], after[name])}
    assert differ == {"running_mean", "running_var", "num_batches_tracked"}
    losses = [[row["train/loss"] for row in read_csv(ran.folder / "metrics.csv")] for ran in (usual, other)]
    assert losses[0] == losses[1]


@pytest.mark.thorough
def test_frozen_statistics_stay_and_the_epochs_before_are_validated_as_usual(train, pretrained):
    weights = [f"model.weights={pretrained}", "stages=[fit]"]
    frozen = train(*ON, *weights, "callbacks.freeze_batch_norm.enabled=true")
    assert "callbacks.recalibrate_batch_norm: no batch norm learns its statistics in epoch 1" in frozen.out + frozen.err
    usual = train(*weights)
    later = train(*ON, *weights, "callbacks.recalibrate_batch_norm.after_fraction=0.5")
    losses = [[row["val/loss"] for row in read_csv(ran.folder / "metrics.csv")] for ran in (usual, later)]
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


@pytest.mark.thorough
def test_the_share_of_a_time_limit_counts_too(train, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "callbacks.recalibrate_batch_norm.replace_statistics",
        lambda trainer, *_, **__: seen.append(trainer.current_epoch),
    )
    monkeypatch.setattr("lightning_modules.epoch_end.time_share", lambda trainer: trainer.current_epoch / 4)
    ran = train(*ON, "callbacks.recalibrate_batch_norm.after_fraction=0.4", "trainer.max_epochs=9", "stages=[fit]")
    assert ran.status == 0, ran.err
    assert seen == [2, 3, 4, 5, 6, 7, 8]  # by the epochs from the fourth one


@pytest.mark.slow
def test_with_all_that_changes_a_training_it_resumes_to_the_same_bits(train, monkeypatch, pretrained):
    """Head first, small images first, averaged weights and an epoch that is cut short by trainer.max_steps."""
    options = [f"model.weights={pretrained}", *ON, "callbacks.ema.enabled=true", "callbacks.linear_probe.steps=10"]
    options += ["callbacks.progressive_resizing.initial_scale=0.75", "trainer.max_steps=8", "trainer.max_epochs=3"]
    options += ["callbacks.recalibrate_batch_norm.augmented=true", "callbacks.recalibrate_batch_norm.images=20"]
    straight = train(*options)
    assert straight.status == 0, straight.err
    for step in (4, 6):  # in the second epoch, and at its end
        at_step(monkeypatch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    ran = train(*options)
    while ran.status == 143:
        last = f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}"
        ran = train(last, small=False, to=ran.folder)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(ran.folder)


@pytest.mark.parametrize(("options", "message"), [
    ({"images": 1}, "images=1: use 2 or more"), ({"after_fraction": 1}, "after_fraction=1: use a share from 0 to below 1"),
])  # fmt: skip
def test_bad_values_are_named(options, message):
    with pytest.raises(UserError, match=f"callbacks.recalibrate_batch_norm.{message}"):
        RecalibrateBatchNorm(**{"enabled": True, "images": 8, "after_fraction": 0, "augmented": False} | options)
