"""Sweeps on the engines that Hydra's plugins bring, as processes of their own."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hydra.errors import MissingConfigException

from common.errors import StopRequested
from engine import cli, error_messages
from engine.cli import threads_of_job
from tests.support.commands import Ran
from tests.support.helpers import NOT_DRAWN, needs_ray
from tests.support.processes import TRAIN, small_training, start, wait

BATCH_SIZES = (8, 12, 99)  # the last one is larger than the training split


def sweep(folder, images, *arguments):
    settings = ["trainer.max_epochs=1", f"hydra.sweep.dir={folder / 'sweep'}", *NOT_DRAWN, *arguments]
    sizes = f"datamodule.batch_size={','.join(map(str, BATCH_SIZES))}"
    ((status, out, err),) = wait(start(TRAIN, "-m", sizes, *small_training(images, folder, *settings)))
    return Ran(status, out, err, folder / "sweep")


def check(ran):
    """Check that two jobs finished, and that the command knows of the third one, which failed in its own process."""
    jobs = {path.parent.name: json.loads(path.read_text()) for path in ran.folder.glob("*/result.json")}
    states = {name: job["status"] for name, job in jobs.items()}
    assert states == {"batch_size-8": "finished", "batch_size-12": "finished", "batch_size-99": "failed"}, ran.err
    assert ran.status == 1 and "ERROR: 1 job failed: batch_size-99" in ran.err
    assert "Traceback" not in ran.out + ran.err
    logs = "".join(
        path.read_text() for path in (ran.folder / ".submitit").rglob("*.out")
    )  # submitit's jobs write there
    assert "Sweep: 2 of 3 done, 0 running, 1 failed" in ran.out + logs and "Page: " in ran.out
    commands = {job["run"]["command"] for job in jobs.values()}
    assert len(commands) == 1 and "train.py -m datamodule.batch_size=8,12,99" in commands.pop()
    return jobs


def needs(plugin):
    found = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not found, reason=f"{plugin} is not installed")


@pytest.mark.slow
@needs("hydra_joblib_launcher")
@pytest.mark.timeout(200)
def test_joblib_runs_jobs_side_by_side_each_with_its_share_of_the_cores(tmp_path, two_colors):
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    ran = sweep(tmp_path, two_colors, *parallel, "stages=[cost,fit,test]")
    jobs = check(ran)
    trained, _, measured = ran.out.partition("Latency of 2 runs, measured in turn")
    assert "latency p50" not in trained and measured.count(": latency p50 ") == 2
    assert all(job["model"]["latency"] for job in jobs.values() if job["status"] == "finished")
    threads = {job["run"]["threads"] for job in jobs.values() if job["status"] == "finished"}
    assert threads == {threads_of_job(2)}


def start_joblib(tmp_path, images, out=subprocess.PIPE):
    """Start a sweep of long jobs in a process group of its own; return once two of them have a checkpoint."""
    settings = ["seed=1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_epochs=100000"]
    settings += [f"hydra.sweep.dir={tmp_path / 'sweep'}", *NOT_DRAWN]
    process = start(
        TRAIN, "-m", *small_training(images, tmp_path, *settings), stdout=out, stderr=out,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while len(list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


@pytest.mark.slow
@needs("hydra_joblib_launcher")
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("send", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)])
def test_a_signal_saves_the_jobs_of_joblib_and_leaves_none_behind(tmp_path, two_colors, send, number):
    """One to the command by itself, as of kill; one to its processes too, as a terminal sends it."""
    process = start_joblib(tmp_path, two_colors)
    send(process.pid, number)
    out, err = process.communicate()
    assert process.returncode == 128 + number and f"stopped by {number.name}. Resume with: python train.py -m " in err
    assert "Traceback" not in out + err and "leaked" not in err
    jobs = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/result.json")}
    assert sorted(jobs) == ["seed-1", "seed-2"] and not (tmp_path / "sweep" / "seed-3").exists()
    # Written after last.ckpt, which a job that is killed does not come to
    assert all("stopping after this step" in str(job["run"]["warnings"]) for job in jobs.values())
    with pytest.raises(ProcessLookupError):
        while True:  # until the last helper of joblib has ended
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
@needs("hydra_joblib_launcher")
@pytest.mark.timeout(200)
def test_where_the_command_of_joblib_is_killed_its_jobs_save_and_end(tmp_path, two_colors):
    process = start_joblib(tmp_path, two_colors, subprocess.DEVNULL)
    try:
        process.kill()
        process.wait()
        end_s = time.monotonic() + 30
        for name in ("seed-1", "seed-2"):
            while "stopping after this step" not in (tmp_path / "sweep" / name / "result.json").read_text():
                assert time.monotonic() < end_s, f"{name} trains on"
                time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@needs("hydra_submitit_launcher")
def test_submitit_runs_jobs_here(tmp_path, two_colors):
    check(sweep(tmp_path, two_colors, "hydra/launcher=submitit_local"))


@pytest.mark.slow
@needs_ray
def test_ray_runs_jobs_here_and_reuses_their_processes(tmp_path, two_colors):
    ran = sweep(tmp_path, two_colors, "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=1")
    check(ran)
    assert len(set(re.findall(r"job pid=(\d+)", ran.out))) == 1
    assert "Token authentication" not in ran.out + ran.err  # Ray's own warning, of what it does by default


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm")])
def test_a_launcher_that_is_not_installed_names_its_extra(launcher, extra):
    missing = MissingConfigException("not found", missing_cfg_file=f"hydra/launcher/{launcher}", options=["basic"])
    assert error_messages.user_message(missing) == (
        f'hydra/launcher={launcher}: its package is not installed; install it with pip install -e ".[{extra}]"'
    )


def test_without_ray_the_command_names_the_extra_and_leaves_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = train("-m", "seed=1,2", "hydra/launcher=ray", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 1
    assert ran.err == 'ERROR: hydra/launcher=ray: ray is not installed; install it with pip install -e ".[ray]"\n'
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("program", "mode", "reason"), [
    ("", 0o755, "there is no program sinfo"),
    ("#!/bin/sh\nexit 0\n", 0o644, "sinfo: Permission denied"),
    ("#!/bin/sh\necho one >&2; echo 'fatal: no source' >&2; exit 1\n", 0o755, "fatal: no source"),
])  # fmt: skip
def test_without_slurm_a_sweep_by_it_is_refused_and_leaves_nothing(train, tmp_path, monkeypatch, program, mode, reason):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / "sinfo").write_text(program)
        (tmp_path / "bin" / "sinfo").chmod(mode)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    ran = train("-m", "seed=1,2", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 1 and ran.err == (
        f"ERROR: hydra/launcher=submitit_slurm: SLURM cannot be reached from this machine ({reason}); run the command on a "
        "login node of a cluster, or use hydra/launcher=joblib\n"
    )
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("n_jobs", "message"), [
    ("0", "hydra.launcher.n_jobs=0: use how many jobs run at a time, or -1 for one per core"),
    ("two", "hydra.launcher.n_jobs=two: Value 'two' of type 'str' could not be converted to Integer"),
])  # fmt: skip
def test_an_impossible_number_of_jobs_is_refused_and_leaves_nothing(train, tmp_path, n_jobs, message):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra joblib")
    parallel = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}")
    ran = train("-m", "seed=1,2", *parallel, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 1 and ran.err == f"ERROR: {message}\n"
    assert not (tmp_path / "sweep").exists()


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(cli.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [threads_of_job(jobs) for jobs in (1, 2, 5, 16, 40, -1)] == [16, 8, 3, 1, 1, 1]


def test_on_windows_jobs_of_joblib_are_not_ended_before_they_have_saved(monkeypatch):
    """There, os.kill(process, SIGTERM) ends a process at once, and a Ctrl-C reaches the jobs from the console."""
    joblib_workers = pytest.importorskip("engine.sweep.joblib_workers", reason="needs the extra joblib")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(joblib_workers, "usual_launch", lambda *_: signal.raise_signal(signal.SIGTERM) or [])
    monkeypatch.setattr(joblib_workers.multiprocessing, "active_children", lambda: [SimpleNamespace(pid=os.getpid())])
    monkeypatch.setattr(joblib_workers.os, "kill", lambda *_: pytest.fail("ended a job"))
    with pytest.raises(StopRequested, match="SIGTERM"):
        joblib_workers.launch(None, [], 0)
