"""Memory of a process that trains for long, and of one that runs many jobs."""

import json
import subprocess
import sys

import pytest

from tests.support.helpers import PROJECT

MOST_MIB = 50
CODE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import torch
import train
from callbacks.epoch_logger import EpochLogger
from engine import cli

torch.set_num_threads(1)
resident = []

def look():
    with open("/proc/self/statm") as file:
        resident.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)

if sys.argv[2] == "epochs":
    finish = EpochLogger.on_train_epoch_end
    EpochLogger.on_train_epoch_end = lambda *arguments: (finish(*arguments), look())
else:
    run_job = cli.run_job
    cli.run_job = lambda *arguments: (run_job(*arguments), look())[0]
sys.argv = [os.path.join(sys.argv[1], "train.py"), *sys.argv[3:]]
cli.run_cli(train.main)
print("RESIDENT", json.dumps(resident))
"""


def resident_mib(kind, images, place, *arguments):
    command = [sys.executable, "-c", CODE, str(PROJECT), kind, *arguments, "datamodule=image_folder"]
    command += [f"datamodule.root={images}", f"datamodule.cache={place / 'cache'}", "model.image_size=32"]
    command += ["datamodule.batch_size=8", "trainer=cpu", "model.weights=null", "stages=[fit,test]"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.rpartition("RESIDENT")[2])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(600)
def test_two_hundred_epochs(tmp_path, two_colors):
    resident = resident_mib(
        "epochs", two_colors, tmp_path, "trainer.max_epochs=200", f"hydra.run.dir={tmp_path / 'run'}"
    )
    print(f"after epoch 1: {resident[0]:.0f} MiB, largest of the others: {max(resident[1:]):.0f} MiB")
    assert len(resident) == 200 and max(resident) - resident[0] < MOST_MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(1800)  # eight minutes where the machine is busy
def test_fifty_jobs_of_one_process(tmp_path, two_colors):
    sweep = ["-m", "seed=range(1,51)", "trainer.max_epochs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    resident = resident_mib("jobs", two_colors, tmp_path, *sweep)
    print(f"after job 1: {resident[0]:.0f} MiB, largest of the others: {max(resident[1:]):.0f} MiB")
    assert len(resident) == 50 and max(resident) - resident[0] < MOST_MIB
