"""The flags of Lightning's Trainer: what is allowed, what is refused and why, and which flags make a debug run."""

import math
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from common.errors import UserError
from common.run_folder import RunFolder
from common.text import quote_override
from engine.processes import on_nodes

MOST_DEVICES = 1024
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
DEBUGGING = ("fast_dev_run", "overfit_batches", *LIMITS)  # results of such a run say nothing about the network
OWN = (*DEBUGGING, "max_steps", "cuda_graphs")  # implemented by this project instead of Lightning
WHOLE = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "accumulate_grad_batches", "check_val_every_n_epoch",
    "log_every_n_steps",
)  # fmt: skip
PROFILERS = {
    "simple": "lightning.pytorch.profilers.SimpleProfiler",
    "advanced": "lightning.pytorch.profilers.AdvancedProfiler",
    "pytorch": "lightning.pytorch.profilers.PyTorchProfiler",
}


class Refused(NamedTuple):
    """A flag that cannot be used: the values that change nothing, and why no others are allowed."""

    neutral: tuple
    reason: str


REFUSED = {
    "val_check_interval": Refused(
        (None, 1.0),
        "every epoch ends with a validation, which chooses the best epoch; for shorter epochs: datamodule.train_fraction, "
        "for fewer validations: trainer.check_val_every_n_epoch",
    ),
    "enable_checkpointing": Refused(
        (None, True),
        "a run measures best.ckpt and resumes from last.ckpt; to measure only the cost: stages=[cost]",
    ),
    "barebones": Refused(
        (None, False),
        "a run without checkpoints and metrics has no result; to see where its time goes: trainer.profiler=simple",
    ),
    "reload_dataloaders_every_n_epochs": Refused(
        (None, 0),
        "a run uses the same images in every epoch, each time in another order; for other images, start another run",
    ),
    "limit_predict_batches": Refused(
        (None, 1.0),
        "training predicts nothing; python predict.py ckpt=FILE images=... takes the images that you name",
    ),
    "enable_autolog_hparams": Refused((None, True), "a run logs its settings itself; for no logger: logger=none"),
    "model_registry": Refused((None,), "checkpoints are kept in the run's folder: hydra.run.dir=DIR"),
    "num_nodes": Refused(
        (None, 1), f"the launcher decides it: {on_nodes()}; for several GPUs of this machine: trainer=ddp"
    ),
    "num_sanity_val_steps": Refused(
        (None, 0), "validation comes after each epoch; to check first that a whole run works: debug=fast"
    ),
    "enable_model_summary": Refused(
        (None,), "the stage cost writes it to summary.txt in the run's folder; for nothing else: stages=[cost]"
    ),
    "logger": Refused((None,), "loggers have a group: logger=none for none, logger=csv, logger='[tensorboard,csv]'"),
    "callbacks": Refused((None,), "callbacks have a group: callbacks=early_stopping, +callbacks.NAME._target_=CLASS"),
    "default_root_dir": Refused((None,), "a run writes everything to one folder: hydra.run.dir=DIR"),
    "plugins": Refused(
        (None,),
        "a run has its own plugins, for its checkpoints; for precision and strategy: trainer.precision, trainer.strategy",
    ),
    "use_distributed_sampler": Refused(
        (None,),
        "the loader itself divides the images among the processes, each once; for another order: datamodule.sampler",
    ),
}
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def refusal(name: str) -> str | None:
    """Return why a flag of Lightning cannot be used, and what to use instead; None for any other flag."""
    return f"cannot be used here: {REFUSED[name].reason}" if name in REFUSED else None


def check_trainer(trainer: dict) -> dict:
    """Refuse values that Lightning accepts without doing what they say, and flags that this project does not support.

    Returns:
        The settings, except those that are null or otherwise change nothing.

    Raises:
        UserError: names flag, value and what is allowed, or what to use instead.
    """
    for name, flag in REFUSED.items():
        if name in trainer and (type(trainer[name]), trainer[name]) not in [
            (type(each), each) for each in flag.neutral
        ]:
            raise UserError(f"{quote_override(f'trainer.{name}', trainer[name])}: {refusal(name)}")
    _check_numbers(trainer)
    _check_limits(trainer)
    _check_time(trainer.get("max_time"))
    _check_profiler(trainer.get("profiler"))
    _check_devices(trainer)
    kept = {name: value for name, value in trainer.items() if value is not None and name not in REFUSED}
    if kept.get("max_steps") == -1:  # Lightning's word for no limit
        del kept["max_steps"]
    if kept.get("fast_dev_run"):
        kept |= {"max_epochs": 1, "check_val_every_n_epoch": 1}
        kept.pop("min_epochs", None)
        kept.pop("min_steps", None)
    return kept


