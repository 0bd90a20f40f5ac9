import fcntl
import os
import threading

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import engine.cli  # noqa: F401 registers the resolvers
from common.atomic_io import write_json
from common.untrusted.saved_config import read_saved_choices, read_saved_config
from engine.search import trial
from tests.support.helpers import PROJECT


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def test_a_trial_leaves_what_a_run_of_train_leaves(hydra, tmp_path):
    seen = []
    outputs = set((PROJECT / "outputs").iterdir())
    folder = tmp_path / "trials" / "a"
    overrides = ["optimizer=adam", "optimizer.lr=0.5", "stages=[cost,fit]"]
    assert trial.run_trial(folder, overrides, lambda config, record: seen.append(config)) is None
    assert "hydra" not in seen[0] and seen[0].optimizer.lr == 0.5
    saved = read_saved_config(folder)
    assert saved.optimizer.lr == 0.5 and list(saved.stages) == ["cost", "fit"]
    assert read_saved_choices(folder)["optimizer"] == "adam"
    record = trial.completed_record(folder)
    assert record["status"] == "finished" and record["run"]["overrides"] == overrides
    assert record["run"]["choices"]["optimizer"] == "adam" and record["run"]["settings"]["optimizer.lr"] == 0.5
    assert {path.name for path in folder.iterdir()} == {".hydra", "result.json", "train.log"}
    assert set((PROJECT / "outputs").iterdir()) == outputs  # no folder outputs/MODEL/DATE beside it


def test_an_error_is_returned_and_in_the_log_of_the_trial(hydra, tmp_path):
    def fails(config, record):
        raise ValueError("made to fail")

    error = trial.run_trial(tmp_path / "a", [], fails)
    assert str(error) == "made to fail" and trial.completed_record(tmp_path / "a") is None
    assert "made to fail" in (tmp_path / "a" / "train.log").read_text()


@pytest.mark.parametrize(
    ("status", "counts"), [("finished", True), ("pruned", True), ("failed", False), ("running", False)]
)
def test_which_runs_have_come_to_an_end(tmp_path, status, counts):
    assert trial.completed_record(tmp_path) is None
    write_json(tmp_path / "result.json", {"schema": 1, "status": status, "run": {}})
    assert (trial.completed_record(tmp_path) is not None) == counts


def test_it_waits_until_no_other_process_is_in_the_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trial, "POLL_S", 0.01)
    caplog.set_level("INFO")
    trial.wait_for_lock(tmp_path / "not_there_yet")
    trial.wait_for_lock(tmp_path)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    released = threading.Event()

    def release():
        released.set()
        os.close(handle)

    timer = threading.Timer(0.3, release)
    timer.start()
    trial.wait_for_lock(tmp_path)
    assert released.is_set() and caplog.text.count("another process is at the same settings") == 1
    timer.join()
