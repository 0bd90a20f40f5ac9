"""In SLURM: its signal saves, the job is queued again once, and the same command goes on to the same bits."""

import logging
import os
import signal

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from common import signals
from engine.run.job import Job
from tests.support.helpers import at_step, scalars
from tests.support.killing import outcome

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
kill -TERM $PPID  # as SLURM does with a job that is queued again
{more}
"""


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A cluster of one job; returns what scontrol was asked, and can be told to answer something else."""

    def told(number, frame):
        raise AssertionError("SLURM's SIGTERM came before the end was said")

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGUSR1)}
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


def test_its_signal_saves_and_the_same_command_goes_on(train, scontrol, monkeypatch, tmp_path):
    straight = train("trainer.max_epochs=3")
    assert straight.status == 0 and SLURMEnvironment.detect()  # Lightning, which can queue again too, sees the cluster
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    named = f"hydra.run.dir={tmp_path / 'named'}"
    stopped = train("trainer.max_epochs=3", named, to=tmp_path / "named")
    assert scontrol() == ["requeue 4711"]
    assert stopped.status == 128 + signal.SIGUSR1 and "stopped by SIGUSR1; go on: " in stopped.err
    assert "SLURM job 4711 is queued again" in stopped.out and "Traceback" not in stopped.out + stopped.err
    assert not list(stopped.folder.rglob("hpc_ckpt*"))  # of Lightning's own way, which saves in another place
    ran = train("trainer.max_epochs=3", named, to=tmp_path / "named")
    assert ran.status == 0 and scontrol() == ["requeue 4711"], ran.err
    assert outcome(straight.folder) == outcome(ran.folder) and scalars(straight.folder) == scalars(ran.folder)


def test_a_command_that_would_begin_anew_is_not_queued_again(scontrol, caplog, tmp_path):
    job = Job(tmp_path, ["python", "train.py"], [], {}, one_of_many=False)
    with caplog.at_level(logging.WARNING):
        job._queue_again(job)
        assert scontrol() == [] and "name a folder: hydra.run.dir=DIR" in caplog.text
    for known in (job._replace(one_of_many=True), job._replace(command=[*job.command, "ckpt_path=x/last.ckpt"])):
        job._queue_again(known)
    assert scontrol() == ["requeue 4711"] * 2


def test_one_of_an_array_is_queued_again_alone(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    signals.slurm_requeue()
    assert scontrol() == ["requeue 4711_3"]


def test_where_it_cannot_be_queued_again_that_is_said(scontrol, caplog, monkeypatch):
    scontrol("echo 'Requested operation is presently disabled' >&2; exit 1")
    signals.slurm_requeue()
    assert "SLURM job 4711 is not queued again: Requested operation is presently disabled" in caplog.text
    monkeypatch.setattr(signals, "SCONTROL_S", 0.3)
    scontrol("exec sleep 5")
    signals.slurm_requeue()
    monkeypatch.setenv("PATH", "/nowhere")
    signals.slurm_requeue()
    assert "timed out" in caplog.text and "No such file or directory: 'scontrol'" in caplog.text