def _check_numbers(trainer: dict) -> None:
    for name in WHOLE:
        value = trainer.get(name)
        if name == "max_epochs" and value == -1:
            raise UserError(
                "trainer.max_epochs=-1: the learning-rate schedule needs an end; use a whole number of 1 or more, and "
                "trainer.max_steps or trainer.max_time to stop earlier"
            )
        unlimited = value is None or (name == "max_steps" and value == -1)
        if (name == "max_epochs" or not unlimited) and not (type(value) is int and value >= 1):
            raise UserError(f"{quote_override(f'trainer.{name}', value)}: use a whole number of 1 or more")
    epochs, clip = trainer["max_epochs"], trainer.get("gradient_clip_val")
    for name in ("min_epochs", "check_val_every_n_epoch"):
        if (trainer.get(name) or 1) > epochs and not trainer.get("fast_dev_run"):
            raise UserError(f"trainer.{name}={trainer[name]}: use up to trainer.max_epochs={epochs}")
    most_steps = trainer.get("max_steps") or -1
    if -1 < most_steps < (trainer.get("min_steps") or 0):
        raise UserError(f"trainer.min_steps={trainer['min_steps']}: use up to trainer.max_steps={most_steps}")
    if clip is not None and not (type(clip) in (int, float) and 0 < clip < math.inf):
        raise UserError(f"{quote_override('trainer.gradient_clip_val', clip)}: use a number above 0, or null")
    algorithm = trainer.get("gradient_clip_algorithm")
    if algorithm not in (None, "norm", "value"):
        raise UserError(f"trainer.gradient_clip_algorithm={algorithm}: use norm, value or null")
    if algorithm is not None and clip is None:
        raise UserError(
            f"trainer.gradient_clip_algorithm={algorithm}: does nothing without trainer.gradient_clip_val; add e.g. "
            "trainer.gradient_clip_val=1"
        )


def _check_limits(trainer: dict) -> None:
    fast, overfit = trainer.get("fast_dev_run"), trainer.get("overfit_batches")
    if not (fast is None or type(fast) in (bool, int)) or (fast or 0) < 0:
        raise UserError(f"trainer.fast_dev_run={fast}: use true, a number of batches, or false")
    for name in (*LIMITS, "overfit_batches"):
        value = trainer.get(name)
        if name == "overfit_batches" and not value and type(value) in (int, float, type(None)):
            continue  # 0: none
        if value is None or (type(value) is float and 0 < value <= 1) or (type(value) is int and value > 0):
            continue
        instead = ""
        if type(value) in (int, float) and value == 0:
            what = {"limit_train_batches": "stages=[test] ckpt_path=FILE", "limit_test_batches": "stages=[cost,fit]"}
            instead = f"; for none: {what[name]}" if name in what else "; validation chooses the best epoch"
        raise UserError(
            f"{quote_override(f'trainer.{name}', value)}: use a number of batches (2), a share of them (above 0, up to 1.0), "
            f"or null{instead}"
        )
    for name in LIMITS[:2]:
        if overfit and _cuts(name, trainer.get(name)):
            raise UserError(
                f"trainer.{name}={trainer[name]} with trainer.overfit_batches={overfit}: the latter limits both train and val; "
                "remove one of them"
            )


