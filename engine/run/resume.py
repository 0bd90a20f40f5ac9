"""Going on from a checkpoint: its own run's settings, with what the command line says on top."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.untrusted.saved_config import CONFIG, read_saved_choices, read_saved_config

log = logging.getLogger(__name__)

# What a command says of itself and not of the run; the cache too, whose old stores are removed
COMMAND_KEYS = ("ckpt_path", "stages", "datamodule.cache", "datamodule.cache_max_gib", "datamodule.gpu_cache_gib")


def run_of_checkpoint(ckpt_path: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None where it lies elsewhere.

    Raises:
        ValueError: there is no such checkpoint, or there are links in the folder.
    """
    if not ckpt_path.is_file():
        raise ValueError(
            f"ckpt_path={ckpt_path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and "
            "checkpoints/last.ckpt"
        )
    folder = ckpt_path.resolve().parent.parent
    if not (folder / CONFIG).is_file():
        return None
    _check_links(folder)
    return folder


def _check_links(folder: Path) -> None:
    """A link in a stranger's folder would have us write where it leads: the log, the settings, checkpoints."""
    for path in (*folder.iterdir(), *folder.glob(".hydra/*"), *folder.glob("checkpoints/*")):
        if path.is_symlink():
            raise ValueError(
                f"{path}: is a link, and a run is gone on with in its own folder alone; put what it leads to in its place"
            )


@contextlib.contextmanager
def resume_errors(ckpt_path: str | None) -> Iterator[None]:
    """Around a training: names the checkpoint where it is the state in it that cannot be taken up."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if ckpt_path is None or not any(frame.filename.endswith("checkpoint_connector.py") for frame in frames):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"ckpt_path={ckpt_path}: the state of its training cannot be taken up ({reason}); take another checkpoint, or "
            "start anew from its weights: model.weights=FILE"
        ) from error


def resume_config(config: DictConfig, overrides: list[str], folder: Path) -> DictConfig:
    """`config`, or with a checkpoint the configuration of its run with the command line's overrides on top.

    Raises:
        ValueError: an experiment on top, which would not say which of its settings win.
    """
    if config.ckpt_path is None:
        return config
    if not isinstance(config.ckpt_path, str):
        raise ValueError(f"ckpt_path={config.ckpt_path}: use the path of a checkpoint, in quotes where it is a number")
    run = run_of_checkpoint(Path(config.ckpt_path))
    if run is None:
        log.warning(
            "ckpt_path=%s: no %s beside its folder, so the settings are those of this command, not of its run",
            config.ckpt_path,
            CONFIG,
        )
        return config
    choices = read_saved_choices(run)
    keys = {override: override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides}
    if "experiment" in keys.values():
        raise ValueError("experiment=... with ckpt_path: the run has its settings; change single ones on top of them")
    # what the run has chosen already is no change
    given = [k.replace("/", ".") for o, k in keys.items() if o.partition("=")[2] != str(choices.get(k))]
    merged, changed = read_saved_config(run, given), []
    for name in given:
        value = OmegaConf.select(config, name)
        if name not in COMMAND_KEYS and OmegaConf.select(merged, name) != value:
            changed.append(f"{name}={OmegaConf.select(HydraConfig.get().runtime.choices, name) or value}")
        OmegaConf.update(merged, name, value, merge=False, force_add=True)
    for key in COMMAND_KEYS:
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    log.info("settings of %s%s", run, f", changed: {', '.join(changed)}" if changed else "")
    if changed and folder == run:
        log.warning("going on with other settings than the run began with: %s", ", ".join(changed))
        OmegaConf.save(merged, run / CONFIG)
    return merged
