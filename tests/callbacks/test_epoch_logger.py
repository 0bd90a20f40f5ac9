"""The rows of metrics.csv: one an epoch."""

import logging
from types import SimpleNamespace

from callbacks.epoch_logger import EpochLogger
from callbacks.throughput import Throughput
from common.run_folder import METRIC_COLUMNS, RunFolder
from common.run_record import EpochSpeed
from tests.support.helpers import read_csv


def trainer_in(folder, *callbacks):
    """What the callback asks of a trainer at the end of the second epoch."""
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    return SimpleNamespace(
        current_epoch=1, max_epochs=3, optimizers=[optimizer], is_global_zero=True, default_root_dir=str(folder), loggers=[],
        fit_loop=SimpleNamespace(batch_idx=2), num_training_batches=3, callbacks=callbacks,
        datamodule=SimpleNamespace(overfits=False, select_on="val"),
    )  # fmt: skip


MODULE = SimpleNamespace(results={"train": {"loss": 0.25, "accuracy": 1.0}})


def test_a_disturbed_epoch_is_named_on_the_screen(tmp_path, caplog):
    speeds = Throughput(started_s=0.0)
    speeds.epochs = [EpochSpeed(images=1, seconds=1.0, flag="other processes used 1.6 of 2 cores"),
                     EpochSpeed(images=1, seconds=1.0)]  # fmt: skip
    caplog.set_level(logging.INFO)
    EpochLogger().on_train_epoch_end(trainer_in(tmp_path, speeds), MODULE)
    assert "used" not in caplog.text
    del speeds.epochs[1]
    EpochLogger().on_train_epoch_end(trainer_in(tmp_path, speeds), MODULE)
    assert caplog.messages[1].endswith(" s; other processes used 1.6 of 2 cores)")


def test_an_epoch_that_is_trained_again_has_one_row(tmp_path):
    """As from a checkpoint that was written within the epoch, or before the epochs of rows that are later."""
    callback = EpochLogger()
    callback.rows = [dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": epoch} for epoch in (1, 2, 3)]
    callback.on_train_epoch_end(trainer_in(tmp_path), MODULE)
    rows = read_csv(RunFolder(tmp_path).metrics)
    assert [(row["epoch"], row["train/loss"]) for row in rows] == [("1", "0.5"), ("2", "0.25")]
