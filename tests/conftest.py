"""Fixtures: made-up images, and the command line in this process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from common.run_record import read_record
from engine.process_tuning import tune_process
from tests.support.fake_runs import judged, make_run
from tests.support.helpers import NOT_DRAWN, PROJECT, make_images

tune_process()
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
    """Makes up a run of this name, without curves."""
    return lambda name, **options: make_run(tmp_path / name, epochs=0, **options)


@pytest.fixture
def summary(tmp_path):
    """What a report says of the runs made up so far."""
    return lambda: judged(tmp_path)


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs `python SCRIPT.py ARGUMENTS` in this process; returns status, output, errors."""
    from engine import cli

    def call(script, *arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        cli.FAILED.clear()
        for name in ("HYDRA_FULL_ERROR", cli.TRACEBACK):  # start sets both
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "argv", [str(PROJECT / f"{script.__name__}.py"), *arguments])
        capsys.readouterr()
        status = 0
        try:
            cli.run_cli(script.main)
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    yield call
    cli.FAILED.clear()


@dataclass
class Ran:
    """What a command left: exit status, what it printed, its folder."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def record(self) -> dict:
        return read_record(self.folder / "result.json")


@pytest.fixture
def train(tmp_path, in_process, two_colors):
    """Runs `python train.py ...` in this process on small images; paths of the run can be chosen by `to`.

    What is drawn for the eye takes longer than such a training and is left out, unless a test wants it: `drawn`.
    """
    import train as script

    small_cache = f"datamodule.cache={tmp_path / 'cache'}"
    small_run = [
        "datamodule=image_folder",
        "model.image_size=32",
        "datamodule.batch_size=8",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "optimizer.lr=0.003",
        "model.weights=null",
        "stages=[fit,test]",
        small_cache,
    ]

    def run(
        *overrides: str, root: Path = two_colors, to: Path | None = None, small: bool = True, drawn: bool = False
    ) -> Ran:
        folder = to or tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        arguments = list(overrides)
        if small:
            options = [a for a in arguments if a.startswith("-")]
            bare = [] if drawn else NOT_DRAWN
            given = [a for a in arguments if a not in options]
            arguments = [*options, f"datamodule.root={root}", *small_run, *bare, *given]
        elif any(a.startswith("ckpt_path") for a in arguments):
            arguments.append(small_cache)  # of each command, never of the run that it takes up
        if not any(a.startswith(("hydra.run.dir", "ckpt_path", "-m", "hydra.sweep.dir")) for a in arguments):
            arguments.append(f"hydra.run.dir={folder}")
        return Ran(*in_process(script, *arguments), folder)

    return run
