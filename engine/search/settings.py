"""The settings of conf/search.yaml, checked before anything runs."""

import re
from dataclasses import dataclass
from typing import get_type_hints

from omegaconf import DictConfig, OmegaConf

from common.checks import check_good_enough, check_whole_numbers
from common.errors import UserError
from common.flags import config_dir
from common.text import did_you_mean, quote_override
from engine.cli import safe_name
from engine.config.annotations import matches_type, type_name
from engine.config.data_overrides import complete_data
from engine.search.objectives import EPOCH_METRICS, Objective, parse_objectives
from engine.search.space import Space, check_space, read_base_overrides, read_space
from engine.state import STATE

SMALLEST = {"n_trials": 1, "n_retrain": 1, "n_startup_trials": 0, "seed": 0}
PRUNING = ("n_startup_trials", "n_warmup_epochs")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The checked settings of a search."""

    name: str
    n_trials: int
    objectives: list[Objective]
    base_overrides: list[str]  # arguments of train.py
    space: Space
    seeds: list[int]
    good_enough: float
    n_retrain: int
    n_startup_trials: int
    seed: int
    pruning: dict[str, int] | None  # for Optuna's MedianPruner; None: no objective is measured after each epoch
    storage: str | None

    @property
    def monitor(self) -> str | None:
        """The metric, measured after each epoch, that decides about pruning."""
        return EPOCH_METRICS[self.objectives[0].key] if self.pruning else None


# As typed, where most have the type that they keep
TYPES = get_type_hints(SearchSettings) | {
    "objectives": list[str], "base_overrides": str | list[str], "space": dict | None, "default_space": dict,
    "pruning": dict | None,
}  # fmt: skip


def read_settings(config: DictConfig) -> SearchSettings:
    """Check the settings, and compose the runs to check theirs.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check_whole_numbers(values)
    for key, value in values.items():
        if key not in TYPES:
            raise UserError(f"{key}: no such key; {did_you_mean(key, TYPES)}")
        if not matches_type(value, TYPES[key]):
            raise UserError(f"{quote_override(key, value)}: expected {type_name(TYPES[key])}")
        if value is not None and key in SMALLEST and value < SMALLEST[key]:
            raise UserError(f"{key}={value}: use {SMALLEST[key]} or more")
    check_common(config, values)
    default_space = values.pop("default_space")
    values["objectives"] = parse_objectives(values["objectives"])
    values["space"] = read_space(default_space if values["space"] is None else values["space"])
    values["base_overrides"] = read_base_overrides(values["base_overrides"])
    if "datamodule" not in values["space"]:
        base, own = values["base_overrides"], config_dir(STATE.command[2:])
        values["base_overrides"], STATE.data_source = complete_data(base, own)
    values["pruning"] = _pruning(values["pruning"], values["objectives"])
    check_space(values["space"], values["base_overrides"])
    return SearchSettings(**values)


def _pruning(pruning: dict | None, objectives: list[Objective]) -> dict | None:
    if pruning is None:
        return None
    if set(pruning) != set(PRUNING) or not all(type(each) is int and each >= 0 for each in pruning.values()):
        raise UserError(f"pruning={pruning}: give {' and '.join(PRUNING)}, whole numbers of 0 or more, or null")
    if len(objectives) > 1 or objectives[0].key not in EPOCH_METRICS:
        return None
    return {"n_startup_trials": pruning["n_startup_trials"], "n_warmup_steps": pruning["n_warmup_epochs"]}


def check_common(config: DictConfig, values: dict) -> None:
    """Check the name, seeds, margin and storage of search.py or smallest.py; `values` are those of `config`, resolved."""
    name, seeds = str(values["name"]), values["seeds"]
    if safe_name(name) != name:
        raise UserError(f"name={name}: use letters, digits, dots, - and _, e.g. name={safe_name(name)}")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s < 2**32 for s in seeds):
        raise UserError(f"seeds={seeds}: give a list of whole numbers from 0 to {2**32 - 1}, e.g. seeds=[1,2,3]")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={seeds}: list each seed once")
    check_good_enough(values["good_enough"])
    if values["storage"] is not None and not isinstance(values["storage"], str):
        raise UserError(f"storage={values['storage']}: use the URL of a database, or null")
    typed = OmegaConf.to_container(config, resolve=False)["storage"] or ""  # perhaps `${oc.env:NAME}`
    if re.match(r"[^/]+://[^/@]*:[^/@]+@", typed) and "${" not in typed:
        raise UserError(
            "storage: the password would be in every record and on every page; remove it from the URL and set "
            "PGPASSWORD or ~/.pgpass, or write storage='${oc.env:NAME}'"
        )
