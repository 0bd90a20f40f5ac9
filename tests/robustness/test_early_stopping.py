"""Early stopping ends a run in the same epoch and with the same bits, wherever it was stopped on the way."""

import os
import shutil
import signal

import pytest

from engine.run import stages
from tests.support.commands import STOPPED_EARLY
from tests.support.helpers import Killed, at_step, outcome, read_csv, scalars


@pytest.mark.parametrize(("fraction", "among"), [
    (0.4, "best of the last 60% of the epochs"),  # 3 to 6
    pytest.param(0.5, "best of all, since the training ended before the last 50% of the epochs",
                 marks=pytest.mark.thorough),  # 4 to 6
])  # fmt: skip
def test_where_it_ends_before_the_choice_starts_over_the_best_is_of_all_epochs(train, fraction, among):
    ran = train(*STOPPED_EARLY, f"callbacks.best_checkpoint.select_after_fraction={fraction}")
    assert ran.status == 0 and f"({among})" in ran.out, ran.err
    epochs = [float(row["val/accuracy"]) for row in read_csv(ran.folder / "metrics.csv")]
    assert len(epochs) == 3 and ran.record.best.value == (epochs[2] if fraction == 0.4 else max(epochs))


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_in_the_same_epoch(train, monkeypatch):
    straight = train(*STOPPED_EARLY)
    assert straight.status == 0 and len(read_csv(straight.folder / "metrics.csv")) == 3, straight.err
    assert "early stopping: Monitored metric val/loss did not improve in the last 2 records" in straight.out
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))  # in the third epoch
    at_step(monkeypatch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))  # at its very end
    stopped = train(*STOPPED_EARLY)
    last = f"ckpt_path={stopped.folder / 'checkpoints' / 'last.ckpt'}"
    once_more = train(last, small=False, to=stopped.folder)
    assert (stopped.status, once_more.status) == (143, 143)
    ran = train(last, small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert "a callback has ended this training already (early stopping: " in ran.out
    assert "a callback has ended" not in " ".join(ran.record.run.warnings)
    assert outcome(straight.folder) == outcome(ran.folder) and scalars(straight.folder) == scalars(ran.folder)


@pytest.mark.thorough
def test_killed_after_its_end_it_warns_only_where_it_was_to_train_longer(train, monkeypatch, tmp_path):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(stages, "evaluate_val", kill)
        train(*STOPPED_EARLY)
    found = {}
    for further in ([], ["trainer.max_epochs=8"]):
        folder = shutil.copytree(tmp_path / "run0", tmp_path / f"copy{len(further)}")
        ran = train(f"ckpt_path={folder}/checkpoints/last.ckpt", *further, small=False, to=folder)
        assert ran.status == 0 and "a callback has ended this training already" in ran.out + ran.err, ran.err
        found[len(further)] = "a callback has ended this training already" in str(ran.record.run.warnings)
    assert found == {0: False, 1: True}
