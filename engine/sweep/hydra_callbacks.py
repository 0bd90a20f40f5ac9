"""What happens around a sweep: its file at the start, its report and its exit status at the end."""

import contextlib
import logging
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from engine import cli
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Writes sweep.json, later the report of the sweep's runs; prints its table and answer."""

    def __init__(self):
        self.progress: SweepProgress | None = None

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        with contextlib.suppress(OSError):  # Hydra meets it in the next step, and there it ends the sweep
            self.progress = SweepProgress.begin(config, cli.TYPED)

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            from reports.report import write_report  # late: every command line makes this callback

            written = write_report(str(folder))
        except Exception as error:  # the runs are done and recorded: a defect here must not take them with it
            known = isinstance(error, ValueError)
            log.error("%s: no report: %s", folder, error if known else repr(error), exc_info=not known)
        else:
            for text in written.warnings:
                log.warning("left out: %s", text)
            print(f"\n{written.text}\n\nPage: {written.page}")
        print(f"Sweep: {folder}")
        told = {failed.name for failed in cli.FAILED}
        for name in self.progress.not_finished() if self.progress else []:
            if name not in told:  # a job of another process
                cli.FAILED.append(cli.FailedJob(name, None, alone=False))
