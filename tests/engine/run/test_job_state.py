"""What a job does in a folder where another one ran before: skip, resume, restart or refuse."""

import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.errors import StopRequested, TrialPruned, UserError
from common.run_folder import PROJECT, RunFolder
from common.run_record import RunRecord
from engine import processes
from engine.run.job import Job, folder_lock, run_job
from engine.run.job_state import refuse_finished_run
from tests.support.configs import composed
from tests.support.helpers import free_port


class Jobs:
    """Run jobs of one folder, whose work is a function instead of a training."""

    def __init__(self, path):
        self.folder = RunFolder(path)
        path.mkdir(parents=True)

    def run(self, *overrides, work=lambda record: None, in_sweep=True):
        """Return the error that the job ended with, and the ckpt_path with which it ran, "skipped" where it did not."""
        seen = ["skipped"]

        def train(config, record):
            seen.append(config.ckpt_path)
            record.folder.checkpoints.mkdir(exist_ok=True)
            record.folder.last_checkpoint.touch()
            work(record)

        command = ["python", "train.py", "-m", "seed=1,2"]
        job = Job(self.folder, command, list(overrides), {"optimizer": "adam"}, in_sweep=in_sweep)
        config = composed("datamodule=image_folder", "datamodule.root=/nowhere", *overrides)
        return run_job(job, config, train), seen[-1]

    @property
    def record(self):
        return RunRecord.read(self.folder)


def raising(error):
    def work(record):
        raise error

    return work


@pytest.fixture
def jobs(tmp_path, caplog):
    caplog.set_level("INFO")
    return Jobs(tmp_path / "sweep" / "seed-1")


def test_a_finished_job_is_skipped(jobs, caplog):
    assert jobs.run() == (None, None)
    os.utime(jobs.folder.record, (1, 1))
    content = jobs.folder.record.read_bytes()
    assert jobs.run() == (None, "skipped") and "seed-1: already finished, skipping" in caplog.text
    assert jobs.folder.record.read_bytes() == content
    assert jobs.folder.record.stat().st_mtime > 1  # it belongs to this sweep


def test_a_checkpoint_of_elsewhere_is_named_as_what_differs(jobs, tmp_path):
    with pytest.raises(StopRequested):
        jobs.run(in_sweep=False, work=raising(StopRequested(signal.SIGTERM)))
    (tmp_path / "mine.ckpt").touch()
    error, ran = jobs.run(f"ckpt_path={tmp_path / 'mine.ckpt'}", in_sweep=False)
    assert ran == "skipped" and f"with other settings: ckpt_path={tmp_path / 'mine.ckpt'} (was null)." in str(error)


def test_a_pruned_job_is_skipped(jobs):
    pruned = TrialPruned("behind the others")
    assert jobs.run(work=raising(pruned)) == (pruned, None)
    assert (jobs.record.status, jobs.record.reason) == ("pruned", "behind the others")
    assert jobs.run() == (None, "skipped")


def test_a_failed_job_without_a_checkpoint_restarts_and_its_files_go(jobs, caplog):
    error = UserError("optimizer.lr=-1: use more than 0")
    assert jobs.run(work=raising(error)) == (error, None)
    assert (jobs.record.status, jobs.record.reason) == ("failed", str(error))
    jobs.folder.last_checkpoint.unlink()
    (jobs.folder.path / "left.txt").touch()
    jobs.folder.log.touch()
    assert jobs.run() == (None, None) and "seed-1: failed before its first checkpoint, restarting" in caplog.text
    assert not (jobs.folder.path / "left.txt").exists() and jobs.folder.log.exists()


def test_a_failed_job_resumes_from_its_last_checkpoint(jobs, caplog):
    jobs.run(work=raising(UserError("callbacks.mine=my.Callback: ValueError: x (callbacks.py, line 3)")))
    last = str(jobs.folder.last_checkpoint)
    assert jobs.run() == (None, last) and "seed-1: failed; resuming from checkpoints/last.ckpt" in caplog.text
    assert jobs.record.status == "finished"


def test_a_defect_is_recorded_and_logged_with_its_traceback(jobs, caplog):
    error, _ = jobs.run(work=lambda record: list(zip([1], [], strict=True)))
    assert isinstance(error, ValueError) and jobs.record.reason.startswith("ValueError: zip()")
    assert "Traceback" in caplog.text


def test_an_interrupted_job_resumes_from_its_last_checkpoint(jobs, caplog):
    with pytest.raises(StopRequested) as stopped:
        jobs.run(work=raising(StopRequested(signal.SIGTERM)))
    assert stopped.value.next_step == ". Resume with: python train.py -m seed=1,2"
    assert jobs.record.status == "running"
    last = str(jobs.folder.last_checkpoint)
    assert jobs.run() == (None, last) and "seed-1: interrupted; resuming from checkpoints/last.ckpt" in caplog.text
    assert jobs.record.status == "finished"


