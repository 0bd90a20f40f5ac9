"""The space of a search: keys of train.py, each with choices or a range; checked before anything runs."""

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from common.errors import UserError
from common.text import did_you_mean, override_value, shell_split
from engine.cli import check_choice, job_dir_name
from engine.config.data_overrides import expand_home
from engine.config.trainer_flags import debug_reason
from engine.error_messages import user_message
from engine.run.deploy import check_deploy
from engine.sweep.composing import check_settings

Space = dict[str, BaseDistribution]  # by dotted key; choices are texts, as on a command line

REASONS = {"debug": "makes debug runs, which are never ranked", "deploy": "changes no training"}
RANGE = {"low", "high", "log", "step"}
# Keys that the search sets itself, or that do not change the training
RESERVED = {"stages", "ckpt_path", "seed", "seeds", "good_enough", "hydra", "debug", "deploy"}
IN_BASE = {"seed", "deploy"}  # those allowed in base_overrides
# Keys that decide which images are in val
OTHER_IMAGES = re.compile(
    r"datamodule(\.(root|table|splits|split_seed|folds?|source(\.(path|dataset|val|subset|revision|image|label|classes|"
    r"arguments(\..*)?|root|table|split_seed|_target_))?))?"
)
DIGITS = 4  # of a proposed number: more would not change results, and commands stay short
MAX_LISTED_POINTS = 10_000  # in a larger space, hardly any point is proposed twice
EXAMPLE = "e.g. 'space={optimizer.lr:{low:1e-4,high:1e-2,log:true},datamodule.batch_size:[8,16]}'"


def read_space(node: dict) -> Space:
    """Read choices and ranges by dotted keys; nested keys are joined, and null ones skipped.

    Raises:
        UserError: the space is empty, or an entry is neither choices nor a range.
    """
    space = {}
    for key, value in _flatten(node).items():
        shown = f"space: {key}={override_value(value)}"
        if isinstance(value, list) and value:
            texts = [override_value(each) for each in value]
            if len(set(texts)) < len(texts):
                raise UserError(f"{shown}: a choice is listed twice")
            space[key] = CategoricalDistribution(texts)
        elif isinstance(value, dict) and (unknown := sorted(set(value) - RANGE)):
            raise UserError(f"{shown}: {unknown[0]}: no such key of a range; {did_you_mean(unknown[0], RANGE)}")
        elif isinstance(value, dict) and {"low", "high"} <= set(value):
            space[key] = _range(shown, **value)
        else:
            raise UserError(f"{shown}: neither a list of choices nor a range with low and high, {EXAMPLE}")
    if not space:
        raise UserError(f"space: nothing to search; give keys of train.py, {EXAMPLE}")
    return space


def read_base_overrides(base_overrides: str | list[str]) -> list[str]:
    """Return the arguments of train.py as a list, split if they are one text.

    Raises:
        UserError: a quote is not closed, or an argument is a flag.
    """
    try:
        arguments = shell_split(base_overrides) if isinstance(base_overrides, str) else base_overrides
    except ValueError as error:
        message = f"base_overrides={base_overrides!r}: {error}; write them as the arguments of train.py are typed"
        raise UserError(message) from error
    if flag := next((argument for argument in arguments if argument.startswith("-")), None):
        raise UserError(f"base_overrides: {flag} is a flag; type it as an argument of search.py itself")
    return [expand_home(argument) for argument in arguments]


