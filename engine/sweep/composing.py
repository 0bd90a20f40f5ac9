"""Compose few configurations before a sweep: Hydra composes that of every job once more, two minutes for a thousand."""

import functools
from collections.abc import Sequence

from hydra.plugins.sweeper import Sweeper

_validate_all = Sweeper.validate_batch_is_legal


def validate_few() -> None:
    """Have Hydra's sweepers validate one job of each combination of files of groups; other values compose the same."""
    Sweeper.validate_batch_is_legal = functools.wraps(_validate_all)(_validate)


def _validate(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
    distinct = {tuple(each for each in overrides if not _is_setting(each)): overrides for overrides in reversed(batch)}
    _validate_all(sweeper, list(reversed(distinct.values())))


def _is_setting(override: str) -> bool:
    """Return whether an override gives a single value: a group's name has no dot."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "seed" or "." in key
