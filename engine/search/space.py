"""What is searched: keys of train.py, each with choices or a range, checked before anything runs."""

import itertools
import math
import re
import shlex
from decimal import Decimal
from typing import NamedTuple

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from engine import error_messages

RANGE = {"low", "high", "log", "step"}
OF_THE_SEARCH = {"stages", "ckpt_path", "seed"}  # what it decides itself; a seed is allowed in base
DIGITS = 4  # of a number that is drawn; the fifth changes no result, and commands stay short
MOST_LISTED = 10_000  # points; in a larger space hardly one is proposed twice
EXAMPLE = "e.g. 'space={optimizer.lr:{low:1e-4,high:1e-2,log:true},datamodule.batch_size:[8,16]}'"


class Choices(NamedTuple):
    """Some values, as they stand on a command line."""

    texts: list[str]

    @property
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(self.texts)

    @property
    def size(self) -> int:
        return len(self.texts)

    @property
    def values(self) -> list[str]:
        return self.texts

    def text(self, value: str) -> str:
        return value

    def __str__(self) -> str:
        return f"[{','.join(self.texts)}]"


class Range(NamedTuple):
    """Numbers from low to high, both included; whole ones where both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @property
    def distribution(self) -> BaseDistribution:
        if self.whole:
            return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    @property
    def size(self) -> int | None:
        """How many values there are; None: more than can be tried."""
        if self.whole:
            return (self.high - self.low) // (self.step or 1) + 1
        if self.step:
            return int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(self.step))) + 1
        return None

    @property
    def values(self) -> list[float]:
        """All of them, where they can be counted."""
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        return [(int if self.whole else float)(low + step * index) for index in range(self.size)]

    def text(self, value: float) -> str:
        if self.whole:
            return str(value)
        digits = DIGITS if self.step is None else 12
        return override_text(float(min(max(float(f"{value:.{digits}g}"), self.low), self.high)))

    def __str__(self) -> str:
        more = [*(["log"] if self.log else []), *([f"step {self.step:g}"] if self.step else [])]
        return f"{self.low:g} to {self.high:g}{', '.join(['', *more])}"


Space = dict[str, Choices | Range]


def read_space(node: dict) -> Space:
    """Dotted keys; nested ones are joined, null ones left out.

    Raises:
        ValueError: empty, or a range that is none.
    """
    space = {}
    for key, value in _flat(node).items():
        if isinstance(value, dict):
            space[key] = _range(key, value)
        elif isinstance(value, list) and value:
            texts = [override_text(each) for each in value]
            if len(set(texts)) < len(texts):
                raise ValueError(f"space: {key}=[{','.join(texts)}]: a choice stands there twice")
            space[key] = Choices(texts)
        else:
            raise ValueError(f"space: {key}: {value!r} is neither a list of choices nor a range, {EXAMPLE}")
    if not space:
        raise ValueError(f"space: nothing to search; give keys of train.py, {EXAMPLE}")
    return space


def read_base(base: str | list) -> list[str]:
    """train.py's arguments, from one text as typed or from a list."""
    try:
        return shlex.split(base) if isinstance(base, str) else [str(each) for each in base]
    except ValueError as error:
        raise ValueError(f"base={base!r}: {error}; write it as train.py's arguments are typed") from error


def as_overrides(space: Space, params: dict) -> list[str]:
    """A point of the space as train.py's arguments; numbers have DIGITS digits."""
    return [f"{key}={dimension.text(params[key])}" for key, dimension in space.items()]


def size_of(space: Space) -> int | None:
    """How many points there are, or None."""
    sizes = [dimension.size for dimension in space.values()]
    return None if None in sizes else math.prod(sizes)


def points_of(space: Space) -> list[dict]:
    """Every point of a space of less than MOST_LISTED points; none of a larger one."""
    size = size_of(space)
    if size is None or size > MOST_LISTED:
        return []
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*(d.values for d in space.values()))]


