"""Two processes that are stopped in the middle of an epoch end together and resume to the same bits."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.helpers import PROJECT, outcome, read_csv, scalars

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def start(images, folder, *arguments, stop_at=""):
    """Six steps an epoch for each of two processes, three epochs."""
    command = [sys.executable, str(PROJECT / "tests" / "support" / "stop_at_step" / "train.py")]
    if not any(a.startswith("ckpt_path") for a in arguments):
        command += ["datamodule=image_folder", f"datamodule.root={images}", "model.image_size=32", "trainer=ddp"]
        command += ["datamodule.batch_size=2", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=3"]
        command += ["model.weights=null", "optimizer.lr=0.003", f"hydra.run.dir={folder}"]
    command += [f"datamodule.cache={folder.parent / 'cache'}", "stages=[fit,test]", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STOP_AT": stop_at}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)


@pytest.fixture(scope="module")
def straight(two_colors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    ran = start(two_colors, folder)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.parametrize(
    "process", [pytest.param(0, id="signal to the first"), pytest.param(1, id="signal to the other")]
)
def test_a_signal_to_one_of_them_ends_both_and_they_resume(straight, two_colors, tmp_path, process):
    folder = tmp_path / "run"
    stopped = start(two_colors, folder, stop_at=f"{process}:9:{int(signal.SIGTERM)}")
    last = folder / "checkpoints" / "last.ckpt"
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr.count(f"stopped by SIGTERM. Resume with: python train.py ckpt_path={last}") == 1
    ran = start(two_colors, folder, f"ckpt_path={last}")
    assert ran.returncode == 0, ran.stderr
    assert len(read_csv(folder / "metrics.csv")) == 3
    assert outcome(folder) == outcome(straight) and scalars(folder) == scalars(straight)


def test_killed_they_resume_in_the_middle_of_an_epoch(straight, two_colors, tmp_path):
    folder = tmp_path / "run"
    steps = "callbacks.last_checkpoint.every_n_train_steps=4"
    killed = start(two_colors, folder, steps, stop_at=f"0:11:{int(signal.SIGKILL)}")
    assert killed.returncode == -signal.SIGKILL
    assert "another process of this run has ended" in killed.stderr and "Traceback" not in killed.stderr
    ran = start(two_colors, folder, steps)  # a command that names its folder
    assert ran.returncode == 0 and "interrupted; resuming from checkpoints/last.ckpt" in ran.stdout, ran.stderr
    assert outcome(folder) == outcome(straight) and scalars(folder) == scalars(straight)


def test_a_nan_loss_ends_both_with_one_message(two_colors, tmp_path):
    ran = start(two_colors, tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e30")
    assert ran.returncode == 1 and ran.stderr.count("ERROR: the loss is ") == 1, ran.stderr
    assert "Traceback" not in ran.stderr
