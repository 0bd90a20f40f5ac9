"""Configurations of train.py, composed in this process."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from engine.cli import CONF
from engine.config.instantiate import instantiate
from tests.support.helpers import SIMPLE_CNN

OF_OTHERS = {"format", "candidates"}  # groups of export.py and smallest.py
FILES = sorted(p for p in CONF.glob("*/*.yaml") if p.parent.name not in OF_OTHERS)
EXTRA = {
    "datamodule=image_folder": ["datamodule.root=/nowhere"],
    "datamodule=csv": ["datamodule.table=/nowhere.csv"],
    "datamodule=torchvision": ["datamodule.source.dataset=CIFAR10"],
    "datamodule=huggingface": ["datamodule.source.path=ORG/NAME"],
    "datamodule=webdataset": ["datamodule.source.train=/nowhere", "datamodule.source.val=/nowhere"],
    "datamodule=litdata": ["datamodule.source.train=/nowhere", "datamodule.source.val=/nowhere"],
    "model=timm": ["model.name=lcnet_050"],
}


def composed(*overrides: str) -> DictConfig:
    """Compose train.py's configuration."""
    return compose_verb("train", *overrides, with_hydra=False)


def compose_verb(verb: str, *overrides: str, with_hydra: bool = True) -> DictConfig:
    """Compose a verb's configuration, with Hydra's own part unless that is not wanted."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=list(overrides), return_hydra_config=with_hydra)


def data_module(root: object, cache: object, *overrides: str, **given):
    """Build the data module of class folders, in batches of 4 at 16 pixels unless settings change that; no image is read.

    Args:
        given: arguments of the data module, instead of those of the configuration.
    """
    places = (f"datamodule.root={root}", f"datamodule.cache={cache}")
    config = composed("datamodule=image_folder", *SIMPLE_CNN, "datamodule.batch_size=4", *places, *overrides)
    return instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"), **given)
