"""Configurations of train.py, composed in this process."""

import copy
import functools

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from engine.cli import CONF

FILES = sorted(p for p in CONF.glob("*/*.yaml"))
EXTRA = {"datamodule=image_folder": ["datamodule.root=/nowhere"], "model=timm": ["model.name=lcnet_050"]}


def composed(*overrides: str) -> DictConfig:
    """Compose train.py's configuration; the same overrides only once a process."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))
