"""Configurations of train.py, composed in this process."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import engine.cli  # noqa: F401 registers the resolvers
from common.run_folder import PROJECT

CONF = PROJECT / "conf"
FILES = sorted(p for p in CONF.glob("*/*.yaml"))
EXTRA = {"datamodule=image_folder": ["datamodule.root=/nowhere"], "model=timm": ["model.name=lcnet_050"]}


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))
