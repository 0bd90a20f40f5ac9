import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from scipy.stats import norm
from torch import Tensor

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from callbacks.ema import EMA
from common.errors import UserError
from common.untrusted.tensors import read_safetensors
from lightning_modules.checkpoint import epochs_done
from tests.support.helpers import SIMPLE_CNN, Killed, at_step

FIT = ("stages=[fit]", *SIMPLE_CNN, "logger=none")


@pytest.mark.parametrize(("accuracy", "loss", "options", "epoch"), [
    ([0.9, 0.8, 0.3, 0.5, 0.5], [1.0] * 5, ["select_after_fraction=0.5"], 4),  # of the third to the fifth
    pytest.param([0.9, 0.8, 0.5, 0.5, 0.5], [0.1, 0.1, 0.4, 0.2, 0.3], ["select_after_fraction=0.5"], 4,
                 marks=pytest.mark.thorough),
    ([0.8, 0.9, 0.9, 0.9, 0.9], [0.1, 0.5, 0.3, 0.3, 0.4], [], 3),  # the lowest loss, of equal ones the earliest
    pytest.param([0.8, 0.9, 0.9, 0.8, 0.9], [0.5, 0.3, 0.4, 0.1, 0.2], [], 5, marks=pytest.mark.thorough),
    pytest.param([0.9, 0.9, 0.9, 0.9, 0.9], [float("inf"), 0.5, 0.6, 0.7, 0.8], [], 2, marks=pytest.mark.thorough),
    pytest.param([0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.3, 0.3, 0.4, 0.6], ["monitor=val/loss"], 2, marks=pytest.mark.thorough),
])  # fmt: skip
def test_the_best_epoch(train, given, accuracy, loss, options, epoch):
    given(accuracy=accuracy, loss=loss)
    ran = train(*(f"callbacks.best_checkpoint.{each}" for each in options), "trainer.max_epochs=5", *FIT)
    assert ran.status == 0, ran.err
    monitored = loss if options == ["monitor=val/loss"] else accuracy
    assert (ran.record.best.epoch, ran.record.best.value) == (epoch, pytest.approx(monitored[epoch - 1]))
    assert epochs_done(ran.folder / "checkpoints" / "best.ckpt") == epoch


def test_the_choice_starts_over_after_a_share_of_the_time_limit_and_of_a_longer_one(train, given, monkeypatch):
    """By a clock of the test, on which a step takes six seconds, and so an epoch eighteen."""
    done = []
    usual = Timer.on_train_batch_end
    monkeypatch.setattr(Timer, "on_train_batch_end", lambda *arguments: done.append(6.0) or usual(*arguments))
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: sum(done))
    given(accuracy=[0.9, 0.8, 0.5, 0.4], loss=[1.0])
    share = ("callbacks.best_checkpoint.select_after_fraction=0.75", "trainer.max_epochs=100")
    ran = train(*share, "trainer.max_time=00:00:01:00", *FIT)
    assert ran.status == 0 and "(best of the last 25% of the epochs or of the time)" in ran.out, ran.err
    assert (ran.record.best.epoch, ran.record.best.value) == (3, pytest.approx(0.5))  # of the two that end after 45 s
    given(accuracy=[0.45, 0.3, 0.2], loss=[1.0])
    last = f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}"
    longer = train(last, "trainer.max_time=00:00:02:00", "stages=[fit]", small=False, to=ran.folder)
    assert longer.status == 0, longer.err
    assert (longer.record.best.epoch, longer.record.best.value) == (6, pytest.approx(0.3))  # the first after 90 s


