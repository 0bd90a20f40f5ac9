"""Settings without an effect: which are warned of, and that training is the same without them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image

from common.idle import warn_of_idle
from engine.cli import CONF
from engine.config.validate import validate
from engine.run.callback_list import configured_callbacks
from engine.run.idle_in_run import idle_in_run, settings_of_files
from engine.run.stages import build_data
from tests.support.configs import compose_verb, composed
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import SIMPLE_CNN, make_images, outcome

DATA = ("datamodule=image_folder", *SIMPLE_CNN, "datamodule.batch_size=4", "model.weights=null", "trainer=cpu")
FOCAL = ("teacher={teacher}", "loss=focal")
ON_THREE = ("datamodule.root={three}", "decision.threshold_criterion=f1")


@pytest.fixture(scope="module")
def places(two_colors, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("idle")
    three = make_images(folder / "three", dict.fromkeys(("blue", "red", "green"), 5))
    table = folder / "table.csv"
    table.write_text(
        "path,label\n" + "".join(f"{color}/{n:03}.png,{color}\n" for color in ("red", "blue") for n in range(5))
    )
    made = make_checkpoint(folder / "teacher.ckpt", decision=None)
    untested = make_images(folder / "untested", {f"{s}/{c}": 5 for s in ("train", "val") for c in ("blue", "red")})
    deep = make_images(folder / "deep", {f"{s}/{c}": 5 for s in ("train", "val", "test") for c in ("blue", "red")})
    for number, file in enumerate(deep.glob("val/*/*")):
        Image.fromarray(np.full((16, 16), 1000 + number, np.uint16)).save(file)
    return {"root": two_colors, "cache": folder / "cache", "three": three, "table": table, "teacher": made,
            "untested": untested, "deep": deep}  # fmt: skip


def warned(places: dict, caplog, *overrides: str, **given: bool) -> list[str]:
    """Return the warnings of a run with these settings on two colors."""
    typed = [each.format(**places) if re.search("{(r|t|u|de)", each) else each for each in overrides]
    place = [f"datamodule.cache={places['cache']}"]
    place += [f"datamodule.root={places['root']}"] if not any("datamodule.root" in each for each in typed) else []
    config = validate(composed(*DATA, *place, *typed))
    data = build_data(config)
    data.setup()
    caplog.clear()
    configured = configured_callbacks(config)
    warn_of_idle(typed, idle_in_run(config, configured, data, **{"pretrained": False, "on_gpu": False} | given))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("overrides", "warning"), [
    (["callbacks.ema.decay=0.9"], "callbacks.ema.decay=0.9: has no effect without callbacks.ema.enabled=true"),
    (["callbacks.ema.decay=0.9", "callbacks.ema.enabled=true"], ""),
    (["callbacks.ema.enabled=false"], ""),
    (["callbacks.linear_probe.lr=1"], "callbacks.linear_probe.lr=1: has no effect without callbacks.linear_probe.steps=STEPS"),
    (["callbacks.linear_probe.steps=0"], ""),
    (["callbacks.distillation.weight=1"], "callbacks.distillation.weight=1: has no effect without teacher=CHECKPOINT"),
    (["teacher={teacher}", "~callbacks.distillation"], "teacher={teacher}: has no effect without callbacks.distillation"),
    ([*FOCAL], ""),
    ([*FOCAL, "callbacks.distillation.weight=1"], "loss=focal: has no effect with callbacks.distillation.weight=1"),
    ([*FOCAL, "callbacks.distillation.weight=0"], "teacher={teacher}: has no effect with callbacks.distillation.weight=0"),
    ([*FOCAL, "callbacks.distillation.weight=0.5", "callbacks.distillation.temperature=2"], ""),
    (["callbacks.distillation.weight=0", "callbacks.distillation.temperature=2", "teacher={teacher}"],
     "callbacks.distillation.temperature=2 and teacher={teacher}: have no effect with callbacks.distillation.weight=0"),
    (["callbacks.freeze_batch_norm.enabled=true", "callbacks.freeze_batch_norm.lr_factor=0.5"],
     "callbacks.freeze_batch_norm.lr_factor=0.5: has no effect without callbacks.freeze_batch_norm.enabled=auto"),
    (["callbacks.freeze_batch_norm.enabled=auto", "callbacks.freeze_batch_norm.lr_factor=0.5"], ""),
    (["trainer.sync_batchnorm=true"], "trainer.sync_batchnorm=true: has no effect in one process, without trainer=ddp"),
    (["trainer.sync_batchnorm=null"], ""),
    (["callbacks.best_checkpoint.monitor=val/loss", "~callbacks.contact_sheet", "optimizer.lr=0.1"], ""),
    (["decision.false_negative_cost=5"],
     "decision.false_negative_cost=5: has no effect without decision.threshold_criterion=cost"),
    (["decision.false_negative_cost=5", "decision.threshold_criterion=cost"], ""),
    (ON_THREE, "decision.threshold_criterion=f1: has no effect with more than two classes"),
    (["datamodule.split_seed=3"], "datamodule.split_seed=3: has no effect on images that come with their splits"),
    (["datamodule.split_seed=3", "datamodule.root={three}"], ""),
    (["datamodule.split_seed=3", "datamodule.folds=2", "datamodule.fold=0"], ""),
    (["datamodule.range=[0,99]"], "datamodule.range=[0,99]: has no effect on images of 8 bits per channel"),
    (["datamodule.range=[0,99]", "datamodule.root={deep}"], ""),
    (["datamodule=csv", "datamodule.table={table}", "datamodule.root={three}", "datamodule.batch_size=1"], ""),
    (["datamodule.table={table}", "datamodule=torchvision", "datamodule.source.dataset=CIFAR10", "datamodule.root={three}",
      "datamodule.batch_size=1"],
     "datamodule.source.dataset=CIFAR10: has no effect with datamodule.table, which lists the images"),
    (["trainer.limit_test_batches=2", "stages=[fit]"],
     "trainer.limit_test_batches=2: has no effect without an evaluation of test images"),
    (["trainer.limit_test_batches=2"], ""),
    (["trainer.limit_test_batches=2", "datamodule.root={untested}"],
     "trainer.limit_test_batches=2: has no effect without an evaluation of test images"),
    (["trainer.limit_test_batches=2", "datamodule.folds=2", "datamodule.fold=0"],
     "trainer.limit_test_batches=2: has no effect without an evaluation of test images"),
    (["trainer.limit_test_batches=2", "datamodule.folds=2", "datamodule.fold=0", "stages=[test]", "ckpt_path={teacher}"], ""),
    (["trainer.cuda_graphs=true"], "trainer.cuda_graphs=true: has no effect without a GPU"),
    (["trainer.cuda_graphs=auto"], ""),
    (["datamodule.gpu_cache_gib=1"], "datamodule.gpu_cache_gib=1: has no effect without a GPU"),
    (["stages=[test]", "ckpt_path={teacher}", "optimizer.lr=0.1"], "optimizer.lr=0.1: has no effect without the stage fit"),
    (["ckpt_path={teacher}", "model.weights=null"], ""),
    (["ckpt_path={teacher}", "model.weights=auto"], "model.weights=auto: has no effect with ckpt_path, which has weights"),
    (["trainer.fast_dev_run=2", "trainer.max_epochs=5"],
     "trainer.max_epochs=5: has no effect with trainer.fast_dev_run=2"),
    (["trainer.fast_dev_run=true", "trainer.min_steps=5"],
     "trainer.min_steps=5: has no effect with trainer.fast_dev_run=true"),
    (["trainer.min_epochs=2"],
     "trainer.min_epochs=2: has no effect where nothing ends the training early, as callbacks=early_stopping would"),
    (["trainer.min_epochs=2", "callbacks=early_stopping"], ""),
    (["trainer.min_epochs=2", "trainer.max_time=00:00:10:00"], ""),
    (["trainer.min_epochs=2", "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer",
      "+callbacks.mine.duration=00:00:10:00"], ""),
    (["trainer.min_epochs=2", "+callbacks.mine._target_=tests.integration.test_configs.Stamp"], ""),
    (["scheduler.epochs=99", "trainer.max_steps=9"],
     "scheduler.epochs=99: has no effect with trainer.max_steps, which the schedule follows"),
    (["scheduler=plateau", "trainer.max_epochs=9"],
     "scheduler=plateau: has no effect in 9 epochs: scheduler.patience=7 needs 10"),
    (["scheduler=plateau", "trainer.max_epochs=10"], ""),
    (["callbacks=early_stopping", "trainer.max_epochs=6"],
     "callbacks=early_stopping: has no effect in 6 epochs: callbacks.early_stopping.patience=5 needs 7"),
    (["callbacks=early_stopping", "trainer.max_epochs=7"], ""),
    (["+callbacks.early_stopping._target_=lightning.pytorch.callbacks.EarlyStopping",
      "+callbacks.early_stopping.monitor=val/loss", "trainer.max_epochs=1"], ""),
    (["callbacks=early_stopping", "callbacks.early_stopping.patience=0", "trainer.max_epochs=2"],
     "callbacks=early_stopping and callbacks.early_stopping.patience=0: have no effect in 2 epochs: "
     "callbacks.early_stopping.patience=0 needs 3"),
    (["optimizer=adamw_discriminative", "optimizer.backbone_lr_factor=0.5", "model.freeze=true"],
     "optimizer.backbone_lr_factor=0.5: has no effect with model.freeze=true"),
    (["optimizer=adamw_discriminative", "optimizer.backbone_lr_factor=0.5", "model.freeze=1"], ""),
    (["logger=none", "trainer.log_every_n_steps=5"], "trainer.log_every_n_steps=5: has no effect without a logger"),
    (["logger=csv", "trainer.log_every_n_steps=5"], ""),
])  # fmt: skip
def test_what_was_typed_without_an_effect_is_warned_of(places, caplog, overrides, warning):
    assert warned(places, caplog, *overrides) == [warning.format(**places)] * bool(warning)


def test_runs_on_gpus_use_their_settings(places, caplog, monkeypatch):
    assert not warned(places, caplog, "datamodule.gpu_cache_gib=1", "trainer.benchmark=true", on_gpu=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not warned(places, caplog, "trainer=ddp", "trainer.sync_batchnorm=true", on_gpu=True)


def test_a_job_of_a_sweep_evaluates_with_the_settings_of_its_run(places, caplog):
    typed = ("stages=[test]", "ckpt_path={teacher}", "optimizer.lr=0.1")
    assert warned(places, caplog, *typed) and not warned(places, caplog, *typed, in_sweep=True)


def test_the_dropout_of_a_head_is_warned_of_where_the_linear_probe_turns_it_off(places, caplog):
    typed = ("model=truncated", "model.image_size=32", "model.head.dropout=[0.5]", "callbacks.linear_probe.steps=5")
    assert not warned(places, caplog, *typed[:-1], pretrained=True)
    assert not warned(places, caplog, *typed)
    assert warned(places, caplog, *typed, pretrained=True) == [
        "model.head.dropout=[0.5]: has no effect with callbacks.linear_probe, which turns the dropout of the head off"
    ]


@pytest.fixture
def own(tmp_path):
    """A folder of the user's own files: an experiment that inherits from another one, and callbacks."""
    files = {
        "experiment/base.yaml": "# @package _global_\ndefaults: [{override /scheduler: plateau}]\n"
        "decision: {false_negative_cost: 5}\ncallbacks: {ema: {decay: 0.8}}\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults: [base]\n"
        "callbacks: {ema: {decay: 0.9}, linear_probe: {lr: 1e-2, steps: 0}, feature_maps: {enabled: false}}\n",
        "callbacks/mine.yaml": "defaults: [/callbacks/shared@_here_]\nlinear_probe: {lr: 1e-2}\n",
        "callbacks/shared.yaml": "ema: {decay: 0.9}\n",
        "scheduler/late.yaml": "defaults: [plateau]\npatience: 9\n",
    }
    for name, content in files.items():
        (file := tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return f"--config-dir={tmp_path}/conf"


@pytest.mark.parametrize("name", ["mine", pytest.param("mine.yaml", marks=pytest.mark.thorough)])
def test_settings_of_the_chosen_experiment_s_file_are_warned_of_unless_they_are_typed_too(train, own, name):
    chosen = [*SIMPLE_CNN, own, f"experiment={name}", "trainer.max_epochs=1", "stages=[fit]"]
    ran = train(*chosen, "decision.false_negative_cost=3")
    assert [each for each in ran.record.run.warnings if "no effect" in each] == [
        "decision.false_negative_cost=3: has no effect without decision.threshold_criterion=cost",
        f"scheduler=plateau of experiment={name}: has no effect in 1 epoch: scheduler.patience=7 needs 10",
        f"callbacks.ema.decay=0.9 of experiment={name}: has no effect without callbacks.ema.enabled=true",
        f"callbacks.linear_probe.lr=0.01 of experiment={name}: has no effect without callbacks.linear_probe.steps=STEPS",
    ]
    debug = train(*chosen, "debug=fast")  # which turns off much of a file
    assert debug.status == 0 and not any("experiment=mine" in each for each in debug.record.run.warnings)


def test_settings_that_are_completed_count_as_typed(train, own, places, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(places["teacher"].parent))
    (tmp_path / "conf" / "experiment" / "deep.yaml").write_text("# @package _global_\ndatamodule: {range: [0, 9]}\n")
    typed = ["datamodule.range=0,255", "teacher=~/teacher.ckpt", "~callbacks.distillation", own, "experiment=deep"]
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", "stages=[fit]", *typed)
    assert ran.status == 0, ran.err
    assert [each for each in ran.record.run.warnings if "no effect" in each] == [
        "datamodule.range=[0,255]: has no effect on images of 8 bits per channel",
        f"teacher={places['teacher']}: has no effect without callbacks.distillation",
    ]


def test_settings_of_other_files_of_the_user_s_own_are_warned_of_too(train, own):
    chosen = [*SIMPLE_CNN, own, "callbacks=[default,mine]", "scheduler=late", "trainer.max_epochs=1", "stages=[fit]"]
    ran = train(*chosen)
    assert ran.status == 0, ran.err
    assert [each for each in ran.record.run.warnings if "no effect" in each] == [
        "scheduler=late: has no effect in 1 epoch: scheduler.patience=9 needs 12",  # and not its settings again
        "callbacks.ema.decay=0.9 of callbacks=[default,mine]: has no effect without callbacks.ema.enabled=true",
        "callbacks.linear_probe.lr=0.01 of callbacks=[default,mine]: has no effect without callbacks.linear_probe.steps=STEPS",
    ]


@pytest.mark.parametrize("experiment", sorted(file.stem for file in CONF.glob("experiment/*.yaml")))
def test_no_setting_of_the_project_s_experiments_is_without_an_effect(two_colors, tmp_path, caplog, experiment):
    places = (f"datamodule.root={two_colors}", f"datamodule.cache={tmp_path}")
    small = ("model.weights=null", "model.image_size=32", "datamodule.batch_size=4", "trainer=cpu")
    typed = [f"experiment={experiment}", "datamodule=image_folder", *places, *small]
    whole = compose_verb("train", *typed)
    HydraConfig.instance().set_config(whole)
    try:
        settings = settings_of_files(typed)[typed[0]]
    finally:
        HydraConfig.instance().cfg = None
    assert settings
    config = validate(OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"]))
    data = build_data(config)
    data.setup()
    caplog.clear()
    warn_of_idle(settings, idle_in_run(config, configured_callbacks(config), data, pretrained=False, on_gpu=False))
    assert not caplog.records


@pytest.mark.thorough
def test_training_is_the_same_to_the_last_bit_without_what_is_warned_of(train):
    both = ["scheduler=plateau", "callbacks=early_stopping", "logger=none"]
    idle = [
        "datamodule.split_seed=3", "datamodule.range=[0,99]", "scheduler.patience=0", "callbacks.early_stopping.patience=1",
        "trainer.log_every_n_steps=5", "datamodule.gpu_cache_gib=1", "trainer.cuda_graphs=true", "callbacks.ema.decay=0.5",
        "callbacks.freeze_batch_norm.lr_factor=0.1", "decision.false_negative_cost=5",
    ]  # fmt: skip
    without, with_idle = train(*both), train(*both, *idle)
    shown = [each.partition(": ha") for each in with_idle.record.run.warnings if "no effect" in each]
    shown = {name for names, _, _ in shown for name in re.split(", | and ", names)}
    assert shown == {*both[:2], *idle}
    *results, decision = outcome(without.folder)
    *results_with, decision_with = outcome(with_idle.folder)
    assert results_with == results
    assert replace(decision_with, false_negative_cost=decision.false_negative_cost) == decision
