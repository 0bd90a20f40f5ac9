import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import engine.cli  # noqa: F401 registers the resolvers
from common.errors import UserError
from common.run_folder import OUTPUTS, PROJECT, RunFolder
from common.run_record import RunInfo, RunRecord, write_record
from engine.search import trial
from engine.state import STATE


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def test_a_trial_leaves_what_a_run_of_train_leaves(hydra, tmp_path, monkeypatch):
    monkeypatch.setattr(STATE, "command", ["python", "search.py"])  # otherwise that of an earlier test
    seen = []
    outputs = set(OUTPUTS.iterdir())
    folder = RunFolder(tmp_path / "trials" / "a")
    overrides = ["optimizer=adam", "optimizer.lr=0.5", "stages=[cost,fit]"]
    assert trial.run_trial(folder, overrides, lambda config, record: seen.append(config)) is None
    assert "hydra" not in seen[0] and seen[0].optimizer.lr == 0.5
    saved = OmegaConf.load(folder.config)
    assert saved.optimizer.lr == 0.5 and list(saved.stages) == ["cost", "fit"]
    assert OmegaConf.load(folder.choices).hydra.runtime.choices.optimizer == "adam"
    assert list(OmegaConf.load(folder.overrides)) == overrides
    record = trial.completed_record(folder)
    assert record.status == "finished" and record.run.overrides == overrides
    assert record.run.choices["optimizer"] == "adam" and record.run.settings["optimizer.lr"] == 0.5
    assert {path.name for path in folder.path.iterdir()} == {
        ".hydra",
        "result.json",
    }  # and train.log, once something is logged
    assert trial.run_trial(folder, overrides, lambda *_: pytest.fail("ran again")) is None and len(seen) == 1
    assert set(OUTPUTS.iterdir()) == outputs  # no folder outputs/MODEL/DATE beside it


def test_an_error_is_returned_and_in_the_log_of_the_trial(hydra, tmp_path):
    def fails(config, record):
        raise UserError("made to fail")

    folder = RunFolder(tmp_path / "a")
    error = trial.run_trial(folder, [], fails)
    assert str(error) == "made to fail" and trial.completed_record(folder) is None
    assert "made to fail" in folder.log.read_text()


@pytest.mark.parametrize(
    ("status", "counts"), [("finished", True), ("pruned", True), ("failed", False), ("running", False)]
)
def test_which_runs_are_complete(tmp_path, status, counts):
    folder = RunFolder(tmp_path)
    assert trial.completed_record(folder) is None
    record = RunRecord(status=status, run=RunInfo(name="a"))
    record.folder = folder
    write_record(record)
    assert (trial.completed_record(folder) is not None) == counts
