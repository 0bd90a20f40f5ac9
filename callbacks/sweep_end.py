"""What is said and written when a sweep is over."""

import logging
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class SweepEnd(Callback):
    """Writes the report of the sweep's runs into its folder, and prints its table and answer."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            from reports.writing import write_report  # late: every command line makes this callback

            written = write_report(str(folder))
        except Exception as error:  # the runs are done and recorded: a defect here must not take them with it
            known = isinstance(error, ValueError)
            log.error("%s: no report: %s", folder, error if known else repr(error), exc_info=not known)
        else:
            for text in written.warnings:
                log.warning("left out: %s", text)
            print(f"\n{written.text}\n\nPage: {written.page}")
        print(f"Sweep: {folder}")
