"""The settings of conf/smallest.yaml, checked before anything runs; all others go to each run of train.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from common.checks import check_target_accuracy, check_whole_numbers
from common.errors import UserError
from common.smallest_record import COSTS, Question
from common.text import did_you_mean, quote_override
from engine.run.deploy import check_deploy
from engine.search.settings import check_common
from engine.search.space import check_composed
from engine.smallest.candidates import CandidateSettings, check_candidates, check_limits
from engine.smallest.plan import RESERVE_S, Budget, Plan

OWN = {
    "name", "metric", "good_enough", "target_accuracy", "cost", "limits", "budget", "seeds", "race", "finals", "workers",
    "worker", "storage", "candidates", "deploy",
}  # fmt: skip
# Settings that smallest.py makes in each run -> what to type instead
RESERVED = {
    "model": "candidates.backbones=[NAME]",
    "model.name": "candidates.backbones=[NAME]",
    "model.backbone": "candidates.backbones=[{value}]",
    "model.keep": "'candidates.cuts={{BACKBONE: [BLOCK]}}'",
    "model.image_size": "candidates.image_sizes=[{value}]",
    "model.weights": "candidates.weights.BACKBONE={value}",
    "stages": None,
    "ckpt_path": None,
    "seed": "seeds=[1,2,3]",
    "datamodule.fold": "datamodule.folds=5, which trains every fold",
    "debug": None,
    "experiment": None,
}
# Groups of settings -> their keys
GROUPS = {
    "budget": ("minutes", "left_minutes"),
    "race": ("candidates", "min_epochs", "reduction_factor"),
    "finals": ("candidates", "folds", "folds_below"),
}
METRICS = ("accuracy", "balanced_accuracy")
# Whole numbers -> the smallest value
NUMBERS = {
    "race.candidates": 1, "race.min_epochs": 1, "race.reduction_factor": 2, "finals.candidates": 1, "finals.folds": 2,
    "finals.folds_below": 0, "workers": 1,
}  # fmt: skip
WEIGHTED = "loss=weighted_cross_entropy"
# Callbacks that every run turns off, since nobody looks at the figures of a race
QUIET = ("contact_sheet", "image_logger", "feature_maps")


@dataclass(frozen=True, kw_only=True)
class SmallestSettings:
    """The checked settings of the command."""

    name: str
    folder: Path
    question: Question
    candidates: CandidateSettings
    overrides: list[str]  # arguments of train.py that all runs share
    folds: int | None  # datamodule.folds as typed
    n_raced: int
    min_epochs: int
    reduction_factor: int
    n_finalists: int
    n_folds: int
    folds_below: int
    workers: int
    storage: str | None

    @property
    def monitor(self) -> str:
        """The metric, measured after each epoch, that the race compares."""
        return f"val/{self.question.metric}"


def read_settings(config: DictConfig, folder: Path, typed: Sequence[str]) -> SmallestSettings:
    """Check the command's own settings, and that train.py accepts the others.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    check_whole_numbers(OmegaConf.to_container(config))
    _check_groups(config)
    values = {key: config[key] for key in OWN - {"candidates"}}
    values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    check_common(config, values)
    for key, least in NUMBERS.items():
        value = OmegaConf.select(config, key)
        if type(value) is not int or value < least:
            raise UserError(f"{quote_override(key, value)}: use a whole number of {least} or more")
    check_deploy(values["deploy"])
    overrides, folds = _of_runs(list(typed), config, folder)
    return SmallestSettings(
        name=str(values["name"]),
        folder=folder,
        question=_question(values),
        candidates=check_candidates(config.candidates),
        overrides=overrides,
        folds=folds,
        n_raced=values["race"]["candidates"],
        min_epochs=values["race"]["min_epochs"],
        reduction_factor=values["race"]["reduction_factor"],
        n_finalists=values["finals"]["candidates"],
        n_folds=values["finals"]["folds"],
        folds_below=values["finals"]["folds_below"],
        workers=values["workers"],
        storage=values["storage"],
    )


