"""The command line in this process, on small images."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra

from common.run_record import RunRecord
from engine import cli
from engine.state import STATE
from tests.support.helpers import NOT_DRAWN, PROJECT

SMALL_RUN = (
    "datamodule=image_folder",
    "model.image_size=32",
    "datamodule.batch_size=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "optimizer.lr=0.003",
    "model.weights=null",
)
# After the first epoch nothing is better by so much: early stopping ends the run after the third of six
STOPPED_EARLY = (
    "+callbacks.early_stopping._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.early_stopping.monitor=val/loss",
    "+callbacks.early_stopping.patience=2",
    "+callbacks.early_stopping.min_delta=9",
    "trainer.max_epochs=6",
)


@dataclass
class Ran:
    """What a command left: exit status, what it printed, its folder."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def record(self) -> RunRecord:
        return RunRecord.read(self.folder)


def run_script(script, *arguments: str) -> tuple[int, str, str]:
    """Run `python SCRIPT.py ARGUMENTS` in this process; return status, output, errors."""
    GlobalHydra.instance().clear()
    STATE.failed.clear()
    status, out, err = 0, io.StringIO(), io.StringIO()
    environment = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", cli.TRACEBACK)}  # both are set
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", [str(PROJECT / f"{script.__name__}.py"), *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.run_cli(script.main)
        except SystemExit as error:
            status = error.code
        finally:
            STATE.failed.clear()
    return status, out.getvalue(), err.getvalue()


def train_in(place: Path, images: Path) -> Callable[..., Ran]:
    """Return a function that runs `python train.py ...` on small images in folders of `place`.

    Figures and costs take longer than such a training: figures are drawn with `drawn`, costs measured with `stages`. `to` is
    where the run is expected; `small=False` gives a command as it is.
    """
    import train as script

    cache = f"datamodule.cache={place / 'cache'}"

    def run(
        *overrides: str, root: Path = images, to: Path | None = None, small: bool = True, drawn: bool = False
    ) -> Ran:
        folder = to or place / f"run{len(list(place.glob('run*')))}"
        arguments = list(overrides)
        if small:
            options = [a for a in arguments if a.startswith("-")]
            given = [a for a in arguments if a not in options]
            settings = [*SMALL_RUN, f"datamodule.root={root}", "stages=[fit,test]", cache]
            settings += [] if drawn else [*NOT_DRAWN, "overview=false"]
            typed = {a.lstrip("+").partition("=")[0] for a in given if "=" in a}  # twice the same would be a warning
            arguments = [*options, *(a for a in settings if a.lstrip("+").partition("=")[0] not in typed), *given]
        elif any(a.startswith("ckpt_path") for a in arguments):
            arguments.append(cache)  # of each command, never of the run that it resumes
            if not any(a.startswith("stages=") for a in arguments):
                arguments.append("stages=[fit,test]")
        of_itself = () if "stages=[test]" in arguments else ("ckpt_path",)  # a run that resumes has its folder
        if not any(a.startswith(("hydra.run.dir", "-m", "hydra.sweep.dir", *of_itself)) for a in arguments):
            arguments.append(f"hydra.run.dir={folder}")
        figure = contextlib.nullcontext() if drawn else patch("engine.run.evaluate._draw_calibration")
        with figure:
            return Ran(*run_script(script, *arguments), folder)

    return run


def kill_before_training(place: Path, *arguments: str) -> None:
    """Run `python train.py ...` in a process that is killed (SIGKILL) when its trainer would be built."""
    script = (
        "import sys, os, signal, tests.support.commands as c, engine.run.stages as s, pathlib\n"
        "s.build_trainer = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.train_in(pathlib.Path(sys.argv[1]), None)(*sys.argv[2:], small=False)"
    )
    killed = subprocess.run([sys.executable, "-c", script, place, *arguments], cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
