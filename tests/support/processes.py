"""Commands in processes of their own: a small training, and the variables that SLURM sets."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.helpers import PROJECT, SIMPLE_CNN

TRAIN = str(PROJECT / "train.py")
# In the batch script of a job of two tasks, as SLURM 22.05 sets them
BATCH = {
    "SLURM_JOB_ID": "3", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_TASKS_PER_NODE": "2", "SLURM_NODELIST": "vm",
}  # fmt: skip


def small_training(images: Path, place: Path, *given: str) -> list[str]:
    """Return the settings of the quickest training with its cache in `place`; those that are given replace them."""
    settings = [
        "datamodule=image_folder", f"datamodule.root={images}", f"datamodule.cache={place / 'cache'}", *SIMPLE_CNN,
        "trainer=cpu", "model.weights=null", "stages=[fit,test]",
    ]  # fmt: skip
    typed = {each.partition("=")[0] for each in given}
    return [*(each for each in settings if each.partition("=")[0] not in typed), *given]


def start(*command: str, variables: Mapping[str, str] | None = None, **options) -> subprocess.Popen:
    """Start `python COMMAND` on one thread with further environment variables; `options` are those of Popen."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, *command], **usual | options)


def wait(*started: subprocess.Popen) -> list[tuple[int, str, str]]:
    """Return status, output and errors of each."""
    ended = [process.communicate() for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, ended, strict=True)]
