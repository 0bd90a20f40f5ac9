"""The flags of Lightning's Trainer: each one works, is set by the run, or is refused by name; and what makes a debug run."""

import inspect
import math

import lightning
import pytest
import torch
from hydra.errors import ConfigCompositionException
from lightning.pytorch.accelerators import MPSAccelerator

from common.errors import UserError
from common.run_folder import RunFolder
from engine import error_messages
from engine.config.trainer_flags import REFUSED, batch_limits, check_trainer, debug_reason, lightning_flags
from engine.config.validate import validate
from tests.support.configs import composed

# What else is passed on to Lightning; tests/integration/test_trainer_flags.py trains with them
PASSED_ON = {
    "accelerator", "strategy", "devices", "precision", "max_epochs", "min_epochs", "max_time", "min_steps",
    "check_val_every_n_epoch", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic",
    "benchmark", "inference_mode", "profiler", "detect_anomaly", "sync_batchnorm",
    "log_every_n_steps", "enable_progress_bar",
}  # fmt: skip
OF_THIS_PROJECT = {
    "fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "max_steps",
}  # fmt: skip


def checked(**flags) -> dict:
    return check_trainer({"max_epochs": 12, **flags})


def test_every_flag_of_lightning_is_known():
    """A flag of a new version fails here, and is then tried and put into one of the three."""
    kinds = (PASSED_ON, OF_THIS_PROJECT, set(REFUSED))
    known = set(inspect.signature(lightning.Trainer).parameters)
    assert set().union(*kinds) == known and sum(map(len, kinds)) == len(known)


@pytest.mark.filterwarnings("ignore:GPU available but not used")  # as in runs
def test_auto_is_no_apple_gpu(monkeypatch):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = lightning_flags({"accelerator": "auto"}, RunFolder("run"))
    assert lightning.Trainer(logger=False, **flags).strategy.root_device.type == "cpu"
    assert lightning_flags({"accelerator": "mps"}, RunFolder("run"))["accelerator"] == "mps"


@pytest.mark.parametrize("flag", sorted(PASSED_ON | OF_THIS_PROJECT))
def test_a_flag_that_works_is_listed_with_its_default(flag):
    """So that `trainer.FLAG=VALUE` needs no plus sign; null is Lightning's own default."""
    assert flag in composed().trainer


@pytest.mark.parametrize("flag", sorted(REFUSED))
def test_a_flag_that_is_refused_says_why_with_a_plus_sign_and_without(flag):
    assert flag not in composed().trainer
    with pytest.raises(UserError, match=rf"^trainer\.{flag}=odd: cannot be used here: .* .*"):
        checked(**{flag: "odd"})
    with pytest.raises(ConfigCompositionException) as caught:
        composed(f"trainer.{flag}=1")
    assert error_messages.user_message(caught.value).startswith(f"trainer.{flag}: cannot be used here: ")


@pytest.mark.parametrize(("flag", "value", "words"), [
    ("val_check_interval", 0.5, "every epoch ends with a validation"),
    ("val_check_interval", 1, "every epoch ends with a validation"),  # one batch, where 1.0 is all
    ("enable_checkpointing", False, r"a run measures best\.ckpt"),
    ("barebones", True, "has no result"),
    ("reload_dataloaders_every_n_epochs", 1, "the same images"),
    ("limit_predict_batches", 3, r"predict\.py"),
    ("enable_autolog_hparams", False, "logger=none"),
    ("model_registry", "name", r"hydra\.run\.dir"),
    ("max_epochs", -1, "the learning-rate schedule needs an end"),
    ("max_epochs", True, "use a whole number of 1 or more"),
    ("max_epochs", None, "use a whole number of 1 or more"),
    ("max_steps", 0, "use a whole number of 1 or more"),
    ("max_steps", 1.5, "use a whole number of 1 or more"),
    ("min_epochs", 13, r"use up to trainer\.max_epochs=12"),
    ("check_val_every_n_epoch", 13, r"use up to trainer\.max_epochs=12"),
    ("check_val_every_n_epoch", 0, "use a whole number of 1 or more"),
    ("accumulate_grad_batches", 0, "use a whole number of 1 or more"),
    ("num_nodes", 2, "the launcher decides it: torchrun"),
    ("log_every_n_steps", 0, "use a whole number of 1 or more"),
    ("num_sanity_val_steps", 2, "debug=fast"),
    ("logger", False, "logger=none"),
    ("strategy", "ddp_spawn", r"use auto \(one process\) or ddp"),
    ("strategy", "fsdp", r"use auto \(one process\) or ddp"),
    ("precision", "16-true", "use 16-mixed, bf16-mixed or bf16-true"),
    ("devices", 0, "use 1 or more, or -1"),
    ("devices", -2, "use 1 or more, or -1"),
    ("devices", 1025, "use up to 1024"),
    ("fast_dev_run", -1, "use true, a number of batches, or false"),
    ("fast_dev_run", "yes", "use true, a number of batches, or false"),
    ("limit_train_batches", 2.5, r"a number of batches \(2\), a share of them \(above 0, up to 1\.0\), or null$"),
    ("limit_train_batches", 0, r"for none: stages=\[test\] ckpt_path=FILE"),
    ("limit_val_batches", 0.0, "validation chooses the best epoch"),
    ("limit_test_batches", 0, r"for none: stages=\[cost,fit\]"),
    ("limit_test_batches", True, "a number of batches"),
    ("overfit_batches", -1, "a number of batches"),
    ("max_time", "abc", "days:hours:minutes:seconds"),
    ("max_time", "00:00:00:00", "days:hours:minutes:seconds"),
    ("max_time", 3600, "quoted in a"),
    ("max_time", {"minuets": 5}, "days:hours:minutes:seconds"),
    ("max_time", {"minutes": math.nan}, "days:hours:minutes:seconds"),
    ("max_time", "99999999999:00:00:00", "days:hours:minutes:seconds"),  # more days than Python's timedelta can hold
    ("profiler", "foo", "use simple, advanced, pytorch, or a _target_"),
    ("profiler", ["simple"], "use simple, advanced, pytorch, or a _target_"),
    ("gradient_clip_val", float("nan"), "use a number above 0"),
    ("gradient_clip_val", float("inf"), "use a number above 0"),
    ("gradient_clip_algorithm", "norms", "use norm, value or null"),
    ("gradient_clip_algorithm", "norm", r"does nothing without trainer\.gradient_clip_val"),
])  # fmt: skip
def test_what_is_refused_is_named_with_its_value(flag, value, words):
    with pytest.raises(UserError, match=rf"^trainer\.{flag}=.*{words}") as caught:
        checked(**{flag: value})
    typed = {"None": "null", "True": "true", "False": "false"}.get(str(value), value)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"trainer.{flag}={typed}")


