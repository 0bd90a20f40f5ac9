"""Log each epoch: a line on the screen, a row of metrics.csv, metrics for the loggers."""

import logging
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from callbacks.throughput import Throughput
from common.errors import UserError
from common.run_folder import METRIC_COLUMNS, SCORE_COLUMNS, RunFolder
from common.text import finite_number

log = logging.getLogger(__name__)


class EpochLogger(L.Callback):
    """Log one row per epoch, counted from 1. Every checkpoint contains the rows, so that none is lost or repeated."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []
        self._started_s = 0.0

    def on_train_start(self, trainer, pl_module) -> None:
        self._started_s = time.perf_counter()  # for an epoch that resumes in the middle
        for logger in trainer.loggers:  # in a resumed run, TensorBoard adds to its file, and other loggers start over
            if trainer.is_global_zero and not isinstance(logger, TensorBoardLogger):
                for row in self.rows:
                    self._log_row(logger, row)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._started_s = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        results = {
            f"{stage}/{name}": value for stage, each in pl_module.results.items() for name, value in each.items()
        }
        row = {"epoch": trainer.current_epoch + 1}
        row |= {name: results.get(name) for name in METRIC_COLUMNS[1:-1]}  # no val without validation
        if "val" in pl_module.results:  # set by callbacks/epoch_scores.py; otherwise of an earlier epoch
            scores = trainer.callback_metrics
            row |= {name: float(scores[name]) for name in SCORE_COLUMNS if name in scores}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        # Replaces the row if an epoch is retrained from a checkpoint that a user's callback wrote within it
        self.rows = [*(each for each in self.rows if each["epoch"] < row["epoch"]), row]
        if not trainer.is_global_zero:
            return
        RunFolder(Path(trainer.default_root_dir)).write_metrics(self.rows)
        for logger in trainer.loggers:
            self._log_row(logger, row)
        log.info("%s", self._line(trainer, row))

    def _line(self, trainer, row: dict) -> str:
        """Return `epoch  2/12  loss 0.4552  train accuracy 0.7954  val accuracy 0.8131 ... (22.4 s)`."""
        split = "same images" if trainer.datamodule.overfits else trainer.datamodule.select_on
        shown = {
            "loss": row["train/loss"], "train accuracy": row["train/accuracy"], f"{split} accuracy": row["val/accuracy"],
            f"{split} loss": row["val/loss"],
        }  # fmt: skip
        shown |= {
            name.replace("val/", f"{split} ").replace("_", " "): row[name] for name in SCORE_COLUMNS if name in row
        }
        width = len(str(trainer.max_epochs))
        done, batches = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        cut = f", stopped after {done:,} of {batches:,} batches" if done < batches else ""
        speeds = next((each.epochs for each in trainer.callbacks if isinstance(each, Throughput)), [])
        cut += f"; {speeds[-1].flag}" if speeds and speeds[-1].flag else ""
        return "  ".join(
            [
                f"epoch {row['epoch']:{width}}/{trainer.max_epochs}",
                *(f"{name} {value:.4f}" for name, value in shown.items() if value is not None),
                f"lr {row['lr']:.1e}",
                f"({time.perf_counter() - self._started_s:.1f} s{cut})",
            ]
        )

    def _log_row(self, logger: Logger, row: dict[str, float]) -> None:
        names = {"lr": "train/lr"}  # TensorBoard opens the first two groups of charts, train and val
        known = {names.get(name, name): value for name, value in row.items() if name != "epoch" and value is not None}
        logger.log_metrics(known, step=row["epoch"])

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict) -> None:
        rows = list(state_dict["rows"])
        for row in rows:
            columns = set(row) - set(SCORE_COLUMNS) if isinstance(row, dict) else set()
            if columns != set(METRIC_COLUMNS) or not finite_number(row["epoch"]):
                raise UserError("its rows of metrics.csv are malformed")
        self.rows = rows
