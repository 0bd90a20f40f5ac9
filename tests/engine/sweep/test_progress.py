import logging
import os
import pickle
import time

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from common import progress as of_progress
from common.run_folder import RunFolder
from common.run_record import RunInfo, RunRecord, write_record
from engine.sweep.hydra_callbacks import SweepReport
from engine.sweep.progress import SweepProgress, count_jobs
from tests.support.helpers import SIMPLE_CNN


def config(folder, params=None, task=()):
    return OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(folder)},
                "sweeper": {"params": params},
                "overrides": {"task": list(task)},
            }
        }
    )


@pytest.mark.parametrize(
    ("params", "task", "jobs"),
    [
        (None, ["seed=1,2,3"], 3),
        ({"model": "a,b", "seed": "range(0,4)"}, [], 8),
        ({"model": "a,b", "seed": "1,2"}, ["seed=5", "x=choice(1,2,3)"], 6),  # the command line wins
        ({"model": "a"}, ["+new='1,2'"], 1),
    ],
)
def test_jobs_are_counted_as_hydra_makes_them(params, task, jobs):
    assert count_jobs(config("x", params, task)) == jobs


def make_record(folder, status, started_at):
    folder.mkdir(parents=True)
    record = RunRecord(status=status, run=RunInfo(process_started_at=started_at))
    record.folder = RunFolder(folder)
    write_record(record)


@pytest.mark.parametrize("set_by_s", [0, -10_000, 10_000])  # the clock, after the sweep has begun; or that of a server
def test_it_describes_done_running_failed_and_time_left(tmp_path, set_by_s):
    make_record(tmp_path / "of_an_earlier_sweep", "failed", time.time() - 100)
    make_record(tmp_path / "skipped", "finished", time.time() - 1000)
    for name in ("of_an_earlier_sweep", "skipped"):
        os.utime(tmp_path / name / "result.json", (time.time() - 100,) * 2)
    begun = SweepProgress.begin(config(tmp_path, {"seed": "1,2,3,4,5,6"}), ["python", "train.py"])
    progress = SweepProgress.of(tmp_path)
    assert progress == begun and progress.jobs == 6 and progress.command == ["python", "train.py"]
    assert progress.describe() == "Sweep: 0 of 6 done, 0 running, 0 failed"
    for name, status in {"now": "finished", "failed": "failed", "on": "running"}.items():
        make_record(tmp_path / name, status, time.time() + set_by_s)
    for name in ("now", "failed", "on", "skipped"):  # the last one does not count for the pace
        os.utime(tmp_path / name / "result.json", (time.time() + set_by_s,) * 2)
    progress = progress._replace(started_at=time.time() - 20)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    # two ran in 20 s; three are left: one that runs and two that have not begun
    assert progress.describe().startswith("Sweep: 2 of 6 done, 1 running, 1 failed, about 30.")
    assert progress.unfinished() == ["failed", "on"]
    assert "left" not in progress._replace(started_at=time.time() + 20).describe()  # the clock was set back


def test_a_job_that_another_command_runs_in_the_same_folder_has_not_failed(tmp_path):
    progress = SweepProgress.begin(config(tmp_path, {"seed": "1,2"}), ["python", "train.py"])
    for name in ("runs", "killed"):
        make_record(tmp_path / name, "running", time.time())
        (tmp_path / name / ".lock").touch()
    with FileLock(tmp_path / "runs" / ".lock"):
        assert progress.unfinished() == ["killed"]
    assert progress.unfinished() == ["killed", "runs"]


def test_a_folder_without_a_sweep(tmp_path):
    assert SweepProgress.of(tmp_path) is None
    (tmp_path / "sweep.json").write_text('{"jobs": "many"}')
    assert SweepProgress.of(tmp_path) is None


def test_jobs_in_other_processes_have_lines_in_the_first_one(tmp_path, monkeypatch, caplog):
    """A launcher sends the callback, which holds a thread then, to its processes."""
    monkeypatch.setattr(of_progress, "SILENCE_S", 0.0)
    monkeypatch.setattr(logging.getLogger("engine.sweep"), "level", logging.INFO)
    report = SweepReport()
    report.progress = SweepProgress(tmp_path, ["train.py", "-m"], 3, time.time())
    report.show_lines()
    report._lines._show_if_silent()
    assert pickle.loads(pickle.dumps(report)).progress == report.progress
    report._lines.__exit__()
    assert caplog.messages[0] == "Sweep: 0 of 3 done, 0 running, 0 failed"


def test_a_record_is_read_again_only_where_it_has_changed(tmp_path, monkeypatch):
    begun = SweepProgress.begin(config(tmp_path, {"seed": "1,2"}), ["python", "train.py"])
    for name in ("a", "b"):
        make_record(tmp_path / name, "running", begun.started_at)
    read, usual = [], RunRecord.read.__func__
    monkeypatch.setattr(
        RunRecord, "read", classmethod(lambda cls, folder: (read.append(folder), usual(cls, folder))[1])
    )
    assert "2 running" in begun.describe() and "2 running" in begun.describe() and len(read) == 2
    record = RunRecord(status="finished", run=RunInfo(process_started_at=begun.started_at))
    record.folder = RunFolder(tmp_path / "b")
    write_record(record)
    assert begun.describe().startswith("Sweep: 1 of 2 done, 1 running") and len(read) == 3


@pytest.mark.thorough
def test_the_page_of_a_sweep_of_one_job_lies_in_the_folder_of_the_sweep(train, tmp_path):
    sweep = tmp_path / "sweep"
    ran = train("-m", "seed=1", *SIMPLE_CNN, "stages=[cost]", f"hydra.sweep.dir={sweep}")
    assert ran.status == 0 and f"\nPage: {sweep}/report.html\n" in ran.out, ran.err
    assert [path.parent for path in sweep.rglob("report.html")] == [sweep]