def test_flags_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r"min_steps=9: use up to trainer\.max_steps=8"):
        checked(max_steps=8, min_steps=9)
    with pytest.raises(UserError, match=r"limit_train_batches=2 with trainer\.overfit_batches=1"):
        checked(overfit_batches=1, limit_train_batches=2)
    with pytest.raises(UserError, match=r"sync_batchnorm=true: torch supports it only on GPUs"):
        checked(sync_batchnorm=True, accelerator="cpu", strategy="ddp")


def test_the_values_that_change_nothing_are_accepted_and_not_passed_on():
    neutral = {
        "val_check_interval": 1.0, "enable_checkpointing": True, "barebones": False, "max_steps": -1, "max_time": None,
        "reload_dataloaders_every_n_epochs": 0, "limit_predict_batches": 1.0, "profiler": None, "gradient_clip_val": None,
    }  # fmt: skip
    assert checked(**neutral) == {"max_epochs": 12}
    quiet = {"fast_dev_run": False, "overfit_batches": 0.0, "limit_train_batches": 1.0, "limit_val_batches": None}
    assert debug_reason(checked(**quiet), None) is None and batch_limits(checked(**quiet)) == {}


def test_the_values_at_the_limits_are_accepted():
    most = {"min_epochs": 12, "check_val_every_n_epoch": 12, "max_steps": 8, "min_steps": 8, "devices": 1024}
    least = {"max_time": "00:00:00:01", "gradient_clip_val": 1e-9, "limit_val_batches": 1}
    given = {"max_epochs": 12, "accelerator": "cpu", "strategy": "ddp", **most, **least}
    assert checked(**given) == given


@pytest.mark.parametrize(("flags", "reason", "limits"), [
    ({"fast_dev_run": True}, "trainer.fast_dev_run=true", {"train": 1, "val": 1, "test": 1}),
    ({"fast_dev_run": 3}, "trainer.fast_dev_run=3", {"train": 3, "val": 3, "test": 3}),
    ({"limit_train_batches": 0.1}, "trainer.limit_train_batches=0.1", {"train": 0.1}),
    ({"limit_val_batches": 1, "limit_test_batches": 2}, "trainer.limit_val_batches=1, trainer.limit_test_batches=2",
     {"val": 1, "test": 2}),
    ({"overfit_batches": 2}, "trainer.overfit_batches=2", {"train": 2, "val": 2}),
    ({"overfit_batches": 2, "fast_dev_run": 1}, "trainer.fast_dev_run=1, trainer.overfit_batches=2",
     {"train": 2, "val": 2, "test": 1}),
])  # fmt: skip
def test_what_cuts_the_data_short_makes_a_debug_run(flags, reason, limits):
    trainer = checked(**flags)
    assert debug_reason(trainer, None) == reason and batch_limits(trainer) == limits
    assert debug_reason(trainer, "mine") == "debug=mine"
    assert not set(flags) & set(lightning_flags(trainer, RunFolder("run")))


def test_a_fast_run_has_one_epoch_whatever_else_is_set():
    trainer = checked(fast_dev_run=True, min_epochs=5, min_steps=100, check_val_every_n_epoch=4, max_epochs=50)
    assert trainer == {"max_epochs": 1, "fast_dev_run": True, "check_val_every_n_epoch": 1}


@pytest.mark.parametrize("file", ["fast", "overfit", "limit", "profile"])
def test_the_files_of_debug_pass_and_win_over_an_experiment(file):
    config = validate(composed("experiment=simple_cnn", f"debug={file}", "trainer.accelerator=cpu"))
    assert debug_reason(config.trainer, None), "each of them limits something"
    assert config.trainer.max_epochs == {"fast": 1, "overfit": 50, "limit": 3, "profile": 1}[file]


def test_a_profiler_writes_into_the_folder_of_the_run(tmp_path):
    folder = RunFolder(tmp_path)
    own = {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "filename": "mine"}
    flags = [lightning_flags(checked(profiler=profiler), folder)["profiler"] for profiler in ("advanced", own)]
    assert [each["dirpath"] for each in flags] == [str(tmp_path)] * 2
    assert [each["filename"] for each in flags] == ["profile", "mine"]
    assert flags[0]["_target_"].endswith(".AdvancedProfiler")
