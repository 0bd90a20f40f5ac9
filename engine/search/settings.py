"""conf/search.yaml, checked before anything runs."""

import re
from typing import NamedTuple, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from common.text import did_you_mean
from engine.cli import safe_name
from engine.config.instantiate import matches_type
from engine.search.objectives import AFTER_EACH_EPOCH, Objective, parse_objectives
from engine.search.space import Space, check_space, read_base, read_space

PRUNING = {"startup_trials", "warmup_epochs"}


class Typed(NamedTuple):
    """The types of its keys."""

    name: str
    trials: int
    objectives: list[str]
    base: str | list[str]
    space: dict | None
    usual_space: dict
    seeds: list[int]
    retrain: int
    startup_trials: int
    seed: int
    pruning: dict | None
    storage: str | None
    take_over: list[int]


class SearchSettings(NamedTuple):
    """What a search is asked to do."""

    name: str
    trials: int
    objectives: list[Objective]
    base: list[str]  # train.py's arguments
    space: Space
    seeds: list[int]
    retrain: int
    startup_trials: int
    seed: int
    pruning: dict | None  # startup_trials and warmup_epochs; None with two objectives
    storage: str | None
    take_over: list[int]

    @property
    def monitor(self) -> str | None:
        """What a pruner looks at, after each epoch; None where it looks at nothing."""
        return AFTER_EACH_EPOCH.get(self.objectives[0].key) if self.pruning else None

    @property
    def asked(self) -> dict:
        """What stays the same as long as a study lasts."""
        return {"space": {key: str(dimension) for key, dimension in self.space.items()}, "base": self.base}


def read_settings(config: DictConfig) -> SearchSettings:
    """Composes what would run, too.

    Raises:
        ValueError: names the key, what was found and what to do.
    """
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key in values:
        if key not in Typed._fields:
            raise ValueError(f"{key}: no such key; {did_you_mean(key, Typed._fields)}")
    typed = Typed(**values)
    for key, annotation in get_type_hints(Typed).items():
        value = getattr(typed, key)
        if not matches_type(value, annotation):
            words = str(annotation) if get_args(annotation) else annotation.__name__
            raise ValueError(f"{key}={value!r}: expected {words}")
    _check_password(OmegaConf.to_container(config, resolve=False)["storage"])
    if safe_name(typed.name) != typed.name:
        raise ValueError(f"name={typed.name}: use letters, digits, dots, - and _; e.g. name={safe_name(typed.name)}")
    for key in ("trials", "retrain"):
        if getattr(typed, key) < 1:
            raise ValueError(f"{key}={getattr(typed, key)}: use 1 or more")
    for key in ("startup_trials", "seed"):
        if getattr(typed, key) < 0:
            raise ValueError(f"{key}={getattr(typed, key)}: use 0 or more")
    if not typed.seeds or len(set(typed.seeds)) < len(typed.seeds):
        raise ValueError(f"seeds={typed.seeds}: give at least one, and none twice")
    objectives = parse_objectives(typed.objectives)
    space = read_space(typed.usual_space if typed.space is None else typed.space)
    base = read_base(typed.base)
    check_space(space, base)
    given = typed._asdict()
    del given["usual_space"]
    given |= {"objectives": objectives, "base": base, "space": space, "pruning": _pruning(typed.pruning, objectives)}
    return SearchSettings(**given)


def _pruning(pruning: dict | None, objectives: list[Objective]) -> dict | None:
    if pruning is None:
        return None
    if set(pruning) != PRUNING or not all(type(each) is int and each >= 0 for each in pruning.values()):
        raise ValueError(
            f"pruning={pruning}: give {' and '.join(sorted(PRUNING))}, whole numbers of 0 or more, or null"
        )
    return pruning if len(objectives) == 1 and objectives[0].key in AFTER_EACH_EPOCH else None


def _check_password(storage: str | None) -> None:
    """As written, before it is resolved: `${oc.env:NAME}` shows none."""
    if re.match(r"[^/]+://[^/@]*:[^/@]+@", storage or "") and "${" not in storage:
        raise ValueError(
            "storage: its password would stand in every record and on every page; leave it out of the URL and give it by "
            "PGPASSWORD or ~/.pgpass, or write storage='${oc.env:NAME}'"
        )
