"""What is said and written when a sweep is over."""

import logging
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from reports.table import write_table

log = logging.getLogger(__name__)


class SweepEnd(Callback):
    """Prints the table of the sweep's runs and keeps it as table.csv."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        print(f"\n{write_table(folder)}\n\nSweep: {folder}")
