"""Hydra callbacks around a sweep: seeds and sweep.json at its start; latencies, report and exit status at its end."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from common.idle import key_of
from common.progress import EVERY_S, Progress
from common.run_folder import missing_folders
from common.text import printable
from engine.config.top_level import check_trainer_group
from engine.error_messages import user_message
from engine.processes import starts_processes
from engine.state import STATE, FailedJob
from engine.sweep import ray_launcher
from engine.sweep.latency import deploy_rest, measure_latencies
from engine.sweep.lost_jobs import wait_for_all
from engine.sweep.other_inputs import warn_of_other_inputs
from engine.sweep.progress import SweepProgress
from engine.sweep.seeds import check_single_run, complete_sweep

log = logging.getLogger(__name__)
# Loggers for the time before and between jobs, when Hydra's logging shows only warnings
SHOWN = ("engine.sweep", "engine.run.deploy", "reports.report", "common.progress")
# Methods import late, since every start of a job imports this file


class SweepReport(Callback):
    """At the start, add the seeds and write sweep.json; at the end, write the report and print its table and answer."""

    def __init__(self):
        self.progress: SweepProgress | None = None
        self._lines: Progress | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_lines": None}  # launchers pickle this object for their processes

    def on_run_start(self, config: DictConfig, **_) -> None:
        with _refusing():
            check_trainer_group(config)  # first, since the name of the run's folder depends on it
            if config.hydra.job.name == "train":  # smallest.py shares this configuration
                check_single_run(config)
                _check_folder("hydra.sweep.dir", "is for a sweep (-m); for a single run use hydra.run.dir=DIR")
        with contextlib.suppress(OSError, OmegaConfBaseException):  # as below
            STATE.made_folders += missing_folders(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        from engine.run.deploy import check_deploy
        from engine.sweep.composing import check_jobs

        for name in SHOWN:
            logging.getLogger(name).setLevel(logging.INFO)
        with _refusing():
            _check_folder("hydra.run.dir", "is for a single run; for a sweep use hydra.sweep.dir=DIR")
            wait_for_all(config.hydra.launcher)
            about = complete_sweep(config)
            if config.hydra.launcher._target_ == ray_launcher.NAME:
                ray_launcher.connect(config.hydra.launcher.ray)
            check_jobs(config)
            check_deploy(config.deploy, config.stages)
            print(about, flush=True)  # Hydra makes the jobs from `config` as it is now
        with contextlib.suppress(OSError):  # Hydra meets the same error in its next step, where it ends the sweep
            self.progress = SweepProgress.begin(config, STATE.command)
        if self.progress and starts_processes(config.hydra.launcher):
            self.show_lines()

    def show_lines(self) -> None:
        """Show a line per minute on jobs that run in other processes, perhaps on other machines."""
        self._lines = Progress(log=log).__enter__()
        self._lines.set("Sweep", lambda: self.progress.describe().removeprefix("Sweep: "))
        self._lines.then_every_s = EVERY_S

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from reports.report import write_report

        folder = Path(config.hydra.sweep.dir)
        if self._lines:
            self._lines.__exit__()
        if self.progress:
            warn_of_other_inputs(self.progress)
            measure_latencies(self.progress)
            deploy_rest(self.progress, config.deploy, config.register)
        try:
            drawn = config.get("overview") is not False
            report = write_report(str(folder), str(folder), good_enough=config.good_enough, draws_overview=drawn)
        except UserError as error:  # such as only debug runs; failed runs give the exit status
            log.warning("%s: no report: %s", folder, error)
        except Exception as error:  # a defect of the report must not fail the runs, which are recorded
            log.exception("%s: no report: %r", folder, error)
        else:
            print(f"\n{report.text}\n\nPage: {report.page}")
        print(f"Sweep: {folder}")
        known = {failed.name for failed in STATE.failed}
        for name in self.progress.unfinished() if self.progress else []:
            if name not in known:  # it ran in another process
                STATE.failed.append(FailedJob(name, None, in_sweep=True))


def _check_folder(key: str, message: str) -> None:
    """Refuse a folder that the mode ignores; an experiment's file may set the mode, and run_cli adds both folders."""
    if typed := next((each for each in STATE.command if key_of(each) == key), None):
        raise UserError(f"{typed}: {message}")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """End the command on a user's error; Hydra would only warn of the exception and start the jobs."""
    try:
        yield
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        if STATE.process.is_first:
            print(f"ERROR: {printable(message)}", file=sys.stderr)
        sys.exit(1)


class LearningCurveCallback(Callback):
    """Draw learning_curve.png of a sweep over the number of training images, and print what more images would gain."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from common.atomic_io import write_bytes
        from common.image_grid import encode_png
        from evaluation.figures import figure_pixels
        from reports.learning_curve import describe_curves, draw, read_curves

        folder = Path(config.hydra.sweep.dir)
        try:
            curves = read_curves(folder)
        except UserError as error:
            print(f"\nNo learning curve: {error}")
            return
        write_bytes(folder / "learning_curve.png", encode_png(figure_pixels(draw(curves))))
        print("", *describe_curves(curves), f"Learning curve: {folder / 'learning_curve.png'}", sep="\n")


class SubsetTableCallback(Callback):
    """Write and print subsets.md of a sweep over seeds: the accuracy on each kind of image."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from common.atomic_io import write_text
        from reports.subsets import subset_table

        folder = Path(config.hydra.sweep.dir)
        try:
            table = subset_table(folder)
        except UserError as error:
            print(f"\nNo table of subsets: {error}")
            return
        write_text(folder / "subsets.md", table)
        print("", table, f"Subsets: {folder / 'subsets.md'}", sep="\n")