@pytest.mark.parametrize(("limit_s", "stays"), [(100, True), (200, False)])
def test_a_resumed_choice_starts_over_once_more_only_where_its_share_of_the_time_has_become_longer(
    tmp_path, monkeypatch, limit_s, stays
):
    """After 80 seconds, of which the share of 100 is over and that of 200 is not."""
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: 80.0)
    before, best = (BestCheckpoint(select_after_fraction=0.75) for _ in range(2))
    best.dirpath = str(tmp_path)
    before.best_epoch, before.started_over = 3, True
    best.load_state_dict(before.state_dict())
    best.on_train_start(
        SimpleNamespace(
            callbacks=[Timer({"seconds": limit_s})], max_epochs=100, current_epoch=5, global_step=15, min_steps=None,
            fit_loop=SimpleNamespace(min_epochs=None), strategy=SimpleNamespace(broadcast=float),
        ), None,
    )  # fmt: skip
    assert best.started_over == stays


@pytest.mark.parametrize("average", [[], ["callbacks=ema"]])
def test_the_weights_of_the_best_epoch_are_there_as_safetensors(train, given, average):
    """Those that were validated: with an average of the weights its own, and not those that training continues with."""
    given(accuracy=[0.7, 0.9, 0.8], loss=[0.5, 0.3, 0.4])
    ran = train("trainer.max_epochs=3", *average, *FIT)
    assert ran.status == 0, ran.err
    best, last = (
        torch.load(ran.folder / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")
    )
    weights, texts = read_safetensors(ran.folder / "checkpoints" / "best.safetensors")
    assert weights and all(
        torch.equal(tensor, best["state_dict"][f"network.{name}"]) for name, tensor in weights.items()
    )
    assert not all(torch.equal(tensor, last["state_dict"][f"network.{name}"]) for name, tensor in weights.items())
    assert json.loads(texts["classes"]) == ["blue", "red"]
    assert json.loads(texts["decision"]) == best["decision"]  # fitted after the training


def test_an_epoch_without_validation_is_not_compared(train, given):
    given(accuracy=[0.8, 0.9, 0.9], loss=[0.5, 0.4, 0.3])
    ran = train("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5", *FIT)  # validated after 2 and 4
    assert ran.status == 0, ran.err
    assert ran.record.best.epoch == 4


@pytest.mark.thorough
@pytest.mark.parametrize("average", [[], ["callbacks=ema"]])
def test_a_tie_with_an_epoch_before_an_interruption_is_decided_by_its_loss(train, given, average):
    given(accuracy=[0.8, 0.9], loss=[0.7, 0.5])
    ran = train("trainer.max_epochs=2", *average, *FIT)
    assert ran.record.best.epoch == 2
    given(accuracy=[0.9, 0.9, 0.9], loss=[0.6, 0.4, 0.45])
    last = f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}"
    resumed = train(last, "trainer.max_epochs=5", "stages=[fit]", small=False, to=ran.folder)
    assert resumed.status == 0, resumed.err
    assert resumed.record.best.epoch == 4


@pytest.mark.thorough
def test_a_checkpoint_of_an_older_version_resumes_and_keeps_its_best_epoch_in_a_tie(train, given):
    given(accuracy=[0.8, 0.9], loss=[0.7, 0.5])
    ran = train("trainer.max_epochs=2", *FIT)
    last = ran.folder / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    found = [callback.pop("best_loss") for callback in state["callbacks"].values() if "best_loss" in callback]
    assert found == [0.5]
    torch.save(state, last)
    given(accuracy=[0.9, 0.9], loss=[0.1, 0.1])
    resumed = train(f"ckpt_path={last}", "trainer.max_epochs=4", "stages=[fit]", small=False, to=ran.folder)
    assert resumed.status == 0, resumed.err
    assert resumed.record.best.epoch == 2


