"""What can be said of a run's settings without torch, whose import takes seconds. All raise ValueError and name the key."""

import inspect
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from common.text import did_you_mean
from datamodules.settings import check_augmentation, check_data
from datamodules.sources.image_folder import check_root
from engine.config.instantiate import check_node

STAGES = ("cost", "fit", "test")
MOST_DEVICES = 1024
GROUPS = ("augmentation", "loss", "decision", "optimizer", "scheduler", "trainer", "logger")
# What the code gives besides the configuration, and no user
GIVEN = {
    "datamodule": ("augmentation",),
    "loss": ("class_counts",),
    "logger": ("folder", "first_step"),
    "trainer": (
        "callbacks", "plugins", "logger", "default_root_dir", "enable_progress_bar", "enable_model_summary",
        "num_sanity_val_steps", "log_every_n_steps", "use_distributed_sampler",
    ),
}  # fmt: skip


def validate_early(config: DictConfig) -> None:
    """All that this file knows; Lightning, torch and the images say the rest later."""
    check_values(config)
    for key in ("datamodule", *GROUPS, *(f"callbacks.{name}" for name in config.callbacks)):
        check_node(config, key, GIVEN.get(key, ()))
    data, augmentation = (OmegaConf.to_container(config[key], resolve=True) for key in ("datamodule", "augmentation"))
    check_data(**_of(check_data, data))
    if augmentation:
        check_augmentation(**_of(check_augmentation, augmentation))
    if data["source"] == "image_folder" and data["table"] is None:
        check_root(Path(data["root"]))


def check_values(config: DictConfig) -> None:
    """Stages, epochs, freezing, callbacks, numbers. Brings `stages` into their order."""
    chosen = config.stages if isinstance(config.stages, ListConfig) else [config.stages]
    for stage in chosen:
        if stage not in STAGES:
            raise ValueError(f"stages={config.stages}: {stage!r} is no stage; {did_you_mean(str(stage), STAGES)}")
    config.stages = [stage for stage in STAGES if stage in chosen]
    if not config.stages:
        raise ValueError("stages=[]: nothing to do; use some of cost, fit, test")
    if "test" in config.stages and "fit" not in config.stages and config.ckpt_path is None:
        raise ValueError(
            f"stages={list(config.stages)}: without fit there is nothing to test; add "
            "ckpt_path=RUN/checkpoints/best.ckpt"
        )
    check_numbers(config)
    weights = config.model.weights
    needed = "fit" in config.stages and config.ckpt_path is None and weights not in (None, "auto", "imagenet")
    if needed and not Path(str(weights)).is_file():
        raise ValueError(f"model.weights={weights}: no such file; use auto, imagenet, null or the path of a state dict")
    freeze = config.model.freeze
    if not (freeze is None or isinstance(freeze, bool) or (isinstance(freeze, int) and freeze > 0)):
        raise ValueError(f"model.freeze={freeze}: use null, true, or the number of epochs after which to thaw")
    if type(freeze) is int and str(config.trainer.strategy).startswith("ddp"):
        raise ValueError(
            f"model.freeze={freeze} with trainer=ddp: parameters that thaw later would not be averaged over the "
            "processes; use model.freeze=true, or one process"
        )
    if not isinstance(config.trainer.max_epochs, int) or config.trainer.max_epochs < 1:
        raise ValueError(f"trainer.max_epochs={config.trainer.max_epochs}: use a whole number of 1 or more")


def check_numbers(config: DictConfig) -> None:
    """What a library would take, and then do nothing, everything or the contrary."""
    if type(config.seed) is not int or not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed}: use a whole number from 0 to {2**32 - 1}")
    devices, clip = config.trainer.devices, config.trainer.get("gradient_clip_val")
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise ValueError(f"trainer.devices={devices}: use up to {MOST_DEVICES}")
    if isinstance(clip, (int, float)) and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val={clip}: use a number above 0, or null")


def _of(function: Callable, settings: dict) -> dict:
    """Those settings that a function takes."""
    taken = inspect.signature(function).parameters.items()
    return {name: settings.get(name) for name, p in taken if name in settings or p.default is p.empty}