def suggest_point(space: Space, trial: Trial) -> dict:
    """Let Optuna propose a value for every key."""
    point = {}
    for key, dimension in space.items():
        if isinstance(dimension, CategoricalDistribution):
            point[key] = trial.suggest_categorical(key, dimension.choices)
        else:
            suggest = trial.suggest_int if isinstance(dimension, IntDistribution) else trial.suggest_float
            point[key] = suggest(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return point


def as_overrides(space: Space, point: dict) -> list[str]:
    """Return a point as arguments of train.py; numbers of a range without steps are rounded to DIGITS digits."""
    texts = {}
    for key, dimension in space.items():
        value = point[key]
        if isinstance(dimension, FloatDistribution):
            rounded = float(f"{value:.{12 if dimension.step else DIGITS}g}")
            value = repr(float(min(max(rounded, dimension.low), dimension.high)))
        texts[key] = value
    return [f"{key}={text}" for key, text in texts.items()]


def run_name(space: Space, point: dict) -> str:
    """Return the folder name of a point's run; points with the same name share a run."""
    return job_dir_name(as_overrides(space, point), [])


def list_points(space: Space) -> list[dict]:
    """List all points of a space with at most MAX_LISTED_POINTS; none of a larger space."""
    values = [_list_values(dimension) for dimension in space.values()]
    if math.prod(map(len, values)) > MAX_LISTED_POINTS:
        return []
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def compose_train_config(overrides: list[str]) -> DictConfig:
    """Compose the configuration of train.py, with the section hydra."""
    return hydra.compose("train", overrides=overrides, return_hydra_config=True)


def compose_run(overrides: list[str]) -> DictConfig:
    """Compose the configuration of a run of train.py, without the section hydra."""
    config = compose_train_config(overrides)
    return OmegaConf.masked_copy(config, [name for name in config if name != "hydra"])


def check_space(space: Space, base_overrides: list[str]) -> None:
    """Compose every choice of every key once, and check the settings.

    Raises:
        UserError: a key or choice that train.py does not have, a wrong value, or a key that a search cannot use.
    """
    base_keys = [override.lstrip("+~").partition("=")[0] for override in base_overrides]
    for key in (*base_keys, *space):
        name = key.lstrip("+~").partition("@")[0]
        where = "space" if key in space else "base_overrides"
        if name.split(".")[0] in RESERVED and (name not in IN_BASE or key in space):
            reason = REASONS.get(name, "is set by the search itself")
            raise UserError(f"{where}: {name} {reason}; remove it")
        if key in space and OTHER_IMAGES.fullmatch(name):
            raise UserError(
                f"space: {name} changes the validation images, so the trials could not be compared; remove it"
            )
        if key in space and name in base_keys:
            raise UserError(f"{name} is in base_overrides and in space; remove it from one of them")
    check_composed(base_overrides, "base_overrides")
    choices = {
        key: _list_values(d) if isinstance(d, CategoricalDistribution) else [d.low, d.high] for key, d in space.items()
    }
    first = {key: values[0] for key, values in choices.items()}
    points = [first, *(first | {key: value} for key, values in choices.items() for value in values[1:])]
    for point in points:
        check_settings(check_composed([*base_overrides, *as_overrides(space, point)], "space"))


def _flatten(node: dict, prefix: str = "") -> dict:
    lines = {}
    for key, value in node.items():
        if isinstance(value, dict) and not {"low", "high"} & set(value):
            lines |= _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            lines[f"{prefix}{key}"] = value
    return lines


def _range(shown: str, *, low: float, high: float, log: bool = False, step: float | None = None) -> BaseDistribution:
    """Return a distribution; of whole numbers if low, high and step are whole."""
    numbers = [each for each in (low, high, step) if each is not None]
    if not all(type(each) in (int, float) and math.isfinite(each) for each in numbers) or type(log) is not bool:
        raise UserError(f"{shown}: low, high and step are numbers, log is true or false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna lowers `high` to the last step
            if all(type(each) is int for each in numbers):
                return IntDistribution(low, high, log=log, step=1 if step is None else step)
            return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise UserError(f"{shown}: {error}") from error


def _list_values(dimension: BaseDistribution) -> Sequence:
    """Return the values, as a range if they are too many to list."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices
    if isinstance(dimension, IntDistribution):
        return range(dimension.low, dimension.high + 1, dimension.step)
    if dimension.single():
        return [dimension.low]
    too_long = range(MAX_LISTED_POINTS + 1)
    if dimension.step is None:
        return too_long
    low, high, step = (Decimal(str(each)) for each in (dimension.low, dimension.high, dimension.step))
    steps = range(int((high - low) // step) + 1)
    return too_long if len(steps) >= len(too_long) else [float(low + step * index) for index in steps]


def check_composed(overrides: list[str], where: str) -> DictConfig:
    """Compose and return the configuration shared by the runs of a search or of smallest.py.

    Args:
        where: the setting that the overrides come from, for messages.

    Raises:
        UserError: the overrides do not compose, or runs with them cannot be compared.
    """
    try:
        for override in OverridesParser.create().parse_overrides(overrides):
            check_choice(override.key_or_group, override)
        config = compose_train_config(overrides)
    except (HydraException, OmegaConfBaseException, UserError) as error:
        raise UserError(f"{where}: {user_message(error)}") from error
    if swept := OmegaConf.select(config, "hydra.sweeper.params") or (config.seeds is not None and ["seed"]):
        keys = ", ".join(swept)
        raise UserError(f"{where}: {' '.join(overrides)} sweeps {keys} itself; search those keys instead")
    check_deploy(config.deploy)
    if config.datamodule.get("select_on") == "test":
        raise UserError(f"{where}: datamodule.select_on=test would search on the test images; remove it")
    if reason := debug_reason(OmegaConf.to_container(config.trainer, resolve=True), None):
        raise UserError(f"{where}: {reason} makes debug runs, which are never ranked; remove it")
    if str(config.trainer.strategy).startswith("ddp"):
        raise UserError(f"{where}: trainer=ddp would start one search per process; start search.py several times")
    return config
