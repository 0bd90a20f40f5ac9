"""Log each epoch: a line on the screen, a row of metrics.csv, metrics for the loggers."""

import logging
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from common.errors import UserError
from common.run_folder import METRIC_COLUMNS, RunFolder
from common.text import finite_number

log = logging.getLogger(__name__)


class EpochLogger(L.Callback):
    """Log one row an epoch, counted from 1. The rows are part of every checkpoint, so that none is lost or doubled."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []
        self._started_s = 0.0

    def on_train_start(self, trainer, pl_module) -> None:
        self._started_s = time.perf_counter()  # of an epoch that is resumed in the middle
        for logger in trainer.loggers:  # of a resumed run: TensorBoard adds to what is there, another one starts over
            if trainer.is_global_zero and not isinstance(logger, TensorBoardLogger):
                for row in self.rows:
                    self._log_row(logger, row)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._started_s = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        metrics = trainer.callback_metrics
        row = {"epoch": trainer.current_epoch + 1}
        row |= {name: float(metrics[name]) for name in METRIC_COLUMNS[1:-1]}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        RunFolder(Path(trainer.default_root_dir)).write_metrics(self.rows)
        for logger in trainer.loggers:
            self._log_row(logger, row)
        split = trainer.datamodule.select_on
        log.info(
            "epoch %*d/%d  loss %.4f  train accuracy %.4f  %s accuracy %.4f  %s loss %.4f  lr %.1e  (%.1f s)",
            len(str(trainer.max_epochs)),
            row["epoch"],
            trainer.max_epochs,
            row["train/loss"],
            row["train/accuracy"],
            split,
            row["val/accuracy"],
            split,
            row["val/loss"],
            row["lr"],
            time.perf_counter() - self._started_s,
        )

    def _log_row(self, logger: Logger, row: dict[str, float]) -> None:
        logger.log_metrics({name: row[name] for name in METRIC_COLUMNS[1:]}, step=row["epoch"])

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict) -> None:
        rows = list(state_dict["rows"])
        if not all(
            isinstance(row, dict) and set(row) == set(METRIC_COLUMNS) and finite_number(row["epoch"]) for row in rows
        ):
            raise UserError("its rows of metrics.csv are malformed")
        self.rows = rows
