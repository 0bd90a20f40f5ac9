"""Configurations of train.py, composed in this process."""

import copy
import functools

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

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
    return _on_top(_compose, "train", overrides)


def data_module(root: object, cache: object, *overrides: str, **given):
    """Build the data module of class folders, in batches of 4 at 16 pixels unless settings change that; no image is read.

    Args:
        given: arguments of the data module, instead of those of the configuration.
    """
    places = (f"datamodule.root={root}", f"datamodule.cache={cache}")
    config = composed("datamodule=image_folder", *SIMPLE_CNN, "datamodule.batch_size=4", *places, *overrides)
    return instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"), **given)


def compose_verb(verb: str, *overrides: str, base: tuple[str, ...] = ()) -> DictConfig:
    """Compose a verb's configuration with Hydra's own part, from `base` and further overrides."""
    return _on_top(_compose_with_hydra, verb, overrides, base)


def _on_top(compose_once, verb: str, overrides: tuple[str, ...], base: tuple[str, ...] = ()) -> DictConfig:
    """Put settings on top of what Hydra composed of the choices of files, which it does once a process.

    Hydra takes an eighth of a second each time. What is neither a choice nor KEY=VALUE of a key that is there is left to it.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = tuple(o.input_line for o in parsed if o.is_sweep_override() or not _is_value(o))
    config = copy.deepcopy(compose_once(verb, (*base, *chosen)))
    OmegaConf.set_struct(config, True)
    for override in parsed:
        if override.input_line in chosen:
            continue
        if not _is_setting(config, override.key_or_group):
            return compose_once.__wrapped__(verb, (*base, *overrides))
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    return config


def _is_value(override: Override) -> bool:
    """Whether an override sets a value, and chooses no file of a group."""
    key = override.key_or_group
    changes = override.is_add() is False and override.is_delete() is False
    return changes and not (CONF / key).is_dir() and "@" not in key and "/" not in key


def _is_setting(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    # `in node` would resolve it, and hydra.run.dir makes its folder then
    return OmegaConf.is_dict(node) and last in list(node)


@functools.cache
def _compose(verb: str, overrides: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=list(overrides), return_hydra_config=with_hydra)


@functools.cache
def _compose_with_hydra(verb: str, overrides: tuple[str, ...]) -> DictConfig:
    return _compose.__wrapped__(verb, overrides, with_hydra=True)
