"""Hydra's composition of the files of conf, which takes an eighth of a second, done once for each choice of files."""

import dataclasses
import pickle
from pathlib import Path

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from engine.cli import CONF

PLACES = {f"file://{CONF}", "pkg://hydra.conf", "structured://"}  # whose files no test changes
READ, LIST = ConfigRepository.load_config, config_loader_impl.create_defaults_list
MERGE = ConfigLoaderImpl._compose_config_from_defaults_list
KEPT = {}  # what each of the three gave; configurations as pickles, which are read five times faster than they are copied


def remember_files() -> None:
    """Read, list and merge the files of a choice once a process. Settings on top of them Hydra parses and sets each time."""
    _use(_read, _list, _merge)


def forget_files() -> None:
    """Leave all of it to Hydra again."""
    _use(READ, LIST, MERGE)


def _use(read, list_files, merge) -> None:
    ConfigRepository.load_config, config_loader_impl.create_defaults_list = read, list_files
    ConfigLoaderImpl._compose_config_from_defaults_list = merge


def _places(repo: IConfigRepository) -> tuple:
    """Return where files come from, with the state of those of a user's own, which tests change."""
    own = [Path(source.path) for source in repo.get_sources() if source.full_path() not in PLACES]
    return tuple((str(file), file.stat().st_mtime_ns) for folder in own for file in sorted(folder.rglob("*.yaml")))


def _read(repo: ConfigRepository, config_path: str) -> ConfigResult | None:
    place = repo._find_object_source(config_path, ObjectType.CONFIG)
    if place is None or place.full_path() not in PLACES:
        return READ(repo, config_path)
    key = (place.full_path(), config_path)
    if key not in KEPT:
        KEPT[key] = pickle.dumps(READ(repo, config_path))
    return pickle.loads(KEPT[key])


def _list(repo: IConfigRepository, config_name: str, overrides_list: list[Override], **options: bool) -> DefaultsList:
    settings = Overrides(repo, overrides_list).config_overrides
    key = (config_name, *(each.input_line for each in overrides_list if each not in settings), _places(repo))
    if key not in KEPT:
        KEPT[key] = LIST(repo, config_name, overrides_list, **options)
    return dataclasses.replace(KEPT[key], config_overrides=settings)


def _merge(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    key = (repr(defaults), _places(repo))
    if key not in KEPT:
        KEPT[key] = pickle.dumps(MERGE(loader, defaults, repo))
    return pickle.loads(KEPT[key])