def test_the_signal_of_a_launcher_after_the_error_of_another_process_is_recorded_as_that_error(jobs, monkeypatch):
    """Torchrun ends all processes when one has ended; its signal may come before this one has lost the connection."""
    other = processes.Process("torchrun", 1, 1, 0, 2, 1)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": free_port()}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "_found", {})
    monkeypatch.setattr(processes, "ANSWER_S", 0.2)

    def fail():
        processes.agreed_error(other, UserError("blue.png: cannot be read"), "blue.png: cannot be read")

    thread = threading.Thread(target=fail)
    thread.start()

    def work(record):
        thread.join(30)
        raise StopRequested(signal.SIGTERM)

    error, _ = jobs.run("trainer=ddp", work=work, in_sweep=False)
    assert str(error) == "process 1: blue.png: cannot be read" and isinstance(error, processes.ShownElsewhere)
    assert (jobs.record.status, jobs.record.reason) == ("failed", str(error))


def test_a_job_that_a_full_disk_ended_resumes(jobs):
    full = OSError(errno.ENOSPC, "No space left on device", "best.ckpt")
    assert jobs.run(work=raising(full)) == (full, None)
    assert jobs.record.status == "running" and "no space is left on the disk" in jobs.record.run.warnings[-1]
    assert jobs.run() == (None, str(jobs.folder.last_checkpoint))


def test_one_interrupted_before_its_first_checkpoint_restarts(jobs, caplog):
    with pytest.raises(StopRequested):
        jobs.run(work=raising(StopRequested(signal.SIGTERM)))
    jobs.folder.last_checkpoint.unlink()
    assert jobs.run() == (None, None) and "seed-1: interrupted before its first checkpoint, restarting" in caplog.text


def test_with_other_settings_it_restarts_and_a_finished_run_is_kept(jobs, caplog):
    jobs.run()
    digest = jobs.record.run.config_hash
    assert jobs.run("seed=5") == (None, None)
    assert "seed-1: settings changed, restarting: seed=5 (was 48763)" in caplog.text
    kept = RunRecord.read(RunFolder(jobs.folder.path.parent.with_name("sweep.replaced") / f"seed-1-{digest}"))
    assert (kept.run.seed, jobs.record.run.seed) == (48763, 5)


def test_checkpoints_of_one_that_did_not_finish_are_kept_too(jobs):
    with pytest.raises(StopRequested):
        jobs.run(work=raising(StopRequested(signal.SIGTERM)))
    jobs.folder.last_checkpoint.write_text("hours of training")
    digest = jobs.record.run.config_hash
    for seed in (5, 6):
        assert jobs.run(f"seed={seed}") == (None, None)
    kept = jobs.folder.path.parent.with_name("sweep.replaced")
    assert (kept / f"seed-1-{digest}" / "checkpoints" / "last.ckpt").read_text() == "hours of training"
    assert len(list(kept.iterdir())) == 2 and not list(jobs.folder.path.glob(".before*"))


def test_a_checkpoint_of_elsewhere_does_not_replace_a_run(jobs, tmp_path):
    jobs.run(in_sweep=False)
    content = jobs.folder.record.read_bytes()
    other = tmp_path / "other.ckpt"
    other.touch()
    error, ran = jobs.run(f"ckpt_path={other}", in_sweep=False)
    assert ran == "skipped" and "holds a finished run" in str(error)
    assert jobs.folder.record.read_bytes() == content


def test_a_single_run_refuses_an_interrupted_one_with_other_settings(jobs):
    with pytest.raises(StopRequested):
        jobs.run(work=raising(StopRequested(signal.SIGTERM)), in_sweep=False)
    content = jobs.folder.record.read_bytes()
    error, ran = jobs.run("seed=5", in_sweep=False)
    assert ran == "skipped" and "holds an unfinished run with other settings: seed=5 (was 48763)" in str(error)
    assert jobs.folder.record.read_bytes() == content
    assert str(error).endswith(f". Use another folder, or resume it with ckpt_path={jobs.folder.last_checkpoint}")
    jobs.folder.last_checkpoint.unlink()
    error, _ = jobs.run("seed=5", in_sweep=False)
    assert str(error).endswith(". Use another folder, or the settings of that run, which has no checkpoint yet")


