"""Loggers of a run, from Lightning and the user's own: what each receives, several at once, resumed, and where one fails."""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import wandb as lightning_wandb
from lightning_utilities.core.imports import RequirementCache
from PIL import Image

from engine.run.loggers import TensorBoard
from tests.support.helpers import SIMPLE_CNN, at_step, read_csv, scalars

MAPS = "callbacks.feature_maps.enabled=true"
OFFLINE = ("logger.wandb.offline=true",)


@pytest.fixture
def store(tmp_path):
    """A setting of MLflow's store, which then lies in this test's folder."""
    return f"logger.mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db"


class Own(Logger):
    """A user's logger: keeps what it is given, or fails."""

    made: list["Own"] = []

    def __init__(self, *, place: str = "somewhere", fails: str | None = None):
        super().__init__()
        self.fails = fails
        self.metrics, self.images, self.statuses = [], [], []
        self.made.append(self)

    name = version = "own"

    def log_hyperparams(self, params) -> None:
        self.params = params

    def log_metrics(self, metrics, step=None) -> None:
        if self.fails == "metrics":
            raise KeyError("x")
        self.metrics.append((step, metrics))

    def log_image(self, key, images, step=None) -> None:
        self.images.append((key, [image.shape[2] for image in images]))

    def finalize(self, status) -> None:
        self.statuses.append(status)
        if self.fails == "closing" and len(self.statuses) == 3:  # Lightning's own after fit and validate come before
            raise OSError("gone")


OWN = f"+logger.own._target_={Own.__module__}.Own"


def wandb_runs(folder: Path) -> list[dict]:
    """Return what each run of W&B in a folder has written: its name, settings, history and exit code."""
    from wandb.proto import wandb_internal_pb2

    runs = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        found = {"name": "", "config": {}, "history": [], "exit": None}
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found["name"] = record.run.display_name or found["name"]
            for change in (*record.run.config.update, *record.config.update):
                found["config"][change.key or "/".join(change.nested_key)] = change.value_json
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                found["history"].append(items)
            if record.HasField("exit"):
                found["exit"] = record.exit.exit_code
        runs.append(found)
    return runs


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log of W&B: 7 bytes, then blocks of 32 KiB of fragments, each with a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # too little for a header: filled up
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last fragment of one
            yield record
            record = b""