@pytest.mark.thorough
def test_a_run_that_resumes_in_another_folder_keeps_the_best_epoch_and_leaves_the_other_run_as_it_is(
    train, given, tmp_path
):
    given(accuracy=[0.9, 0.5], loss=[0.1, 0.2])
    ran = train("trainer.max_epochs=2", *FIT)
    before = {path.name: path.read_bytes() for path in (ran.folder / "checkpoints").iterdir()}
    for accuracy, epoch in ((0.6, 1), (0.95, 3)):
        given(accuracy=[accuracy], loss=[0.3])
        place = tmp_path / f"to{epoch}"
        to = [f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}", f"hydra.run.dir={place}", "trainer.max_epochs=3"]
        resumed = train(*to, "stages=[fit]", small=False, to=place)
        assert resumed.status == 0 and "best.ckpt is missing" not in resumed.out + resumed.err, resumed.err
        best = place / "checkpoints" / "best.ckpt"
        assert (resumed.record.best.epoch, resumed.record.best.checkpoint) == (epoch, str(best))
        assert epochs_done(best) == epoch and best.with_suffix(".safetensors").is_file()
    assert {path.name: path.read_bytes() for path in (ran.folder / "checkpoints").iterdir()} == before


@pytest.mark.parametrize("loss", [1, True, "0.1", [0.1], torch.tensor(0.1)], ids=str)
def test_a_malformed_loss_of_the_best_epoch_is_named(loss, tmp_path):
    best = BestCheckpoint()
    best.dirpath = str(tmp_path)
    with pytest.raises(UserError, match=r"best_loss of best\.ckpt is not a single number"):
        best.load_state_dict(best.state_dict() | {"best_loss": loss})
    with pytest.raises(UserError, match=r"best_model_score of best\.ckpt is not a single number"):
        best.load_state_dict(
            best.state_dict() | {"best_model_score": torch.zeros(2) if isinstance(loss, Tensor) else loss}
        )
    with pytest.raises(UserError, match=r"best_epoch of best\.ckpt is not a whole number"):
        best.load_state_dict(best.state_dict() | {"best_epoch": [loss]})


def test_a_run_that_resumes_with_another_monitor_says_that_the_best_starts_over(caplog, tmp_path):
    best, trainer = BestCheckpoint(monitor="val/f1"), SimpleNamespace(global_step=3, current_epoch=1, max_epochs=2)
    trainer.callbacks = []
    best.dirpath = str(tmp_path)
    best.on_train_start(trainer, None)
    assert "callbacks.best_checkpoint.monitor=val/f1: the checkpoint has no best epoch by this metric" in caplog.text
    caplog.clear()
    best.load_state_dict(best.state_dict())
    best.on_train_start(trainer, None)
    BestCheckpoint(monitor="val/f1").on_train_start(SimpleNamespace(**vars(trainer) | {"global_step": 0}), None)
    assert not caplog.messages


@pytest.mark.parametrize(("place", "is_first", "files"), [
    ("own", True, ["best.ckpt"]), ("own", False, ["best.ckpt"]), ("beside", True, ["best.ckpt", "best.safetensors"]),
    ("beside", False, []), ("nowhere", True, []),
])  # fmt: skip
def test_the_best_of_the_checkpoint_that_a_run_resumes_from_is_the_one_to_beat(
    tmp_path, caplog, place, is_first, files
):
    """Where its file is in the run's folder, or beside that checkpoint, from where the first process copies it."""
    beside, own = tmp_path / "beside", tmp_path / "own"
    for folder in (beside, own):
        folder.mkdir()
    for name in () if place == "nowhere" else ("best.ckpt",) if place == "own" else ("best.ckpt", "best.safetensors"):
        (tmp_path / place / name).write_text(name)
    (beside / "last.ckpt").touch()
    before, best = BestCheckpoint(), BestCheckpoint()
    before.best_model_score, before.best_loss, before.best_epoch = torch.tensor(0.75), 0.5, 2
    best.dirpath = str(own)
    trainer = SimpleNamespace(ckpt_path=str(beside / "last.ckpt"), is_global_zero=is_first)
    best.on_load_checkpoint(trainer, None, {})
    best.load_state_dict(before.state_dict() | {"dirpath": str(beside), "best_model_path": "/etc/passwd"})
    assert sorted(path.name for path in own.iterdir()) == files
    assert all((own / name).read_text() == name for name in files)
    path = "" if place == "nowhere" else str(own / "best.ckpt")
    assert (best.best_model_path, best.kth_best_model_path, best.last_model_path) == (path, path, path)
    assert best.best_k_models == ({path: before.best_model_score} if path else {}) and best.dirpath == str(own)
    assert best.best_model_score == (before.best_model_score if path else None)
    assert ("best.ckpt is missing" in caplog.text) == (place == "nowhere")
    trainer = SimpleNamespace(
        max_epochs=9, current_epoch=5, callbacks=[], callback_metrics={"val/loss": torch.tensor(0.4)},
        strategy=SimpleNamespace(reduce_boolean_decision=bool),
    )  # fmt: skip
    best.started_over = True
    assert best.check_monitor_top_k(trainer, torch.tensor(0.5)) == (place == "nowhere")
    best.load_state_dict(BestCheckpoint().state_dict())  # of a run that has none yet
    assert best.best_k_models == {} and best.best_model_score is None


