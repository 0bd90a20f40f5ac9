"""The callbacks of a run: which are refused, and Lightning's own from the command line."""

import re
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks import device_stats_monitor as lightning_device_stats
from lightning_utilities.core.imports import RequirementCache

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from callbacks.epoch_scores import EpochScores
from callbacks.optuna_pruning import OptunaPruning
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine.config.validate import validate
from engine.run.callback_list import all_callbacks, configured_callbacks
from engine.run.checkpoint_io import AtomicCheckpointIO
from engine.search.objectives import EPOCH_METRICS
from tests.support.configs import composed
from tests.support.helpers import SIMPLE_CNN, at_step, read_csv

LIGHTNING = "lightning.pytorch.callbacks"
EARLY = f"_target_:{LIGHTNING}.EarlyStopping,monitor:val/loss"


def listed(folder: Path, *overrides: str, further=()) -> list:
    record = RunRecord.begin(RunFolder(folder), command=[], overrides=list(overrides))
    config = validate(composed(*overrides))
    return all_callbacks(config, record, configured_callbacks(config), further)


@pytest.mark.parametrize(("overrides", "message"), [
    (["+callbacks.two._target_=callbacks.image_logger.ImageLogger"],
     "callbacks.image_logger and callbacks.two: are the same; remove one of them: ~callbacks.two"),
    ([f"+callbacks.a={{{EARLY}}}", f"+callbacks.b={{{EARLY},patience:9}}"],
     "callbacks.a and callbacks.b: two of EarlyStopping"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.Timer}}", f"+callbacks.b={{_target_:{LIGHTNING}.Timer,interval:epoch}}"],
     "callbacks.a and callbacks.b: two of Timer"),
    (["+callbacks.two={_target_:callbacks.checkpoint.BestCheckpoint,monitor:val/loss}"],
     "callbacks.best_checkpoint and callbacks.two: a run has only one BestCheckpoint"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.TQDMProgressBar}}", f"+callbacks.b={{_target_:{LIGHTNING}.RichProgressBar}}"],
     "callbacks.a and callbacks.b: a run has only one ProgressBar"),
    (["+callbacks.two._target_=callbacks.epoch_logger.EpochLogger"],
     "callbacks.two: every run has EpochLogger already; remove it: ~callbacks.two"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.Timer}}", "+trainer.max_time=00:01:00:00"],
     "callbacks.a and trainer.max_time: both stop training after a time"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.StochasticWeightAveraging,swa_lrs:0.1}}"], "callbacks.a: its average exists"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.GradientAccumulationScheduler,scheduling:{{0:1,2:3}}}}"],
     "callbacks.a: learning-rate schedules and resuming within an epoch do not take its numbers into account"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.ModelCheckpoint,save_last:true}}"], "callbacks.a.save_last=True: every run keeps"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.ModelCheckpoint,filename:best}}"], "callbacks.a.filename=best: every run has"),
    ([f"+callbacks.a={{_target_:{LIGHTNING}.ModelCheckpoint,monitor:val/accurcy}}"],
     "callbacks.a.monitor=val/accurcy: no such metric; did you mean val/accuracy"),
    (["+callbacks.a._target_=torch.nn.ReLU"], "callbacks.a._target_=torch.nn.ReLU: is not a Lightning callback"),
])  # fmt: skip
def test_what_is_refused(tmp_path, overrides, message):
    with pytest.raises(UserError) as caught:
        listed(tmp_path, *overrides)
    assert str(caught.value).startswith(message)


def test_what_is_not(tmp_path):
    two = [f"+callbacks.a={{{EARLY}}}", f"+callbacks.b={{_target_:{LIGHTNING}.EarlyStopping,monitor:train/loss}}"]
    kept = f"+callbacks.c={{_target_:{LIGHTNING}.ModelCheckpoint,dirpath:{tmp_path}/mine,save_last:true}}"
    found = listed(
        tmp_path, "recipe=fast", "callbacks=[early_stopping,ema]", f"+callbacks.a={{{EARLY},mode:max}}", two[1], kept
    )
    assert [type(each) for each in found[-2:]] == [BestCheckpoint, LastCheckpoint]
    assert sum(type(each).__name__ == "EarlyStopping" for each in found) == 3
    names = {type(each).__name__ for each in found}
    assert {"EMA", "ImageLogger", "LinearProbe"} <= names  # those of every run, and of the recipe
    own = next(each for each in found if type(each) is ModelCheckpoint)
    assert own.dirpath == str(tmp_path / "mine")
    assert any(isinstance(each, WeightAveraging) for each in listed(tmp_path, "callbacks=ema"))


