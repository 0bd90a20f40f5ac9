"""Configurations of train.py, composed in this process."""

import copy
import functools

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from engine.cli import CONF

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
    """Compose train.py's configuration; the same overrides only once a process."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compose_verb(verb: str, *overrides: str, base: tuple[str, ...] = ()) -> DictConfig:
    """Compose a verb's configuration with Hydra's own part, from `base` (composed once a process) and further overrides.

    Hydra takes a quarter of a second each time; here single settings are put on top of what it composed. What is more than
    KEY=VALUE of a key that is there is left to it.
    """
    config = copy.deepcopy(_compose(verb, base))
    OmegaConf.set_struct(config, True)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        known = override.is_add() is False and override.is_delete() is False and not override.is_sweep_override()
        if not known or not _is_setting(config, key):
            return _compose.__wrapped__(verb, (*base, *overrides))
        OmegaConf.update(config, key, override.value(), merge=True)
    return config


def _is_setting(config: DictConfig, key: str) -> bool:
    """Whether a key names a setting that is there, and no group of files."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    # `in node` would resolve it, and hydra.run.dir makes its folder then
    named = OmegaConf.is_dict(node) and last in list(node)
    return named and not (CONF / key).is_dir() and "@" not in key and "/" not in key


@functools.cache
def _compose(verb: str, overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=list(overrides), return_hydra_config=True)