def test_all_processes_decide_a_tie_together():
    """One process of two whose last bit differs does not save by itself, which would wait forever for the other."""
    best = BestCheckpoint()
    best.started_over = True
    score = torch.tensor(0.9)
    best.best_k_models, best.kth_best_model_path, best.best_model_score = {"best.ckpt": score}, "best.ckpt", score
    best.best_loss = 0.5
    asked = []

    def all_of_two(other):
        return lambda own: asked.append(own) or (own and other)

    for other, expected in ((False, False), (True, True)):
        trainer = SimpleNamespace(
            max_epochs=9, current_epoch=5, callback_metrics={"val/loss": torch.tensor(0.25)},
            strategy=SimpleNamespace(reduce_boolean_decision=all_of_two(other)),
        )  # fmt: skip
        assert best.check_monitor_top_k(trainer, score) is expected
        assert best.best_loss == (0.25 if expected else 0.5)
    assert asked == [False, True, False, True]  # the accuracy is no better, the loss is


def test_the_best_epoch_is_that_of_brute_force_over_interruptions_and_other_lengths(tmp_path):
    """The highest accuracy, of equal ones the lowest loss, of those the earliest; from the share on, of the epochs since."""
    generator = np.random.default_rng(0)
    (tmp_path / "best.ckpt").touch()
    for _ in range(200):
        fraction, monitor = float(generator.choice([0, 0.3, 0.5, 0.8])), generator.choice(["val/accuracy", "val/loss"])
        best, kept, candidates, epoch = None, None, [], 0
        for n_epochs in sorted(generator.integers(1, 12, 3)) if generator.random() < 0.5 else [12, 6, 12]:
            again = BestCheckpoint(monitor=monitor, select_after_fraction=fraction)
            again.dirpath = str(tmp_path)
            if best is not None:
                again.load_state_dict(best.state_dict())
            best, start = again, int(fraction * n_epochs + 1e-9)
            trainer = SimpleNamespace(
                max_epochs=n_epochs, current_epoch=epoch, global_step=epoch, callbacks=[],
                strategy=SimpleNamespace(reduce_boolean_decision=bool),
            )  # fmt: skip
            best.on_train_start(trainer, None)
            if kept is not None and kept[2] < start:
                candidates, is_late = [kept], False  # until the share is over
            else:
                is_late = kept is not None
            while epoch < n_epochs and generator.random() < 0.9:
                accuracy, loss = float(generator.integers(5)), float(generator.integers(3))
                merits = (accuracy, -loss) if monitor == "val/accuracy" else (-loss, 0.0)
                if epoch >= start and not is_late:
                    candidates, is_late = [], True
                candidates.append((*merits, epoch))
                kept = max(candidates, key=lambda each: (each[:2], -each[2]))
                trainer.current_epoch = epoch
                trainer.callback_metrics = {"val/accuracy": torch.tensor(accuracy), "val/loss": torch.tensor(loss)}
                score = trainer.callback_metrics[monitor]
                assert best.check_monitor_top_k(trainer, score) == (kept[2] == epoch)
                if kept[2] == epoch:
                    path = str(tmp_path / "best.ckpt")
                    best.best_k_models, best.kth_best_model_path, best.best_model_score = {path: score}, path, score
                assert best.best_epoch == kept[2]
                epoch += 1


