"""In SLURM: its signal saves, the job is requeued once, and the same command resumes to the same bits."""

import logging
import os
import signal

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from common import signals
from common.run_folder import RunFolder
from engine.run import job as jobs
from engine.run.job import Job
from tests.support.helpers import at_step, outcome, scalars

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
kill -TERM $PPID  # as SLURM does with a job that it requeues
{more}
"""


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Set up a cluster of one job; return the calls of scontrol, which can get another answer."""

    def too_early(number, frame):
        raise AssertionError("SLURM's SIGTERM came before the end was logged")

    before = {number: signal.signal(number, too_early) for number in (signal.SIGTERM, signal.SIGUSR1)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    calls, script = tmp_path / "calls", tmp_path / "bin" / "scontrol"
    script.parent.mkdir()

    def asked(more=None):
        if more is not None:
            script.write_text(SCONTROL.format(calls=calls, more=more))
            script.chmod(0o755)
        return calls.read_text().splitlines() if calls.is_file() else []

    asked("exit 0")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NODEID", "0")
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.thorough
def test_its_signal_saves_and_the_same_command_resumes(train, finished_run, scontrol, monkeypatch, tmp_path):
    assert SLURMEnvironment.detect()  # Lightning, which can requeue too, sees the cluster
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    named = f"hydra.run.dir={tmp_path / 'named'}"
    stopped = train(named, to=tmp_path / "named")
    assert scontrol() == ["requeue 4711"]
    assert stopped.status == 128 + signal.SIGUSR1 and "stopped by SIGUSR1. Resume with: " in stopped.err
    assert "SLURM job 4711 was requeued" in stopped.out and "Traceback" not in stopped.out + stopped.err
    assert not list(stopped.folder.rglob("hpc_ckpt*"))  # of Lightning's own way, which saves in another place
    ran = train(named, to=tmp_path / "named")
    assert ran.status == 0 and scontrol() == ["requeue 4711"], ran.err
    assert outcome(finished_run.folder) == outcome(ran.folder) and scalars(finished_run.folder) == scalars(ran.folder)


def test_a_command_that_would_start_another_run_is_not_requeued(scontrol, caplog, tmp_path):
    job = Job(RunFolder(tmp_path), ["python", "train.py"], [], {}, in_sweep=False)
    with caplog.at_level(logging.WARNING):
        jobs._requeue(job)
        assert scontrol() == [] and "set a folder: hydra.run.dir=DIR" in caplog.text
    for known in (job._replace(in_sweep=True), job._replace(command=[*job.command, "ckpt_path=x/last.ckpt"])):
        jobs._requeue(known)
    assert scontrol() == ["requeue 4711"] * 2


def test_only_one_of_an_array_is_requeued(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    signals.slurm_requeue()
    assert scontrol() == ["requeue 4711_3"]


def test_where_it_cannot_be_requeued_the_reason_is_logged(scontrol, caplog, monkeypatch):
    scontrol("echo 'Requested operation is presently disabled' >&2; exit 1")
    signals.slurm_requeue()
    assert "could not requeue SLURM job 4711: Requested operation is presently disabled" in caplog.text
    monkeypatch.setattr(signals, "SCONTROL_S", 0.3)
    scontrol("exec sleep 5")
    signals.slurm_requeue()
    monkeypatch.setenv("PATH", "/nowhere")
    signals.slurm_requeue()
    assert "timed out" in caplog.text and "No such file or directory: 'scontrol'" in caplog.text
