"""Sweeps whose process is killed at random moments. A seed, which is printed, gives the moments."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.helpers import PROJECT
from tests.support.processes import TRAIN, small_training, start
from tests.support.sweep_results import finished, results

KILLS = 6


def start_sweep(folder, images):
    settings = ["seed=1,2", "optimizer=adam,sgd", "trainer.max_epochs=3", "model=shufflenet_mod", "model.image_size=32"]
    settings += ["datamodule.batch_size=8", f"hydra.sweep.dir={folder}"]
    return start(TRAIN, "-m", *small_training(images, folder.parent, *settings), stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_killed_again_and_again_ends_as_one_that_was_not(tmp_path, two_colors):
    seed = int(os.environ.get("KILL_SEED", time.time()))
    print(f"KILL_SEED={seed}")
    moments = random.Random(seed)
    undisturbed = start_sweep(tmp_path / "undisturbed", two_colors)
    started = time.monotonic()
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    longest = time.monotonic() - started
    for _ in range(KILLS):
        process = start_sweep(tmp_path / "killed", two_colors)
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
    last = start_sweep(tmp_path / "killed", two_colors)
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
