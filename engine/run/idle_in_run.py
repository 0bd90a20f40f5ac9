"""Which settings of a run have no effect, since another setting, the images or the machine decides."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig, OmegaConf

from callbacks.early_stopping import EarlyStopping
from common.idle import key_of, warn_of_idle
from common.run_record import RunRecord, flatten
from common.text import override_value, plural
from datamodules.splits import GIVEN
from engine.config.instantiate import LIBRARIES, OURS
from engine.hints import CONF
from engine.state import STATE

# Whether it holds, what is missing or decides instead, and the settings that have no effect then
Rule = tuple[bool, str, Sequence[str]]

# Callbacks without `enabled` -> the setting that turns them on
WAKES = {
    "callbacks.distillation": "teacher=CHECKPOINT",
    "callbacks.linear_probe": "callbacks.linear_probe.steps=STEPS",
    "callbacks.progressive_resizing": "callbacks.progressive_resizing.initial_scale=SHARE",
}
OF_TRAINING = (
    "model.weights", "model.freeze", "augmentation", "batch_transform", "loss", "optimizer", "scheduler", "teacher",
    "datamodule.sampler", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.precision",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
)  # fmt: skip
LEAST = ("trainer.min_epochs", "trainer.min_steps")
OF_FAST_RUN = (
    *LEAST, "trainer.max_epochs", "trainer.check_val_every_n_epoch", "trainer.limit_train_batches",
    "trainer.limit_val_batches", "trainer.limit_test_batches",
)  # fmt: skip


def idle_in_run(
    config: DictConfig,
    configured: Mapping[str, L.Callback],
    data: L.LightningDataModule,
    *,
    pretrained: bool,
    on_gpu: bool,
    in_sweep: bool = False,
) -> dict[str, str]:
    """Return what `common.idle.warn_of_idle` needs, for a run whose images have been read.

    Args:
        configured: the callbacks that have something to do, by their keys.
        pretrained: whether training begins with pretrained weights.
        on_gpu: whether the run computes on a CUDA GPU.
        in_sweep: whether this is a job of a sweep or a search, which evaluates checkpoints with the settings of their runs.
    """
    rules = [
        *_of_images(config, data, on_gpu),
        *_of_training(config, configured),
        *([] if in_sweep else _of_checkpoint(config)),
        *_of_callbacks(config, configured, pretrained),
    ]
    idle = {}
    for holds, why, keys in rules:
        for key in keys if holds else ():
            idle.setdefault(key, why)
    return idle


def warn_of_idle_in_run(record: RunRecord, idle: Mapping[str, str], trains: bool) -> None:
    """Warn of what was typed without an effect, also in files of the user's own and in an experiment.

    Args:
        idle: as `idle_in_run` returns it.
        trains: whether the run trains; what files set for its training needs no warning in an evaluation.
    """
    typed = record.run.overrides  # with the files of the run that ckpt_path names, which nobody typed
    if not record.in_sweep:
        keys = {key_of(each) for each in STATE.command}  # the values have been completed
        typed = [each for each in typed if key_of(each) in keys]
    warn_of_idle(typed, idle)
    if trains and record.run.debug is None:  # debug runs turn off most of a file, as their user wants
        for choice, settings in settings_of_files(typed).items():
            if choice.partition("=")[0] not in idle:  # else the choice itself is warned of
                warn_of_idle(settings, idle, where=f" of {choice}")


def settings_of_files(typed: Sequence[str]) -> dict[str, list[str]]:
    """Return what the files of the user's own set, and any experiment, as if it were typed, except keys that are typed, too.

    Returns:
        GROUP=NAME as typed -> KEY=VALUE of its file and of those that it inherits from.
    """
    chosen = {key_of(text): text for text in typed}
    found = {}
    for group, text in chosen.items():
        values = {}
        for name in re.findall(r"\w[\w./-]*", text.partition("=")[2]):  # one, or a list
            values |= _values_of_file(group, name)
        found[text] = [f"{key}={override_value(value)}" for key, value in values.items() if key not in chosen]
    return found


def _values_of_file(group: str, name: str) -> dict[str, object]:
    """Return what a file sets, by full keys; nothing for a file of conf/ that is no experiment, whose settings nobody wrote."""
    folders = [Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    own = [folder for folder in folders if group == "experiment" or folder != CONF]
    files = [folder / group / f"{name.removesuffix('.yaml')}.yaml" for folder in own]
    file = next((file for file in files if file.is_file()), None)
    content = OmegaConf.load(file) if file else None
    if not OmegaConf.is_dict(content):
        return {}
    content, values = OmegaConf.to_container(content), {}
    for each in content.pop("defaults", ()):
        choices = each if isinstance(each, dict) else {}
        for key, choice in choices.items():
            chosen = key.removeprefix("override ").strip().lstrip("/")
            values |= {chosen: choice} | _values_of_file(chosen, str(choice))
        if not choices:  # a file that it inherits from, beside it or as /GROUP/NAME
            parent = str(each).partition("@")[0]
            above, _, last = parent.lstrip("/").rpartition("/")
            values |= _values_of_file(above if parent.startswith("/") else group, last)
    prefix = "" if "@package _global_" in file.read_text(encoding="utf-8") else f"{group}."
    return values | flatten(content, prefix)


def _of_images(config: DictConfig, data: L.LightningDataModule, on_gpu: bool) -> list[Rule]:
    catalog, folds = data.catalog, data.rules["folds"]
    draws = folds is not None or catalog.splits_from != GIVEN or hasattr(data.source, "split_seed")
    is_deep = data.pixel_cache.stats.deep[catalog.present()].any()
    table_replaces = config.datamodule.table is not None and "CsvTable" not in config.datamodule.source._target_
    tests = data.has_test and "test" in config.stages and not (folds is not None and "fit" in config.stages)
    return [
        (len(catalog.classes) > 2, "with more than two classes",
         ("decision.threshold_criterion", "decision.false_negative_cost")),
        (config.decision.threshold_criterion != "cost", "without decision.threshold_criterion=cost",
         ("decision.false_negative_cost",)),
        (not draws, "on images that come with their splits", ("datamodule.split_seed",)),
        (not is_deep, "on images of 8 bits per channel", ("datamodule.range",)),
        (table_replaces, "with datamodule.table, which lists the images", ("datamodule.source",)),
        (not tests, "without an evaluation of test images", ("trainer.limit_test_batches",)),
        (not on_gpu, "without a GPU", ("datamodule.gpu_cache_gib", "trainer.cuda_graphs=true", "trainer.benchmark=true")),
    ]  # fmt: skip


def _of_training(config: DictConfig, configured: Mapping[str, L.Callback]) -> list[Rule]:
    trainer, scheduler = config.trainer, config.get("scheduler") or {}
    fast, epochs = trainer.get("fast_dev_run"), trainer.max_epochs
    limit = next((name for name in ("max_steps", "max_time") if trainer.get(name) is not None), None)
    patience = scheduler.get("patience") if str(scheduler.get("_target_")).endswith("optim.plateau") else None
    own = any(type(each).__module__.split(".")[0] not in OURS | LIBRARIES for each in configured.values())
    may_end = limit or own or any(isinstance(each, (LightningEarlyStopping, Timer)) for each in configured.values())
    in_one_process = not str(trainer.get("strategy")).startswith("ddp")
    return [
        (bool(fast), f"with trainer.fast_dev_run={str(fast).lower()}", OF_FAST_RUN),
        (not may_end, "where nothing ends the training early, as callbacks=early_stopping would", LEAST),
        (limit is not None, f"with trainer.{limit}, which the schedule follows", ("scheduler.epochs",)),
        # An epoch to compare with, `patience` that are not better, one more, and one with the lower learning rate
        (patience is not None and epochs < patience + 3,
         f"in {plural(epochs, 'epoch')}: scheduler.patience={patience} needs {(patience or 0) + 3}", ("scheduler",)),
        (config.model.freeze is True, "with model.freeze=true", ("optimizer.backbone_lr_factor",)),
        (not config.logger, "without a logger", ("trainer.log_every_n_steps",)),
        (in_one_process, "in one process, without trainer=ddp", ("trainer.sync_batchnorm",)),
    ]  # fmt: skip


def _of_checkpoint(config: DictConfig) -> list[Rule]:
    return [
        ("fit" not in config.stages, "without the stage fit", OF_TRAINING),
        (config.ckpt_path is not None, "with ckpt_path, which has weights", ("model.weights",)),
    ]


def _of_callbacks(config: DictConfig, configured: Mapping[str, L.Callback], pretrained: bool) -> list[Rule]:
    rules = []
    for name, node in config.callbacks.items():
        key = f"callbacks.{name}"
        wake = WAKES.get(key, f"{key}.enabled=true")
        keys = [f"{key}.{each}" for each in node or () if not wake.startswith(f"{key}.{each}=")]
        rules.append((key not in configured, f"without {wake}", keys))
    distillation, norms, stopping = (
        configured.get(f"callbacks.{name}") for name in ("distillation", "freeze_batch_norm", "early_stopping")
    )
    weight, epochs = distillation and distillation.loss.weight, config.trainer.max_epochs
    patience = stopping.patience if isinstance(stopping, EarlyStopping) else None
    needed = max(patience or 1, 1) + 2
    probes = pretrained and "callbacks.linear_probe" in configured
    return [
        *rules,
        (distillation is None, "without callbacks.distillation", ("teacher",)),
        (weight == 0, "with callbacks.distillation.weight=0", ("teacher", "callbacks.distillation.temperature")),
        (weight == 1, "with callbacks.distillation.weight=1", ("loss",)),
        (norms is not None and norms.enabled is True, "without callbacks.freeze_batch_norm.enabled=auto",
         ("callbacks.freeze_batch_norm.similar_below", "callbacks.freeze_batch_norm.lr_factor")),
        (probes, "with callbacks.linear_probe, which turns the dropout of the head off", ("model.head.dropout",)),
        # An epoch to compare with, `patience` (at least one) that are not better, and one that is not trained
        (patience is not None and epochs < needed,
         f"in {plural(epochs, 'epoch')}: callbacks.early_stopping.patience={patience} needs {needed}",
         ("callbacks.early_stopping", "callbacks=early_stopping")),
    ]  # fmt: skip
