"""Fixtures: made-up images, the command line in this process, one finished run."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from common.run_folder import RunFolder
from engine.process_tuning import tune_process
from lightning_modules.networks.registry import build_network
from tests.support.commands import Ran, run_script, train_in
from tests.support.composing import remember_files
from tests.support.fake_runs import judged, make_run
from tests.support.helpers import FINAL, make_images

tune_process()
remember_files()
os.fsync = lambda file: None  # which takes milliseconds, and matters only where the power fails
torch.set_num_threads(1)  # small networks; the cores are for the other test processes


@pytest.fixture(scope="session")
def two_colors(tmp_path_factory) -> Path:
    """train 24, val 12 and test 14 images of two colors."""
    counts = {
        f"{split}/{color}": n for split, n in (("train", 12), ("val", 6), ("test", 7)) for color in ("blue", "red")
    }
    return make_images(tmp_path_factory.mktemp("two_colors"), counts)


@pytest.fixture
def run(tmp_path):
    """Make up a run of this name, without curves."""
    return lambda name, **options: make_run(tmp_path / name, epochs=0, **options)


@pytest.fixture
def summary(tmp_path):
    """Summarize the runs made up so far, as a report does."""
    return lambda: judged(tmp_path)


@pytest.fixture
def in_process():
    """Run `python SCRIPT.py ARGUMENTS` in this process; return status, output, errors."""
    return run_script


@pytest.fixture(scope="session")
def finished_run(two_colors, tmp_path_factory) -> Ran:
    """One run of all stages, two epochs of three steps on two_colors with everything drawn: never change its folder."""
    ran = train_in(tmp_path_factory.mktemp("finished"), two_colors)("stages=[cost,fit,test]", drawn=True)
    assert ran.status == 0, ran.err
    return ran


@pytest.fixture
def made(finished_run, tmp_path) -> RunFolder:
    """A copy of the finished run, to change or to evaluate."""
    return RunFolder(shutil.copytree(finished_run.folder, tmp_path / "made"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Write weights of a backbone whose batch norms have seen images; return their path."""
    path = tmp_path_factory.mktemp("pretrained") / "weights.pth"
    torch.manual_seed(0)
    network = build_network(num_classes=2, **FINAL)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, 3, 32, 32))
    torch.save(network.backbone.state_dict(), path)
    return path


@pytest.fixture
def train(tmp_path, two_colors):
    """Run `python train.py ...` in this process on small images."""
    return train_in(tmp_path, two_colors)