def compose_train_config(overrides: list[str]) -> DictConfig:
    """The configuration of train.py, with Hydra's own part."""
    return hydra.compose("train", overrides=overrides, return_hydra_config=True)


def check_space(space: Space, base: list[str]) -> None:
    """Composes every choice of every key once.

    Raises:
        ValueError: a key or a choice that train.py does not have, or one that a search cannot take.
    """
    keys = [override.lstrip("+~").partition("=")[0] for override in base]
    for key in (*keys, *space):
        name = key.lstrip("+~").partition("@")[0]
        if (name in OF_THE_SEARCH and (name != "seed" or key in space)) or name.split(".")[0] == "hydra":
            raise ValueError(
                f"{'space' if key in space else 'base'}: {name} is for the search itself to set; leave it out"
            )
        if key in space and name in keys:
            raise ValueError(f"{name} stands in base and in space; leave it out of one of them")
    first = {key: _some(dimension)[0] for key, dimension in space.items()}
    _check_composed(base, "base")
    points = [first | {key: text} for key, dimension in space.items() for text in _some(dimension)]
    for point in {tuple(point.items()): point for point in points}.values():
        _check_composed([*base, *(f"{key}={text}" for key, text in point.items())], "space")


def override_text(value) -> str:
    """A plain value as Hydra's command line reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(override_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{override_text(each)}' for key, each in value.items())}}}"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and text.lower() not in {
        "null",
        "true",
        "false",
        "nan",
        "inf",
    }
    if isinstance(value, int) or plain:
        return text
    return QuotedString(text, Quote.double).with_quotes()


def _flat(node: dict, prefix: str = "") -> dict:
    lines = {}
    for key, value in node.items():
        if isinstance(value, dict) and not (value and set(value) <= RANGE):
            lines |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            lines[f"{prefix}{key}"] = value
    return lines


def _range(key: str, value: dict) -> Range:
    """Raises ValueError: what Optuna would not take, and what says nothing."""
    shown = f"space: {key}={override_text(value)}"
    if not {"low", "high"} <= set(value):
        raise ValueError(f"{shown}: a range needs low and high, {EXAMPLE}")
    made = Range(**value)
    numbers = [made.low, made.high, *([] if made.step is None else [made.step])]
    if not all(type(each) in (int, float) and math.isfinite(each) for each in numbers) or type(made.log) is not bool:
        raise ValueError(f"{shown}: low, high and step are numbers, log is true or false")
    if made.low > made.high:
        raise ValueError(f"{shown}: low is above high; exchange them")
    if made.log and made.low <= 0:
        raise ValueError(f"{shown}: with log, low has to be above 0")
    if made.log and made.step is not None:
        raise ValueError(f"{shown}: log and step cannot go together; leave one out")
    if made.step is not None and made.step <= 0:
        raise ValueError(f"{shown}: step has to be above 0")
    if made.step is None:
        return made
    last = Decimal(str(made.low)) + Decimal(str(made.step)) * (made.size - 1)
    return made._replace(high=int(last) if made.whole else float(last))


def _some(dimension: Choices | Range) -> list[str]:
    """Every choice, or the lower end of a range."""
    return dimension.texts if isinstance(dimension, Choices) else [dimension.text(dimension.low)]


def _check_composed(overrides: list[str], where: str) -> None:
    try:
        config = compose_train_config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{where}: {error_messages.user_message(error)}") from error
    swept = OmegaConf.select(config, "hydra.sweeper.params")
    if swept:
        raise ValueError(
            f"{where}: {' '.join(overrides)} sweeps {', '.join(swept)} itself; search those keys in its place"
        )
    if config.datamodule.get("select_on") == "test":
        raise ValueError(f"{where}: datamodule.select_on=test would search on the test images; leave it out")
    if str(config.trainer.strategy).startswith("ddp"):
        raise ValueError(
            f"{where}: trainer=ddp would start the search once a process; start search.py several times instead"
        )
