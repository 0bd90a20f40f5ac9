"""On a SLURM of one node, which is started here: a sweep with a canceled and a requeued job, and two tasks of srun."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from common.run_record import RunRecord
from tests.support.helpers import NOT_DRAWN, free_port
from tests.support.processes import TRAIN, small_training, start
from tests.support.sweep_results import finished

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="slurmd is started by root only"),
]
# No cgroups, which a container may not make; jobs of any size fit; a requeued job starts at once (cred_expire)
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=100000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# submitit asks sacct, which needs a database
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
exec squeue --noheader --array --states=all --format="%i|%T|%N"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start munged, slurmctld and slurmd; yield the environment of their clients."""
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    (folder / "bin" / "sacct").write_text(SACCT)
    (folder / "bin" / "sacct").chmod(0o755)
    ports = [free_port(), free_port()]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, ports=ports))
    usual = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    paths = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment = usual | paths | {"OMP_NUM_THREADS": "1"}
    own = [
        f"--{name}={folder / file}" for name, file in (("socket", "munge"), ("key-file", "key"), ("seed-file", "seed"))
    ]
    own += [f"--{name}-file={folder / name}" for name in ("pid", "log")]
    commands = (["munged", "--foreground", "--force", *own], ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"])
    started = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))
            time.sleep(1)
        for _ in range(30):
            node = asked("sinfo", "--noheader", "--format=%T", environment=environment)
            if node == "idle":
                break
            time.sleep(1)
        assert node == "idle", "".join(path.read_text() for path in folder.glob("*.out"))
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, check=False, timeout=30)
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)


def asked(*command, environment):
    """Return what a client of SLURM prints."""
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return ran.stdout.strip()


def test_a_canceled_job_is_named_a_requeued_one_resumes_and_the_same_command_completes(slurm, two_colors, tmp_path):
    folder = tmp_path / "sweep"
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=null"]
    settings = ["seed=1,2", "trainer.max_epochs=100", *launcher, f"hydra.sweep.dir={folder}", *NOT_DRAWN]
    command = [TRAIN, "-m", *small_training(two_colors, tmp_path, *settings)]
    process = start(*command, env=slurm)
    while len(list(folder.glob("*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    array = asked("squeue", "--noheader", "--array", "--format=%F", environment=slurm).split()[0]
    asked("scancel", f"{array}_0", environment=slurm)
    asked("scontrol", "requeue", f"{array}_1", environment=slurm)
    out, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in out + err
    assert f"ERROR: seed-1: lost: job {array}_0, CANCELLED; what it wrote: " in out
    assert err.endswith("ERROR: 1 job failed: seed-1. Rerun the same command to retry only these\n")
    (log,) = (folder / ".submitit" / f"{array}_1").glob("*.out")
    assert "seed-2: interrupted; resuming from checkpoints/last.ckpt" in log.read_text()
    before = finished(folder)
    assert [path.parent.name for path in before] == ["seed-2"]
    again = start(*command, env=slurm)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert len(after := finished(folder)) == 2 and before.items() <= after.items()


def test_two_tasks_of_srun_train_one_network(slurm, two_colors, tmp_path):
    folder = tmp_path / "outputs" / "run"
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1", "datamodule.batch_size=4"]
    settings += [f"hydra.run.dir={folder}", *NOT_DRAWN]
    command = ["srun", "--ntasks=2", sys.executable, TRAIN, *small_training(two_colors, folder.parent, *settings)]
    ran = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    record = RunRecord.read(folder)
    assert (record.run.processes, record.run.nodes, record.test.accuracy.n) == (2, 1, 14)
    assert ran.stdout.count("epoch 1/1") == ran.stdout.count("Test accuracy") == 1