def _check_time(duration) -> None:
    """Check trainer.max_time."""
    if duration is None:
        return
    seconds = None
    if isinstance(duration, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", duration):
        days, hours, minutes, rest = map(int, duration.split(":"))
        seconds = timedelta(days=days, hours=hours, minutes=minutes, seconds=rest).total_seconds()
    elif isinstance(duration, dict) and all(type(value) in (int, float) for value in duration.values()):
        try:
            seconds = timedelta(**duration).total_seconds()
        except TypeError:
            seconds = None
    if seconds is None or not seconds > 0:
        raise UserError(
            f"trainer.max_time={duration}: use days:hours:minutes:seconds above 0, e.g. 00:00:30:00 (quoted in a "
            "YAML file), or {minutes: 30}"
        )


def _check_profiler(profiler) -> None:
    if profiler is not None and not isinstance(profiler, dict) and str(profiler) not in PROFILERS:
        raise UserError(
            f"trainer.profiler={profiler}: use {', '.join(PROFILERS)}, or a _target_ and its settings, e.g. "
            f"{{_target_: {PROFILERS['simple']}, extended: false}}"
        )


def _check_devices(trainer: dict) -> None:
    import torch  # late: a search's settings are checked without it

    devices, accelerator, strategy = trainer.get("devices"), trainer.get("accelerator"), trainer.get("strategy")
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={strategy}: use auto (one process) or ddp (several, each with the whole network); "
            "strategies that start processes differently, or divide a network among them, are not supported"
        )
    if trainer.get("cuda_graphs") not in (True, False, "auto", None):
        raise UserError(f"{quote_override('trainer.cuda_graphs', trainer['cuda_graphs'])}: use true, false or auto")
    if trainer.get("precision") == "16-true":
        raise UserError(
            "trainer.precision=16-true: 16-bit weights do not train, since small steps and Adam's epsilon become 0; "
            "use 16-mixed, bf16-mixed or bf16-true"
        )
    if type(devices) is int and (devices == 0 or devices < -1):
        raise UserError(f"{quote_override('trainer.devices', devices)}: use 1 or more, or -1 for all GPUs")
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise UserError(f"trainer.devices={devices}: use up to {MOST_DEVICES}")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            "trainer=gpu: there is no CUDA device here (torch.cuda.is_available() is false). Use "
            "trainer=auto or trainer=cpu; with a GPU in the machine, check its driver with nvidia-smi"
        )
    on_processor = accelerator == "cpu" or not torch.cuda.is_available()
    n = _n_devices(devices, 0 if on_processor else torch.cuda.device_count())
    if n > 1 and not str(strategy).startswith("ddp"):
        raise UserError(
            f"{quote_override('trainer.devices', devices)}: trainer.strategy={strategy} trains in one process, on one device; "
            "use trainer.devices=1, or add trainer=ddp, which starts a process per device"
        )
    if trainer.get("sync_batchnorm") and on_processor and str(trainer.get("strategy")).startswith("ddp"):
        raise UserError("trainer.sync_batchnorm=true: torch supports it only on GPUs; use false")


def _n_devices(devices: object, n_gpus: int) -> int:
    """Return the number of devices that Lightning uses for a setting: a number, `auto`, -1, [0,1] or "0,1"."""
    if devices in ("auto", -1, "-1"):
        return max(n_gpus, 1)
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    if isinstance(devices, list | tuple):
        return len(devices)
    return int(devices) if str(devices).isdigit() else 1


def _cuts(name: str, value) -> bool:
    """Return whether the value of a flag in DEBUGGING cuts the data or the training short."""
    if name in LIMITS:
        return value is not None and not (type(value) is float and value == 1)
    return bool(value)


def debug_reason(trainer: Mapping, choice: str | None) -> str | None:
    """Return what makes a run a debug run, such as `debug=fast` or `trainer.limit_train_batches=0.1`; otherwise None.

    Args:
        trainer: the trainer's resolved settings.
        choice: the chosen file of the group `debug`.
    """
    if choice is not None:
        return f"debug={choice}"
    flags = [f"trainer.{name}={trainer[name]}".lower() for name in DEBUGGING if _cuts(name, trainer.get(name))]
    return ", ".join(flags) or None


def batch_limits(trainer: Mapping) -> dict[str, int | float]:
    """Return, by split, the number or share of batches that a run uses; splits without a limit are absent."""
    limits = {name.split("_")[1]: trainer[name] for name in LIMITS if _cuts(name, trainer.get(name))}
    if fast := trainer.get("fast_dev_run"):
        limits = dict.fromkeys(("train", "val", "test"), int(fast))
    if overfit := trainer.get("overfit_batches"):
        limits |= {"train": overfit, "val": overfit}
    return limits


def lightning_flags(trainer: Mapping, folder: RunFolder) -> dict:
    """Return the settings to pass to Lightning's Trainer; a profiler writes into the run's folder.

    Lightning's own fast_dev_run would switch off checkpoints and loggers, its overfit_batches would replace the sampler, and
    its limits would take the first batches of val and test, which may have a single class. datamodules/image_datamodule.py
    implements them instead. Without a CUDA device, auto is the processor: Lightning would train on Apple's GPU, which has no
    float64 and which nothing here was tried on.
    """
    import torch

    flags = {name: value for name, value in trainer.items() if name not in OWN}
    if flags.get("accelerator") == "auto" and not torch.cuda.is_available():
        flags["accelerator"] = "cpu"
    profiler = flags.get("profiler")
    if isinstance(profiler, str):
        profiler = {"_target_": PROFILERS[profiler]}
    if profiler:
        flags["profiler"] = {"dirpath": str(folder.path), "filename": folder.PROFILE, **profiler}
    return flags