@pytest.mark.parametrize(("overrides", "monitored"), [
    ([], None),
    (["~scheduler"], None),
    (["scheduler=plateau", "scheduler.monitor=val/f1"], {"val/f1": "scheduler.monitor"}),
    (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/f1", "callbacks.best_checkpoint.monitor=val/auroc"],
     {"val/f1": "callbacks.early_stopping.monitor", "val/auroc": "callbacks.best_checkpoint.monitor"}),
])  # fmt: skip
def test_scores_are_computed_where_something_monitors_them(tmp_path, overrides, monitored):
    found = [each.monitored for each in listed(tmp_path, *overrides) if isinstance(each, EpochScores)]
    assert found == ([monitored] if monitored else [])


def test_of_a_search_too(tmp_path):
    pruning = OptunaPruning(trial=None, monitor=EPOCH_METRICS["val.balanced_accuracy"])
    found = [each.monitored for each in listed(tmp_path, further=[pruning]) if isinstance(each, EpochScores)]
    assert found == [{"val/balanced_accuracy": "objectives"}]


def test_files_of_a_checkpoint_s_callbacks_are_in_their_own_folder(tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    inside, outside = str(tmp_path / "a.ckpt"), f"{tmp_path}/../mine/photo.png"
    state = {"best_k_models": {inside: torch.tensor(1.0)}, "best_model_path": inside, "last_model_path": outside}
    torch.save({"callbacks": {"a": state, "b": {"best_k_models": {outside: torch.tensor(1.0)}}}}, path)
    found = AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["callbacks"]
    assert found["a"] == state | {"last_model_path": ""} and found["b"]["best_k_models"] == {}
    assert "are in other folders" in caplog.text


def test_a_timer_and_a_checkpoint_of_lightning_s_own(train, monkeypatch):
    """The timer's time is over in the first of two epochs; it looks at the end of each."""
    timer = f"+callbacks.timer={{_target_:{LIGHTNING}.Timer,duration:{{hours:1}},interval:epoch}}"
    own = f"+callbacks.own={{_target_:{LIGHTNING}.ModelCheckpoint,filename:mine,monitor:val/loss}}"
    usual, later_s = time.monotonic, [0]
    at_step(monkeypatch, 2, lambda: later_s.append(7200))
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time.monotonic", lambda: usual() + later_s[-1])
    ran = train(timer, own, *SIMPLE_CNN)
    assert ran.status == 0, ran.err
    assert len(read_csv(ran.folder / "metrics.csv")) == 1 and ran.record.best.epoch == 1
    over = r"timer: 72\d\d s of training are over"  # and the seconds of a slow machine
    assert re.search(over, ran.out)
    assert {path.stem for path in (ran.folder / "checkpoints").iterdir()} == {"best", "last", "mine"}
    resumed = train(f"ckpt_path={ran.folder / 'checkpoints' / 'last.ckpt'}", own, small=False, to=ran.folder)
    assert resumed.status == 1 and re.search(rf"{over}; this has ended the training already", resumed.err), resumed.err


def test_what_lightning_s_callbacks_refuse_later_is_named(train, monkeypatch):
    ran = train("logger=none", f"+callbacks.lr._target_={LIGHTNING}.LearningRateMonitor", *SIMPLE_CNN)
    assert ran.status == 1 and ran.err.startswith("ERROR: callbacks.lr: Cannot use `LearningRateMonitor`"), ran.err
    assert not ran.folder.exists()
    monkeypatch.setattr(lightning_device_stats, "_PSUTIL_AVAILABLE", RequirementCache("psutil>=1000"))
    ran = train(f"+callbacks.device._target_={LIGHTNING}.DeviceStatsMonitor", *SIMPLE_CNN)
    assert ran.err == (
        'ERROR: callbacks.device: psutil is not installed; install it with pip install -e ".[device_stats]"\n'
    )


def test_a_timer_without_time_is_one_line(train):
    ran = train(f"+callbacks.timer={{_target_:{LIGHTNING}.Timer,duration:{{hours:0}}}}", *SIMPLE_CNN)
    assert ran.status == 1 and ran.err.startswith(
        "ERROR: the training ended before its first validation, so there is no best.ckpt (timer: "
    ), ran.err