def mlflow_runs(tmp_path: Path) -> tuple:
    """Return MLflow's client of a test's store and its runs, the first one first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("justenough")
    return client, client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


@pytest.mark.parametrize("name", ["$NAME", "~"])
def test_tensorboard_writes_into_a_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.setenv("NAME", "other")
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    logger = TensorBoard(str(folder))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert list(folder.glob("events.out.tfevents.*")) and list(Path().iterdir()) == [folder]


@pytest.mark.thorough
def test_csv_wandb_and_mlflow_at_once_have_all_and_change_nothing(train, finished_run, tmp_path, store):
    ran = train("stages=[cost,fit,test]", "logger=[csv,wandb,mlflow]", MAPS, *OFFLINE, store, drawn=True)
    assert ran.status == 0, ran.err
    for name in ("metrics.csv", "predictions.csv"):  # finished_run logs to TensorBoard
        assert (ran.folder / name).read_bytes() == (finished_run.folder / name).read_bytes()
    assert ran.record.run.warnings == finished_run.record.run.warnings
    assert ran.record.run.choices["logger"] == "[csv,wandb,mlflow]"
    assert not list(ran.folder.glob("events.out.*")) and "TensorBoard:" not in ran.out
    epochs = read_csv(ran.folder / "metrics.csv")
    accuracy = ran.record.test.accuracy.value

    rows = read_csv(ran.folder / "csv" / "version_0" / "metrics.csv")
    assert [row["val/loss"] for row in rows[:2]] == [row["val/loss"] for row in epochs] and len(rows) == 3
    assert float(rows[2]["final/test_accuracy"]) == accuracy

    (run,) = wandb_runs(ran.folder)
    assert run["name"] == ran.folder.name and run["exit"] == 0
    assert run["config"]["optimizer.lr"] == "0.003" and run["config"]["model.name"] == '"shufflenet_mod"'
    losses = [float(step["val/loss"]) for step in run["history"] if "val/loss" in step]
    assert losses == [float(row["val/loss"]) for row in epochs]
    final = [float(step["final/test_accuracy"]) for step in run["history"] if "final/test_accuracy" in step]
    assert final == [accuracy]
    drawn = {"augmented_batch", "contact_sheet", "confusion/val", "confusion/test", "feature_maps", "channel_shuffle"}
    drawn |= {"calibration", "overview"}
    assert drawn == {name.removesuffix("/count") for step in run["history"] for name in step if name.endswith("/count")}
    assert "W&B: wandb sync " in ran.out

    client, (run,) = mlflow_runs(tmp_path)
    assert (run.info.status, run.info.run_name) == ("FINISHED", ran.folder.name)
    assert run.data.params["optimizer.lr"] == "0.003" and run.data.metrics["final/test_accuracy"] == accuracy
    history = client.get_metric_history(run.info.run_id, "val/loss")
    assert [(each.step, each.value) for each in history] == [(n + 1, float(epochs[n]["val/loss"])) for n in range(2)]
    kept = tmp_path / "mlartifacts" / run.info.run_id / "artifacts"
    assert np.array_equal(Image.open(kept / "feature_maps.png"), Image.open(ran.folder / "feature_maps.png"))
    assert (kept / "confusion" / "test.png").is_file()
    assert f"MLflow: mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in ran.out


@pytest.mark.thorough
def test_a_resumed_run_keeps_its_loggers_and_loses_nothing(train, finished_run, tmp_path, store, monkeypatch):
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # in the second epoch
    chosen = ("logger=[tensorboard, csv,mlflow]", store)
    monitor = "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    stopped = train(*chosen, monitor)
    assert stopped.status == 143, stopped.err
    last = f"ckpt_path={stopped.folder / 'checkpoints' / 'last.ckpt'}"
    refused = train(last, small=False, to=stopped.folder)
    assert f"logger.mlflow.tracking_uri is 'sqlite:///{tmp_path}/mlflow.db', not as in your conf/" in refused.err
    assert "set it again, logger.mlflow.tracking_uri=..." in refused.err and stopped.record.status == "running"
    resumed = train(last, store, small=False, to=stopped.folder)
    assert resumed.status == 0, resumed.err
    assert (resumed.folder / "metrics.csv").read_bytes() == (finished_run.folder / "metrics.csv").read_bytes()
    assert scalars(resumed.folder) == scalars(finished_run.folder)
    versions = [read_csv(stopped.folder / "csv" / f"version_{n}" / "metrics.csv") for n in (0, 1)]
    found = [[row["val/loss"] for row in rows if row["val/loss"]] for rows in versions]
    assert found[0] == found[1][:1] and len(found[1]) == 2  # the second has all of it
    rates = [[row["step"] for row in rows if row.get("lr-Adam")] for rows in versions]
    assert rates == [["0", "3"], []]  # what another callback logged stays where it was
    client, runs = mlflow_runs(tmp_path)
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    assert len(client.get_metric_history(runs[1].info.run_id, "val/loss")) == 2


@pytest.mark.thorough
def test_each_job_of_a_sweep_is_a_run_of_its_own(train, tmp_path):
    place = tmp_path / "sweep"
    settings = ("trainer.max_epochs=1", *SIMPLE_CNN, "logger=wandb", *OFFLINE)
    ran = train("-m", "seed=1,2", *settings, f"hydra.sweep.dir={place}", to=place)
    assert ran.status == 0, ran.err
    for seed in (1, 2):
        (run,) = wandb_runs(place / f"seed-{seed}")
        assert run["config"]["seed"] == str(seed) and run["name"] == f"seed-{seed}"
        assert len([step for step in run["history"] if "val/loss" in step]) == 1


def test_a_missing_package_is_one_line_before_images_are_read(train, tmp_path, monkeypatch):
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", RequirementCache("wandb>=1000"))
    ran = train("logger=wandb")
    assert ran.status == 1
    assert ran.err == 'ERROR: logger.wandb: wandb is not installed; install it with pip install -e ".[wandb]"\n'
    assert not ran.folder.exists() and not list(tmp_path.rglob("*.npy"))


def test_a_logger_of_the_user_s_own_gets_settings_metrics_and_images(train):
    ran = train("logger=none", OWN, "trainer.max_epochs=1", *SIMPLE_CNN, drawn=True)
    assert ran.status == 0, ran.err
    own = Own.made[-1]
    assert own.params["optimizer.lr"] == 0.003 and own.params["run"] == str(ran.folder)
    assert [step for step, _ in own.metrics] == [1, 1] and "final/test_accuracy" in own.metrics[1][1]
    assert ("confusion/test", [3]) in own.images and set(own.statuses) == {"success"}


def test_a_logger_that_raises_is_named_and_nothing_is_lost(train):
    ran = train("logger=tensorboard", OWN, "+logger.own.fails=metrics", "trainer.max_epochs=1", *SIMPLE_CNN)
    expected = f"logger.own={Own.__module__}.Own: KeyError: 'x' (test_loggers.py, line "
    assert ran.status == 1 and ran.err.startswith(f"ERROR: {expected}") and "Traceback" not in ran.err, ran.err
    assert ran.record.status == "failed" and ran.record.reason.startswith(expected)
    assert Own.made[-1].statuses[-1] == "failed"
    assert len(read_csv(ran.folder / "metrics.csv")) == 1


def test_a_logger_that_cannot_be_closed_is_a_warning(train):
    ran = train("logger=none", OWN, "+logger.own.fails=closing", "stages=[fit]", "trainer.max_epochs=1", *SIMPLE_CNN)
    assert ran.status == 0 and "WARNING: logger.own: could not be closed (OSError: gone)" in ran.out, ran.err
