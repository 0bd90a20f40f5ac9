"""A run is marked as a debug run by its flags, its choice, or the checkpoint that it comes from."""

import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunInfo, RunRecord
from engine.run.debug import mark_debug
from engine.run.job import Job, run_job
from tests.support.configs import composed
from tests.support.fake_runs import make_run


def marked(choice=None, ckpt_path=None, **flags) -> str | None:
    record = RunRecord(run=RunInfo(choices={"debug": choice, "model": "resnet18"}))
    mark_debug(OmegaConf.create({"trainer": flags, "ckpt_path": ckpt_path}), record)
    return record.run.debug


def test_flags_and_choices_mark_a_run_and_the_screen_says_so(caplog):
    assert marked(max_epochs=3) is None and not caplog.messages
    assert marked("profile") == "debug=profile"
    assert marked(limit_train_batches=0.1) == "trainer.limit_train_batches=0.1"
    assert caplog.messages[0] == "debug run (debug=profile): its results mean nothing, and no report ranks it"


def test_what_comes_from_a_debug_run_remains_one(tmp_path):
    for name, debug in (("quick", "debug=fast"), ("again", "from a checkpoint of debug=fast"), ("good", None)):
        make_run(tmp_path / name, epochs=0, run={"debug": debug})
    of = {name: str(tmp_path / name / "checkpoints" / "best.ckpt") for name in ("quick", "again", "good", "none")}
    assert marked(ckpt_path=of["quick"]) == marked(ckpt_path=of["again"]) == "from a checkpoint of debug=fast"
    assert marked(ckpt_path=of["good"]) is None and marked(ckpt_path=of["none"]) is None
    assert marked("limit", ckpt_path=of["quick"]) == "debug=limit"


def test_a_debug_run_is_refused_in_the_folder_of_another_run(tmp_path):
    for name, debug in (("good", None), ("quick", "debug=fast")):
        make_run(tmp_path / name, epochs=0, run={"debug": debug})
    config = OmegaConf.create({"trainer": {"limit_test_batches": 1}, "ckpt_path": None})
    records = {
        name: RunRecord.begin(RunFolder(tmp_path / name), command=[], overrides=[]) for name in ("good", "quick", "new")
    }
    with pytest.raises(UserError, match=r"^trainer\.limit_test_batches=1: a debug run, .*hydra\.run\.dir=DIR"):
        mark_debug(config, records["good"])
    for name in ("quick", "new"):
        mark_debug(config, records[name])
        assert records[name].run.debug == "trainer.limit_test_batches=1"


def test_a_sweep_of_an_experiment_refuses_a_debug_file_before_it_trains(tmp_path):
    config = composed("datamodule=image_folder", "datamodule.root=/nowhere", "debug=fast")
    job = Job(RunFolder(tmp_path), ["python", "train.py"], [], {"debug": "fast"}, in_sweep=True)
    error = run_job(job, config, lambda config, record: pytest.fail("trained"))
    assert isinstance(error, UserError) and str(error).startswith("debug=fast in a sweep: a debug run is never ranked")