def test_the_lowest_loss_of_ties_is_a_better_epoch_than_the_earliest():
    """A network that gets better over 12 epochs: 0.80 to 0.93 on all images, chosen on 49 of them, 600 times."""
    generator = np.random.default_rng(0)
    means = np.sqrt(5) * norm.ppf(np.linspace(0.80, 0.93, 12))  # of margins of standard deviation sqrt(5)
    gains = []
    for _ in range(600):
        margin = 2 * generator.normal(size=49) + means[:, None] + generator.normal(size=(12, 49))  # image, epoch, both
        accuracy, loss = (margin > 0).mean(1), np.logaddexp(0, -margin).mean(1)
        best = BestCheckpoint()
        best.started_over, best.best_model_score = True, torch.tensor(-1.0)
        chosen = None
        for epoch in range(12):
            current = torch.tensor(accuracy[epoch])
            trainer = SimpleNamespace(
                max_epochs=12, current_epoch=epoch + 1, callback_metrics={"val/loss": torch.tensor(loss[epoch])},
                strategy=SimpleNamespace(reduce_boolean_decision=bool),
            )  # fmt: skip
            if best.check_monitor_top_k(trainer, current):
                chosen = epoch
                best.best_k_models, best.kth_best_model_path, best.best_model_score = {"b": current}, "b", current
        true = np.linspace(0.80, 0.93, 12)
        gains.append(true[chosen] - true[accuracy.argmax()])  # argmax: the earliest
    assert np.mean(gains) - 3 * np.std(gains) / np.sqrt(len(gains)) > 0


@pytest.mark.parametrize(("trigger", "stopped_at", "kept"), [
    (["every_n_minutes=1e-6"], 2, 1), (["every_n_train_steps=2"], 3, 2), ([], 3, None), ([], 4, 3),
])  # fmt: skip
def test_the_last_state_is_kept_within_an_epoch_of_three_steps_where_asked_for(
    train, monkeypatch, tmp_path, trigger, stopped_at, kept
):
    def kill():
        raise Killed

    at_step(monkeypatch, stopped_at, kill)  # before the checkpoints of that step
    with pytest.raises(Killed):
        train(*(f"callbacks.last_checkpoint.{each}" for each in trigger), *FIT)
    last = tmp_path / "run0" / "checkpoints" / "last.ckpt"
    assert (torch.load(last, weights_only=True)["global_step"] if last.exists() else None) == kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BestCheckpoint(monitor="val/loss", select_after_fraction=1),
            "callbacks.best_checkpoint.select_after_fraction=1: use a share from 0 to below 1",
        ),
        (
            lambda: LastCheckpoint(every_n_minutes=0),
            "callbacks.last_checkpoint.every_n_minutes=0: use more than 0, up to 1,000,000,000, or null for never",
        ),
        (
            lambda: LastCheckpoint(every_n_minutes=float("nan")),
            "callbacks.last_checkpoint.every_n_minutes=nan: use more than 0",
        ),
        (lambda: EMA(enabled=True, decay=1), "callbacks.ema.decay=1: use a number from 0 to below 1"),
        (lambda: EMA(enabled=True, decay=-0.1), "callbacks.ema.decay=-0.1: use a number from 0 to below 1"),
        (
            lambda: LastCheckpoint(every_n_minutes=1e15),
            "callbacks.last_checkpoint.every_n_minutes=1000000000000000.0: use more than 0",
        ),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