def _check_groups(config: DictConfig) -> None:
    """Check that groups of settings have no unknown keys, such as `+budget.minute=3` adds."""
    for name, parts in GROUPS.items():
        group = config[name]
        if not isinstance(group, DictConfig):
            raise UserError(f"{quote_override(name, group)}: is a group of settings; use {name}.{parts[0]}=VALUE")
        if unknown := [key for key in group if key not in parts]:
            raise UserError(f"{name}.{unknown[0]}: no such setting; {did_you_mean(str(unknown[0]), parts)}")


def _question(values: dict) -> Question:
    metric, target = values["metric"], values["target_accuracy"]
    if metric not in METRICS:
        raise UserError(f"metric={metric}: no such metric; {did_you_mean(str(metric), METRICS)}")
    check_target_accuracy(target)
    costs = values["cost"] if isinstance(values["cost"], list) else [values["cost"]]
    for cost in costs:
        if not isinstance(cost, str) or cost not in COSTS:
            raise UserError(f"cost={'null' if cost is None else cost}: no such cost; {did_you_mean(str(cost), COSTS)}")
    if len(costs) not in (1, 2) or len(set(costs)) < len(costs):
        raise UserError(f"cost=[{','.join(map(str, costs))}]: give one, or two different ones")
    minutes = values["budget"].get("minutes")
    least = RESERVE_S / 60
    if minutes is not None and (type(minutes) not in (int, float) or not least < minutes < math.inf):
        raise UserError(
            f"budget.minutes={minutes}: use a number above {least:g} (reserved for test images, latencies and the page), or "
            "null for no limit"
        )
    return Question(
        cost=costs, metric=metric, good_enough=float(values["good_enough"]), target=target,
        limits=check_limits(values["limits"]),
        budget_minutes=minutes, seeds=values["seeds"], deploy=values["deploy"],
    )  # fmt: skip


def _of_runs(typed: list[str], config: DictConfig, folder: Path) -> tuple[list[str], int | None]:
    """Return the arguments that every run gets, typed ones and those of any search; and datamodule.folds."""
    parsed = OverridesParser.create().parse_overrides(typed)
    shared = [each for each in parsed if each.key_or_group.split(".")[0] not in OWN]
    keys = {each.key_or_group for each in shared}
    for each in shared:
        if each.key_or_group in RESERVED:
            instead = RESERVED[each.key_or_group]
            instead = f"use {instead.format(value=each.get_value_element_as_str())}" if instead else "remove it"
            raise UserError(f"{each.input_line}: is set by smallest.py in each run; {instead}")
    folds = config.datamodule.get("folds")
    if folds is not None and (type(folds) is not int or folds < 2):
        raise UserError(f"datamodule.folds={folds}: use a whole number of 2 or more, or null")
    texts = [each.input_line for each in shared if each.key_or_group != "datamodule.folds"]
    texts += [f"{group}={name}" for group, name in (("recipe", "fast"), ("logger", "none")) if group not in keys]
    texts += [f"~callbacks.{name}" for name in QUIET if name in config.callbacks]
    texts.append("trainer.enable_progress_bar=false")
    if config.metric == "balanced_accuracy" and "callbacks.best_checkpoint.monitor" not in keys:
        texts.append("callbacks.best_checkpoint.monitor=val/balanced_accuracy")
    if config.metric == "balanced_accuracy" and _has_usual_loss(config, keys):
        search = Plan(folder, Budget(None)).search
        if search is None or "loss" in search:  # a search of an earlier version keeps the plain loss that it began with
            texts.append(WEIGHTED)
    check_composed([*texts, "model=truncated"], "smallest.py")
    return texts, folds


def _has_usual_loss(config: DictConfig, typed: set[str]) -> bool:
    """Return whether the user has chosen neither a loss nor a sampler, which decide how much each class counts."""
    chosen = any(key.split(".")[0] == "loss" for key in typed) or config.datamodule.sampler == "balanced"
    return not chosen and config.loss == {"_target_": "lightning_modules.losses.CrossEntropy", "label_smoothing": 0}
