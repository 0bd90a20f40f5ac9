"""A run that is stopped in the middle of an epoch resumes to the same bits; its checkpoints are whole."""

import functools
import logging
import os
import shlex
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from common.errors import UserError
from common.run_folder import RunFolder
from engine.run import checkpoint_io, evaluate, stages
from engine.run.checkpoint_io import AtomicCheckpointIO, intact_checkpoint
from evaluation.decision import DecisionRules
from lightning_modules.image_classifier import ImageClassifier
from tests.support import helpers
from tests.support.helpers import SIMPLE_CNN, Killed, outcome, scalars

EVERY_TWO_STEPS = "callbacks.last_checkpoint.every_n_train_steps=2"  # of three steps an epoch


@pytest.fixture
def at_step(monkeypatch):
    return functools.partial(helpers.at_step, monkeypatch)


class Own(Callback):
    """A callback of the user's own."""

    def __init__(self, size: int) -> None:
        self.size = size


class Tiny(nn.Sequential):
    """A backbone of the user's own."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())


def kill():
    raise Killed


def test_killed_in_the_middle_of_an_epoch_it_resumes_to_the_same_bits(train, finished_run, at_step, tmp_path):
    at_step(5, kill)  # last.ckpt is of step 4: one batch into the second epoch
    with pytest.raises(Killed):
        train(EVERY_TWO_STEPS, drawn=True)
    killed = RunFolder(tmp_path / "run0")
    assert torch.load(killed.last_checkpoint, weights_only=True)["global_step"] == 4
    ran = train(f"ckpt_path={killed.last_checkpoint}", small=False, to=killed.path)
    assert ran.status == 0, ran.err
    assert outcome(finished_run.folder) == outcome(killed.path)
    assert scalars(finished_run.folder) == scalars(killed.path)
    assert ran.record.test == finished_run.record.test


@pytest.mark.thorough
def test_a_killed_run_keeps_its_warnings(train, at_step, tmp_path):
    def warn_and_kill():
        if killed.last_checkpoint.is_file():
            raise Killed
        logging.getLogger("callbacks").warning("in the first epoch")

    killed = RunFolder(tmp_path / "run0")
    at_step(2, warn_and_kill), at_step(4, warn_and_kill)
    with pytest.raises(Killed):
        train()
    ran = train(f"ckpt_path={killed.last_checkpoint}", small=False, to=killed.path)
    assert ran.status == 0 and "RANDOM WEIGHTS" not in ran.out + ran.err
    random, *_ = found = [text for text in ran.record.run.warnings if "RANDOM" in text or "first epoch" in text]
    assert random.startswith("RANDOM WEIGHTS") and found[1:] == ["in the first epoch"]
    assert "RANDOM WEIGHTS" in killed.model_card.read_text()


@pytest.mark.thorough
def test_killed_after_its_decision_was_kept_it_keeps_the_warnings_of_that(train, monkeypatch, tmp_path):
    fit, add_decision = DecisionRules.fit, evaluate.add_decision
    warning = logging.getLogger("evaluation").warning
    monkeypatch.setattr(DecisionRules, "fit", lambda *args: warning("of the decision") or fit(*args))
    monkeypatch.setattr(evaluate, "add_decision", lambda *args: add_decision(*args) or kill())
    killed = RunFolder(tmp_path / "run0")
    with pytest.raises(Killed):
        train()
    ran = train(f"ckpt_path={killed.last_checkpoint}", small=False, to=killed.path)
    assert ran.status == 0 and "of the decision" not in ran.out + ran.err, ran.err
    assert ran.record.run.warnings.count("of the decision") == 1


@pytest.mark.thorough
def test_stopped_after_its_test_evaluation_it_repeats_that_and_counts_it_once(train, finished_run, monkeypatch):
    finalize, begun = stages.finalize, []

    def stop(*args):
        begun.append(True)
        if len(begun) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        finalize(*args)

    monkeypatch.setattr(stages, "finalize", stop)
    stopped = train(drawn=True)
    assert stopped.status == 128 + signal.SIGTERM and stopped.record.test.test_evaluations == 1, stopped.err
    ran = train(f"ckpt_path={stopped.folder}/checkpoints/last.ckpt", small=False, to=stopped.folder)
    assert ran.status == 0 and outcome(finished_run.folder) == outcome(stopped.folder), ran.err
    assert "evaluated 2 times" not in ran.out + stopped.folder.joinpath("MODEL_CARD.md").read_text()
    again = train("stages=[test]", f"ckpt_path={stopped.folder}/checkpoints/best.ckpt", small=False)
    assert "evaluated 2 times" in again.out and (again.folder / "result.json").is_file(), again.err


@pytest.mark.thorough
def test_a_killed_run_resumes_with_more_frequent_checkpoints(train, finished_run, at_step, tmp_path):
    at_step(4, kill)
    with pytest.raises(Killed):
        train(drawn=True)
    killed = RunFolder(tmp_path / "run0")
    ran = train(f"ckpt_path={killed.last_checkpoint}", EVERY_TWO_STEPS, small=False, to=killed.path)
    assert ran.status == 0 and outcome(finished_run.folder) == outcome(killed.path), ran.err
    assert not [text for text in ran.record.run.warnings if "ckpt_path" in text]


@pytest.mark.parametrize("settings", [
    pytest.param((*SIMPLE_CNN, "augmentation=trivial_augment", "batch_transform=mixup"), marks=pytest.mark.thorough),
    pytest.param(("datamodule.num_workers=2", "augmentation=study_jitter"), marks=pytest.mark.slow),
])  # fmt: skip
def test_with_a_list_of_transforms_mixed_batches_and_loader_processes_too(train, at_step, tmp_path, settings):
    straight = train(*settings, EVERY_TWO_STEPS)
    assert straight.status == 0, straight.err
    at_step(5, kill)
    with pytest.raises(Killed):
        train(*settings, EVERY_TWO_STEPS)
    killed = RunFolder(tmp_path / "run1")
    ran = train(f"ckpt_path={killed.last_checkpoint}", small=False, to=killed.path)
    assert ran.status == 0, ran.err
    assert outcome(straight.folder) == outcome(killed.path) and scalars(straight.folder) == scalars(killed.path)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_message_names_the_command_that_resumes(train, finished_run, at_step, number, request):
    if signal.getsignal(number) == signal.SIG_IGN:  # these tests were started by nohup
        signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
    handlers = signal.getsignal(number)
    at_step(4, lambda: os.kill(os.getpid(), number))
    stopped = train()
    assert stopped.status == 128 + number
    assert signal.getsignal(number) == handlers
    last = stopped.folder / "checkpoints" / "last.ckpt"
    cache = f"datamodule.cache={stopped.folder.parent / 'cache'}"  # a run does not keep where its cache is
    assert stopped.err == f"stopped by {number.name}. Resume with: python train.py ckpt_path={last} {cache}\n"
    assert stopped.record.status == "running"
    ran = train(f"ckpt_path={last}", small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert outcome(finished_run.folder) == outcome(stopped.folder)
    assert scalars(finished_run.folder) == scalars(stopped.folder)


def test_the_command_that_resumes_names_classes_of_the_user_s_own_again(train, at_step):
    backbone = f"model.backbone={__name__}.Tiny"
    classes = [backbone, f"+callbacks.a._target_={__name__}.Own", f"+callbacks.b={{_target_:{__name__}.Own,size:5}}"]
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train("model=truncated", "model.keep=1", *classes, "+callbacks.a.size=3", "stages=[fit]", "optimizer=sgd")
    assert stopped.status == 143, stopped.err
    command = shlex.split(stopped.err.partition("Resume with: python train.py ")[2])
    assert [each for each in command if each.startswith(("model", "+", "optimizer"))] == classes
    ran = train(*command, small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert [ran.record.run.settings[f"callbacks.{name}.size"] for name in "ab"] == [3, 5]


def test_a_signal_in_the_last_step_of_an_epoch_waits_for_its_end(train, at_step):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train("stages=[fit]", *SIMPLE_CNN)
    state = torch.load(stopped.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stopped.status == 143 and state["global_step"] == 3 and state["callbacks"]["EpochLogger"]["rows"]


def test_a_signal_ends_a_whole_sweep(train, at_step, tmp_path):
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train("-m", "seed=1,2", *SIMPLE_CNN, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert stopped.status == 143 and "stopped by SIGTERM. Resume with: python train.py -m " in stopped.err
    assert not (tmp_path / "sweep" / "seed-2").exists()


@pytest.mark.thorough
def test_interrupted_between_training_and_test_only_the_test_is_run(train, finished_run, made):
    interrupted = finished_run.record
    interrupted.folder, interrupted.writes, interrupted.test = made, True, None
    interrupted.save()
    ran = train(f"ckpt_path={made.last_checkpoint}", small=False, to=made.path)
    assert ran.status == 0 and "epoch 2/2" not in ran.out, ran.err
    assert ran.record.test == finished_run.record.test


def test_a_checkpoint_that_cannot_be_written_is_absent(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    folder = RunFolder(tmp_path)
    AtomicCheckpointIO().save_checkpoint({"epoch": 0}, folder.last_checkpoint)
    monkeypatch.setattr(checkpoint_io, "write_bytes", full)
    for path in (folder.best_checkpoint, folder.last_checkpoint):
        with pytest.raises(OSError, match="No space left on device"):
            AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    assert not folder.best_checkpoint.exists()
    assert torch.load(folder.last_checkpoint, weights_only=True) == {"epoch": 0}


def test_the_previous_last_checkpoint_is_kept(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in range(3):
        AtomicCheckpointIO().save_checkpoint({"epoch": epoch}, folder.last_checkpoint)
    places = (folder.last_checkpoint, folder.previous_checkpoint)
    assert [torch.load(place, weights_only=True)["epoch"] for place in places] == [2, 1]
    assert sorted(folder.checkpoints.iterdir()) == sorted(places)


def test_one_flipped_byte_in_last_is_noticed(made, caplog):
    last, previous = made.last_checkpoint, made.previous_checkpoint
    content = last.read_bytes()
    previous.write_bytes(content)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    assert intact_checkpoint(last) == previous
    assert f"{last}: not a checkpoint, or a damaged one" in caplog.text
    previous.write_bytes(content[:1000])
    with pytest.raises(UserError, match="last-before"):
        intact_checkpoint(last)


@pytest.mark.parametrize(
    ("processes", "process", "expected"), [(2, 0, 1.0), (2, 1, 2.0), (1, 0, 3.0), (3, 0, 3.0), (3, 2, 0.0)]
)
def test_each_process_resumes_from_its_own_sums(processes, process, expected):
    """Sums keep the order in which they were added, since another one gives other last digits."""
    network = {"network": "simple_cnn", "image_size": 8}
    model = ImageClassifier(network=network, classes=["a", "b"], image_size=8, mean=[0.5] * 3, std=[0.5] * 3)
    model._trainer = SimpleNamespace(world_size=processes, global_rank=process, is_global_zero=process == 0)
    sums = [torch.stack([value + 1, value + 2]) for value in model.train_metrics.sums()]
    model.on_load_checkpoint({"train_sums": sums})
    assert {float(value) for value in model.train_metrics.sums()} == {expected}
