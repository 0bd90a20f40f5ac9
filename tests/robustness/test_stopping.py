"""Runs that are stopped in the middle of an epoch go on to the same bits; what is written is whole; NaN ends a run."""

import functools
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from engine.run import checkpoint_io
from engine.run.checkpoint_io import PREVIOUS, AtomicCheckpointIO, intact_checkpoint
from lightning_modules.image_classifier import ImageClassifier
from tests.support import helpers
from tests.support.helpers import scalars

STEPS = ("trainer.max_epochs=3", "callbacks.last_checkpoint.every_n_train_steps=2")  # of three steps an epoch


class Killed(BaseException):
    """Nothing catches it, as nothing notices a SIGKILL."""


@pytest.fixture
def at_step(monkeypatch):
    return functools.partial(helpers.at_step, monkeypatch)


def kill():
    raise Killed


def end_of(folder):
    """What a run comes to, to the last digit."""
    states = [torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")]
    tables = [(folder / f"{name}.csv").read_bytes() for name in ("metrics", "predictions", "predictions_val")]
    tensors = [{name: value.tolist() for name, value in state["state_dict"].items()} for state in states]
    return tables, tensors, [state["optimizer_states"][0]["state"][0]["exp_avg"].tolist() for state in states]


WORKERS = pytest.param(("datamodule.num_workers=2", "augmentation=study_jitter"), marks=pytest.mark.slow, id="workers")


@pytest.mark.parametrize("more", [pytest.param((), id="here"), WORKERS])
def test_killed_in_the_middle_of_an_epoch_it_ends_in_the_same_bits(train, at_step, more):
    straight = train(*STEPS, *more, drawn=True)
    assert straight.status == 0, straight.err
    at_step(5, kill)  # last.ckpt is of step 4: one batch into the second epoch
    with pytest.raises(Killed):
        train(*STEPS, *more, drawn=True)
    killed = straight.folder.parent / "run1"
    last = killed / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    ran = train(f"ckpt_path={last}", small=False, to=killed)
    assert ran.status == 0, ran.err
    assert end_of(straight.folder) == end_of(killed)
    assert scalars(straight.folder) == scalars(killed)
    assert ran.record["test"] == straight.record["test"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_says_how_to_go_on(train, at_step, number):
    straight = train("trainer.max_epochs=3")
    handlers = signal.getsignal(number)
    at_step(4, lambda: os.kill(os.getpid(), number))
    stopped = train("trainer.max_epochs=3")
    assert stopped.status == 128 + number
    assert signal.getsignal(number) == handlers
    last = stopped.folder / "checkpoints" / "last.ckpt"
    assert f"stopped by {number.name}; go on: python train.py ckpt_path={last}" in stopped.err
    assert stopped.record["status"] == "running"
    ran = train(f"ckpt_path={last}", small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert end_of(straight.folder) == end_of(stopped.folder) and scalars(straight.folder) == scalars(stopped.folder)


def test_a_signal_in_the_last_step_of_an_epoch_waits_for_its_end(train, at_step):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train("trainer.max_epochs=3")
    state = torch.load(stopped.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stopped.status == 143 and state["global_step"] == 3 and state["callbacks"]["EpochLog"]["rows"]


def test_a_signal_ends_a_whole_sweep(train, at_step, tmp_path):
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train("-m", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert stopped.status == 143 and "; the same command goes on" in stopped.err
    assert not (tmp_path / "sweep" / "seed-2").exists()


def test_a_folder_that_is_named_again(train, tmp_path):
    folder = tmp_path / "named"
    assert train(to=folder).status == 0
    again = train(to=folder)
    assert again.status == 1 and "holds a finished run" in again.err and "stages=[test]" in again.err
    result = folder / "result.json"
    result.write_text(result.read_text().replace('"status": "finished"', '"status": "running"'))
    other = train("optimizer=sgd", to=folder)
    assert other.status == 1 and "with other settings: " in other.err and "optimizer=sgd for adam_1e-3" in other.err
    assert '"status": "running"' in result.read_text()
    assert train(to=folder).status == 0  # the same settings go on


def test_numbers_that_are_none_end_the_run(train):
    ran = train("optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3")
    assert ran.status == 1 and "Traceback" not in ran.err
    for text in ("the loss is ", " at step ", "learning rate 1e+30", ".png", "trainer.gradient_clip_val=1"):
        assert text in ran.err, ran.err
    assert ran.record["status"] == "failed" and "the loss is" in ran.record["reason"]


def test_gradients_are_clipped(train):
    assert train("optimizer=sgd", "optimizer.lr=1e30", "trainer.gradient_clip_val=1e-32").status == 0


class TestCheckpointFiles:
    def test_what_cannot_be_written_is_held_and_written_later(self, tmp_path, monkeypatch, caplog):
        files, full = AtomicCheckpointIO(), True
        write = checkpoint_io.write_bytes

        def write_bytes(path, content):
            if full:
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(checkpoint_io, "write_bytes", write_bytes)
        files.save_checkpoint({"epoch": 1}, tmp_path / "checkpoints" / "best.ckpt")
        assert "No space left on device" in caplog.text and not list(tmp_path.rglob("*.ckpt"))
        full = False
        files.save_checkpoint({"epoch": 2}, tmp_path / "checkpoints" / "last.ckpt")
        assert {p.name for p in tmp_path.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"} and not files.held

    def test_the_one_before_is_kept(self, tmp_path):
        files = AtomicCheckpointIO()
        for epoch in range(3):
            files.save_checkpoint({"epoch": epoch}, tmp_path / "last.ckpt")
        epochs = [torch.load(tmp_path / name, weights_only=True)["epoch"] for name in ("last.ckpt", PREVIOUS)]
        assert epochs == [2, 1] and {p.name for p in tmp_path.iterdir()} == {"last.ckpt", PREVIOUS}


def test_one_flipped_byte_in_last_is_noticed(train, capsys):
    last = train().folder / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.with_name(PREVIOUS).write_bytes(content)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    assert intact_checkpoint(last) == last.with_name(PREVIOUS)
    assert f"{last}: not a checkpoint, or a damaged one" in capsys.readouterr().out
    last.with_name(PREVIOUS).write_bytes(content[:1000])
    with pytest.raises(ValueError, match="last-before"):
        intact_checkpoint(last)


@pytest.mark.parametrize(
    ("processes", "process", "expected"), [(2, 0, 1.0), (2, 1, 2.0), (1, 0, 3.0), (3, 0, 3.0), (3, 2, 0.0)]
)
def test_each_process_takes_up_its_own_sums(processes, process, expected):
    """In the order that they were added in, since another one gives other last digits."""
    network = {"network": "simple_cnn", "image_size": 8}
    model = ImageClassifier(network=network, classes=["a", "b"], image_size=8, mean=[0.5] * 3, std=[0.5] * 3)
    model._trainer = SimpleNamespace(world_size=processes, global_rank=process, is_global_zero=process == 0)
    sums = [torch.stack([value + 1, value + 2]) for value in model.train_metrics.sums()]
    model.on_load_checkpoint({"train_sums": sums})
    assert {float(value) for value in model.train_metrics.sums()} == {expected}
