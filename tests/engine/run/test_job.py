"""What one of many jobs does over a folder that a job has been in."""

import fcntl
import json
import os

import pytest

from common.atomic_io import write_json
from common.run_record import read_record

SWEEP = ("-m", "trainer.max_epochs=3", "seed=1,2")


@pytest.fixture
def sweep(train, tmp_path):
    def run(*overrides, to="sweep"):
        return train(*SWEEP, *overrides, f"hydra.sweep.dir={tmp_path / to}", to=tmp_path / to)

    return run


def tables(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("metrics.csv", "predictions.csv", "predictions_val.csv", "table.csv")
        for path in sorted(folder.rglob(name))
    }


def rewrite(folder, **changes):
    path = folder / "result.json"
    write_json(path, json.loads(path.read_text()) | changes)


def accuracies(folder):
    return {p.parent.name: read_record(p)["test"]["accuracy"] for p in folder.glob("*/result.json")}


def stop_in_the_middle(monkeypatch, epoch):
    """The process ends as if killed once an epoch is written: nothing is caught, nothing is recorded."""
    from callbacks.epoch_logger import EpochLogger

    class Killed(BaseException):
        pass

    whole = EpochLogger.on_train_epoch_start

    def stopped(self, trainer, pl_module):
        if trainer.current_epoch == epoch:
            raise Killed
        whole(self, trainer, pl_module)

    monkeypatch.setattr(EpochLogger, "on_train_epoch_start", stopped)
    return Killed


def test_a_sweep_stopped_in_the_middle_ends_as_one_that_was_not(sweep, monkeypatch):
    undisturbed = sweep(to="undisturbed")
    assert undisturbed.status == 0, undisturbed.err
    with monkeypatch.context() as patched:
        killed = stop_in_the_middle(patched, epoch=2)
        with pytest.raises(killed):
            sweep()
    ran = sweep()
    assert ran.status == 0, ran.err
    assert "seed-1: was stopped, goes on from checkpoints/last.ckpt" in ran.out
    assert "epoch 3/3" in ran.out.split("Job 2")[0] and "epoch 2/3" not in ran.out.split("Job 2")[0]
    assert "Job 2 of 2: seed-2" in ran.out and "Sweep: 2 of 2 done, 0 running, 0 failed" in ran.out
    first, second = tables(undisturbed.folder), tables(ran.folder)
    times = "table.csv"  # holds seconds and milliseconds as well
    assert {k: v for k, v in first.items() if k != times} == {k: v for k, v in second.items() if k != times}
    assert accuracies(undisturbed.folder) == accuracies(ran.folder)
    records = [read_record(each.folder / "seed-1" / "result.json") for each in (undisturbed, ran)]
    assert records[0]["model"]["weights"] == records[1]["model"]["weights"]
    assert records[0]["test"] == records[1]["test"] and records[0]["run"]["command"] != records[1]["run"]["command"]


def test_what_is_finished_is_not_run_again_and_what_failed_begins_anew(sweep):
    first = sweep()
    before = {p: p.read_bytes() for p in first.folder.glob("*/result.json")}
    rewrite(first.folder / "seed-2", status="failed", reason="made up")
    (first.folder / "seed-2" / "left.txt").write_text("of the run that failed")
    ran = sweep()
    assert ran.status == 0, ran.err
    assert "seed-1: done before" in ran.out and "seed-2: begins anew, since it failed" in ran.out
    assert ran.out.count("epoch 1/3") == 1 and not (first.folder / "seed-2" / "left.txt").exists()
    after = {p: p.read_bytes() for p in first.folder.glob("*/result.json")}
    unchanged = first.folder / "seed-1" / "result.json"
    assert before[unchanged] == after[unchanged]
    assert read_record(first.folder / "seed-2" / "result.json")["test"]["test_evaluations"] == 1


@pytest.mark.slow
def test_changed_settings_begin_anew_and_what_was_finished_is_kept(sweep):
    first = sweep()
    accuracy = accuracies(first.folder)
    ran = sweep("optimizer=sgd")
    assert ran.status == 0 and "begins anew with other settings: " in ran.out
    assert "optimizer=sgd for adam_1e-3" in ran.out
    assert read_record(first.folder / "seed-1" / "result.json")["run"]["choices"]["optimizer"] == "sgd"
    assert {name.rpartition("-")[0]: a for name, a in accuracies(first.folder.parent / "sweep.replaced").items()} == (
        accuracy
    )


@pytest.mark.slow
def test_stopped_between_training_and_test_it_tests(sweep, monkeypatch):
    first = sweep(to="undisturbed")
    from engine.run import evaluate

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "test", killed)
        with pytest.raises(Killed):
            sweep()
    ran = sweep()
    assert ran.status == 0, ran.err
    assert "epoch 3/3" not in ran.out.split("Job 2")[0]
    assert accuracies(first.folder) == accuracies(ran.folder)


@pytest.mark.slow
def test_two_sweeps_share_the_jobs_of_one_folder(sweep):
    folder = sweep().folder / "seed-1"
    rewrite(folder, status="failed")
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        ran = sweep()
    finally:
        os.close(handle)
    assert "seed-1: another process is at it" in ran.out and read_record(folder / "result.json")["status"] == "failed"


def test_a_run_s_folder_is_not_trained_in_twice(train):
    ran = train()
    handle = os.open(ran.folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        last = ran.folder / "checkpoints" / "last.ckpt"
        again = train(f"ckpt_path={last}", "trainer.max_epochs=4", small=False, to=ran.folder)
    finally:
        os.close(handle)
    assert again.status == 1 and "another process is training in this folder" in again.err
