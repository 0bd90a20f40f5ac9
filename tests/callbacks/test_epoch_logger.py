"""The rows of metrics.csv: one an epoch."""

from types import SimpleNamespace

from callbacks.epoch_logger import EpochLogger
from common.run_folder import METRIC_COLUMNS, RunFolder
from common.untrusted.tables import read_csv


def test_an_epoch_that_is_trained_again_has_one_row(tmp_path):
    """As from a checkpoint that was written within the epoch, or before the epochs of rows that are later."""
    callback = EpochLogger()
    callback.rows = [dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": epoch} for epoch in (1, 2, 3)]
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    trainer = SimpleNamespace(
        current_epoch=1, max_epochs=3, optimizers=[optimizer], is_global_zero=True, default_root_dir=str(tmp_path), loggers=[],
        fit_loop=SimpleNamespace(batch_idx=2), num_training_batches=3,
        datamodule=SimpleNamespace(overfits=False, select_on="val"),
    )  # fmt: skip
    callback.on_train_epoch_end(trainer, SimpleNamespace(results={"train": {"loss": 0.25, "accuracy": 1.0}}))
    rows = read_csv(RunFolder(tmp_path).metrics)
    assert [(row["epoch"], row["train/loss"]) for row in rows] == [("1", "0.5"), ("2", "0.25")]
