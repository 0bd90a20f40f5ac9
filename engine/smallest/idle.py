"""Warn once of settings of smallest.py that have no effect in any of its runs, whose own warnings only their records show."""

from collections.abc import Sequence

import lightning as L

from common.idle import warn_of_idle
from common.text import plural
from engine.config.validate import validate
from engine.run.callback_list import configured_callbacks
from engine.run.idle_settings import idle_settings
from engine.search.space import compose_run
from engine.smallest.screen import on_gpu
from engine.smallest.settings import SmallestSettings


def warn_of_idle_in_runs(
    settings: SmallestSettings, typed: Sequence[str], data: L.LightningDataModule, folds: int | None
) -> None:
    """Warn of what was typed without an effect.

    Args:
        data: of the runs, after `setup`, without folds.
        folds: number of folds of train and val; None: one validation split.
    """
    config = validate(
        compose_run([*settings.overrides, "model=truncated", "model.weights=null", "model.image_size=64"])
    )
    idle = idle_settings(config, configured_callbacks(config), data, pretrained=False, on_gpu=on_gpu(config))
    if folds is not None:  # drawn by this seed
        idle.pop("datamodule.split_seed", None)
    elif (n_val := data.n_images("val")) >= settings.folds_below:
        idle["finals.folds"] = (
            f"with {plural(n_val, 'validation image')}, since finals.folds_below={settings.folds_below}"
        )
    warn_of_idle(typed, idle)
