"""Settings of smallest.py that have no effect in any of its runs, whose own warnings only their records show."""

import lightning as L
from omegaconf import DictConfig

from common.text import plural
from engine.run.callback_list import configured_callbacks
from engine.run.idle_settings import idle_settings
from engine.smallest.screen import on_gpu
from engine.smallest.settings import SmallestSettings


def idle_in_runs(
    settings: SmallestSettings, config: DictConfig, data: L.LightningDataModule, folds: int | None
) -> dict[str, str]:
    """Return what `common.idle.warn_of_idle` needs.

    Args:
        config: of a run without folds, and `data` its images, after `setup`.
        folds: number of folds of train and val; None: one validation split.
    """
    idle = idle_settings(config, configured_callbacks(config), data, pretrained=False, on_gpu=on_gpu(config))
    if folds is not None:  # drawn by this seed
        idle.pop("datamodule.split_seed", None)
    elif (n_val := data.n_images("val")) >= settings.folds_below:
        idle["finals.folds"] = (
            f"with {plural(n_val, 'validation image')}, since finals.folds_below={settings.folds_below}"
        )
    return idle
