"""Going on from a checkpoint: its own run's settings, with what the command line says on top."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

CONFIG = ".hydra/config.yaml"
OF_THE_COMMAND = {"ckpt_path", "stages"}  # what a command says of itself and not of the run


def run_of(ckpt_path: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None where it lies elsewhere.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if not ckpt_path.is_file():
        raise ValueError(
            f"ckpt_path={ckpt_path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and "
            "checkpoints/last.ckpt"
        )
    folder = ckpt_path.resolve().parent.parent
    return folder if (folder / CONFIG).is_file() else None


def saved_config(folder: Path) -> DictConfig:
    """The configuration that a run was started with."""
    return OmegaConf.load(folder / CONFIG)


def saved_choices(folder: Path) -> dict[str, str]:
    """The file that a run took of each group."""
    choices = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
    own = {group: name for group, name in choices.items() if group.isidentifier() and isinstance(name, str)}
    return {group: name for group, name in own.items() if group != "experiment"}


def take_up(config: DictConfig, overrides: list[str], folder: Path) -> DictConfig:
    """`config`, or with a checkpoint the configuration of its run with the command line's overrides on top.

    Raises:
        ValueError: an experiment on top, which would not say which of its settings win.
    """
    if config.ckpt_path is None:
        return config
    run = run_of(Path(config.ckpt_path))
    if run is None:
        log.warning(
            "ckpt_path=%s: no %s beside its folder, so the settings are those of this command, not of its run",
            config.ckpt_path,
            CONFIG,
        )
        return config
    merged = saved_config(run)
    changed, choices = [], saved_choices(run)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key == "experiment":
            raise ValueError(
                "experiment=... with ckpt_path: the run has its settings; change single ones on top of them"
            )
        if override.partition("=")[2] == str(choices.get(key)):
            continue  # what the run has chosen already
        name = key.replace("/", ".")
        value = OmegaConf.select(config, name)
        if name not in OF_THE_COMMAND and OmegaConf.select(merged, name) != value:
            changed.append(f"{name}={OmegaConf.select(HydraConfig.get().runtime.choices, name) or value}")
        OmegaConf.update(merged, name, value, merge=False, force_add=True)
    for key in OF_THE_COMMAND:
        merged[key] = config[key]
    log.info("settings of %s%s", run, f", changed: {', '.join(changed)}" if changed else "")
    if changed and folder == run:
        log.warning("going on with other settings than the run began with: %s", ", ".join(changed))
        OmegaConf.save(merged, run / CONFIG)
    return merged
