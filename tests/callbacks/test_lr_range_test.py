"""The rate that is chosen, and that nothing else of the run is changed by it."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks.lr_range_test import LRRangeTest
from common.errors import UserError
from common.untrusted.tables import read_csv
from tests.support.helpers import SIMPLE_CNN, at_step, outcome

TEST = ("callbacks.lr_range_test.enabled=true", "callbacks.lr_range_test.steps=30")
SETTINGS = {"enabled": True, "steps": 30, "low": 1e-5, "high": 1, "divide_by": 10}


def losses(folder):
    return [[float(row[name]) for name in ("train/loss", "val/loss")] for row in read_csv(folder / "metrics.csv")]


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("options", [
    (*SIMPLE_CNN, "scheduler=none", "optimizer=sgd_momentum"),
    (*SIMPLE_CNN, "scheduler=cosine", "augmentation=trivial_augment"),
    (*SIMPLE_CNN, "scheduler=plateau", "trainer.gradient_clip_val=1"),
    ("recipe=fast", "model.weights=PRETRAINED"),
], ids=["none", "cosine", "plateau", "fast"])  # fmt: skip
def test_the_run_is_that_of_the_chosen_rate_from_the_start(train, pretrained, options):
    options = [each.replace("PRETRAINED", str(pretrained)) for each in options]
    tested = train(*options, *TEST, "callbacks.lr_range_test.divide_by=4", "optimizer.lr=0.0001")
    assert tested.status == 0, tested.err
    found = tested.record.lr_range_test
    assert len(found.rates) == len(found.changes) <= 30 and found.lr == found.rates[np.argmin(found.changes)] / 4
    assert f"lr range test: learning rate {found.lr:.3g} in place of 0.0001: the loss is lowest at" in tested.out
    typed = train(*options, f"optimizer.lr={found.lr!r}")
    assert typed.record.lr_range_test is None
    for one, other in zip(losses(tested.folder), losses(typed.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    groups = [
        [group["lr"] for group in state(ran.folder)["optimizer_states"][0]["param_groups"]] for ran in (tested, typed)
    ]
    assert groups[0] == pytest.approx(groups[1], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["one_cycle", "plateau"])
def test_interrupted_and_resumed_it_keeps_the_rate_to_the_bit(train, monkeypatch, scheduler):
    options = [*SIMPLE_CNN, *TEST, f"scheduler={scheduler}"]
    straight = train(*options)
    for step in (2, 5):
        at_step(monkeypatch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    ran = train(*options)
    while ran.status == 143:
        ran = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", small=False, to=ran.folder)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(ran.folder)
    assert ran.record.lr_range_test == straight.record.lr_range_test is not None


def test_a_run_that_has_begun_keeps_its_rate(train):
    first = train(
        *SIMPLE_CNN, *TEST[1:], "callbacks.lr_range_test.enabled=false", "trainer.max_epochs=1", "stages=[fit]"
    )
    last = f"ckpt_path={first.folder}/checkpoints/last.ckpt"
    assert "LRRangeTest" not in state(first.folder)["callbacks"]
    ran = train(last, *TEST, "trainer.max_epochs=2", "stages=[fit]", small=False, to=first.folder)
    assert ran.status == 0, ran.err
    assert "callbacks.lr_range_test: skipped, since the training has begun without it" in ran.out + ran.err


def chosen(monkeypatch, trained, **settings):
    """Choose from these losses of the trained copy, whose start has a loss of 1 everywhere."""
    monkeypatch.setattr(
        LRRangeTest, "_losses", lambda self, trainer, module, factors: iter([1.0] * 30 if factors is None else trained)
    )
    scaled = []
    module = SimpleNamespace(base_lrs=[0.01, 0.001], device=torch.device("cpu"), scale_lr=scaled.append)
    trainer = SimpleNamespace(global_step=0, strategy=SimpleNamespace(broadcast=lambda value: value))
    test = LRRangeTest(**SETTINGS | settings)
    test.on_train_start(trainer, module)
    return test.found, scaled


RATES = np.geomspace(1e-5, 1, 30)


def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss(monkeypatch):
    found, scaled = chosen(monkeypatch, 0.5 + (np.arange(30) - 18) ** 2 / 100)
    assert found.lr == pytest.approx(RATES[18] / 10) and scaled == [pytest.approx(found.lr / 0.01)]


def test_it_ends_where_the_loss_is_four_times_as_large_or_nan(monkeypatch):
    for end in (4.5, float("nan")):
        found, _ = chosen(monkeypatch, [*np.linspace(1, 0.5, 20), end, 0.1, *[0.0] * 8])
        assert len(found.rates) == 20 and found.lr == pytest.approx(RATES[19] / 10)


@pytest.mark.parametrize(
    "trained", [[1.0] * 30, np.linspace(1, 3, 30), [float("inf")] * 30], ids=["flat", "up", "at once"]
)
def test_without_a_lower_loss_the_rate_stays(monkeypatch, caplog, trained):
    found, scaled = chosen(monkeypatch, trained)
    assert found.lr is None and scaled == []
    assert "callbacks.lr_range_test: no rate lowers the loss, so optimizer.lr=0.01 stays" in caplog.text


@pytest.mark.parametrize("found", [
    3, {"lr": 0.1}, {"lr": "1", "rates": [], "changes": []}, {"lr": 0, "rates": [], "changes": []},
    {"lr": 0.1, "rates": ["a"], "changes": []}, {"lr": 0.1, "rates": [], "changes": {}},
], ids=str)  # fmt: skip
def test_a_malformed_state_is_refused(found):
    with pytest.raises(UserError, match="its lr_range_test is malformed"):
        LRRangeTest(**SETTINGS).load_state_dict({"found": found})


@pytest.mark.parametrize(("settings", "message"), [
    ({"steps": 5}, r"steps=5: use 10 to 10,000"), ({"low": 2}, r"low=2 and high=1: use two rates"),
    ({"low": 0}, r"low=0 and high=1: use two rates"), ({"divide_by": 0}, r"divide_by=0: use 1 or more"),
])  # fmt: skip
def test_bad_values_are_named(settings, message):
    with pytest.raises(UserError, match=f"callbacks.lr_range_test.{message}"):
        LRRangeTest(**SETTINGS | settings)
