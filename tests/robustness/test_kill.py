"""Sweeps whose process is killed at random moments. A seed, which is printed, gives the moments."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.helpers import PROJECT
from tests.support.sweep_results import finished, results

KILLS = 6


def start(folder, images):
    command = [
        sys.executable,
        str(PROJECT / "train.py"),
        "-m",
        "seed=1,2",
        "optimizer=adam,sgd",
        "trainer.max_epochs=3",
    ]
    command += ["datamodule=image_folder", f"datamodule.root={images}", f"datamodule.cache={folder.parent / 'cache'}"]
    command += ["model.image_size=32", "datamodule.batch_size=8", "trainer=cpu", "model.weights=null"]
    command += ["stages=[fit,test]", f"hydra.sweep.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_killed_again_and_again_ends_as_one_that_was_not(tmp_path, two_colors):
    seed = int(os.environ.get("KILL_SEED", time.time()))
    print(f"KILL_SEED={seed}")
    moments = random.Random(seed)
    undisturbed = start(tmp_path / "undisturbed", two_colors)
    started = time.monotonic()
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    longest = time.monotonic() - started
    for _ in range(KILLS):
        process = start(tmp_path / "killed", two_colors)
        before = finished(tmp_path / "killed")
        moment = moments.uniform(2, 0.7 * longest)
        print(f"killed after {moment:.2f} s")
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        after = finished(tmp_path / "killed")
        assert all(after[path] == content for path, content in before.items())  # nothing finished runs twice
    last = start(tmp_path / "killed", two_colors)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert "Sweep: 4 of 4 done, 0 running, 0 failed" in output
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_fifty_moments_ends_in_the_same_bits(tmp_path, two_colors):
    seed = os.environ.get("KILL_SEED", str(int(time.time())))
    command = [
        sys.executable,
        str(PROJECT / "tests" / "support" / "killing.py"),
        str(tmp_path / "runs"),
        str(two_colors),
        "--seed",
        seed,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "50 kills" in ran.stdout