def test_a_folder_that_is_named_again(jobs):
    refuse_finished_run(jobs.folder)
    with pytest.raises(StopRequested) as stopped:
        jobs.run(work=raising(StopRequested(signal.SIGTERM)), in_sweep=False)
    resume = f". Resume with: python train.py ckpt_path={jobs.folder.last_checkpoint}"
    assert stopped.value.next_step == resume
    refuse_finished_run(jobs.folder)
    jobs.run(in_sweep=False)
    with pytest.raises(UserError, match=r"holds a finished run; use another folder$"):  # it has no best.ckpt
        refuse_finished_run(jobs.folder)
    jobs.folder.best_checkpoint.touch()
    with pytest.raises(UserError, match=r"holds a finished run; use another folder, or 'stages=\[test\]'"):
        refuse_finished_run(jobs.folder)
    jobs.folder.record.write_text("{")
    refuse_finished_run(jobs.folder)


def test_the_command_that_resumes_opens_no_test_images(jobs):
    stop = raising(StopRequested(signal.SIGTERM))
    with pytest.raises(StopRequested) as stopped:
        further = ("register=[a.Net]", "optimizer.lr=0.1", "datamodule.cache=/fast")
        jobs.run("debug=overfit", *further, work=stop, in_sweep=False)
    resume = f"ckpt_path={jobs.folder.last_checkpoint} 'register=[a.Net]' datamodule.cache=/fast 'stages=[fit]'"
    assert stopped.value.next_step == f". Resume with: python train.py {resume}"
    with pytest.raises(StopRequested) as stopped:
        jobs.run("stages=[fit]", f"ckpt_path={jobs.folder.last_checkpoint}", work=stop, in_sweep=False)
    assert stopped.value.next_step.endswith(f"ckpt_path={jobs.folder.last_checkpoint} 'stages=[fit]'")


def test_the_command_that_resumes_can_be_pasted(tmp_path):
    jobs = Jobs(tmp_path / "a b=c,ä")
    with pytest.raises(StopRequested) as stopped:
        jobs.run(work=raising(StopRequested(signal.SIGTERM)), in_sweep=False)
    _, _, argument = shlex.split(stopped.value.next_step.partition("with: ")[2])
    assert OverridesParser.create().parse_override(argument).value() == str(jobs.folder.last_checkpoint)


def test_an_evaluation_is_repeated_by_its_own_command(tmp_path):
    jobs = Jobs(tmp_path / "run")
    with pytest.raises(StopRequested) as stopped:
        jobs.run("stages=[cost]", work=raising(StopRequested(signal.SIGTERM)), in_sweep=False)
    assert stopped.value.next_step == ". Resume with: python train.py -m seed=1,2"


def test_a_folder_in_which_another_process_runs(jobs, caplog):
    handle = os.open(jobs.folder.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert jobs.run() == (None, "skipped")
        assert "seed-1: skipped: another process is running this job" in caplog.text
        error, ran = jobs.run(in_sweep=False)
        assert ran == "skipped" and "another process is training in this folder" in str(error)
        assert [path.name for path in jobs.folder.path.iterdir()] == [".lock"]
        with folder_lock(jobs.folder, rank=1) as locked:  # a further process of the run that has the lock
            assert locked
    finally:
        os.close(handle)
    with folder_lock(jobs.folder) as locked:
        assert locked
    assert not list(jobs.folder.path.iterdir())


def test_the_lock_is_held_while_a_job_runs_and_restarts(jobs):
    def locked(record):
        handle = os.open(jobs.folder.lock, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)

    assert jobs.run(work=locked) == (None, None)
    assert jobs.run("seed=5", work=locked) == (None, None)  # the finished run is moved elsewhere, the lock is not
    assert not jobs.folder.lock.exists() and not list(jobs.folder.path.parent.parent.rglob(".lock"))


def test_a_killed_process_leaves_no_lock(jobs):
    script = (
        "import os, sys, pathlib, common.run_folder, engine.run.job as job\n"
        "with job.folder_lock(common.run_folder.RunFolder(pathlib.Path(sys.argv[1]))) as locked:\n"
        "    os.kill(os.getpid(), 9) if locked else None"
    )
    killed = subprocess.run([sys.executable, "-c", script, jobs.folder.path], check=False, cwd=PROJECT)
    assert killed.returncode == -signal.SIGKILL and jobs.folder.lock.exists()
    assert jobs.run() == (None, None) and not jobs.folder.lock.exists()


def test_where_no_file_can_be_locked_a_job_runs(jobs, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert jobs.run() == (None, None)


def test_a_sweep_of_runs_of_several_processes_is_refused(jobs):
    error, ran = jobs.run("trainer=ddp")
    assert ran == "skipped" and "trainer=auto" in str(error)
