"""Checks of settings that several rooms share, and their limits."""

from common.errors import UserError
from common.text import quote_override

FEWEST_SEEDS = 3  # for a statement about settings; with fewer it is about the trained networks
LARGEST_NUMBER = 2**63  # larger whole numbers overflow floats and arrays
LARGE = 1000  # upper limits above this read "or more, up to", since nobody means to reach them


def check_between(key: str, value: float, low: float, high: float) -> None:
    """Raise UserError, with key, value and range, if a setting is outside `low` to `high`, or NaN."""
    if not low <= value <= high:
        raise UserError(f"{key}={value}: use {low} " + (f"or more, up to {high:,}" if high > LARGE else f"to {high}"))


def check_whole_numbers(values: object, key: str = "") -> None:
    """Raise UserError, with its key, if a configuration has a whole number of more than 64 bits; such a float is inf."""
    if isinstance(values, dict):
        for name, value in values.items():
            check_whole_numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for place, value in enumerate(values):
            check_whole_numbers(value, f"{key}[{place}]")
    elif isinstance(values, int) and abs(values) >= LARGEST_NUMBER:
        raise UserError(f"{key}: its whole number has more than 64 bits; use one below {LARGEST_NUMBER:,}")


def check_target_accuracy(value: object) -> None:
    """Raise UserError unless the value is None or an accuracy above 0 and below 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1):
        raise UserError(
            f"{quote_override('target_accuracy', value)}: use an accuracy above 0 and below 1, e.g. 0.95, or null"
        )


def check_good_enough(value: object, key: str = "good_enough") -> None:
    """Raise UserError unless the value can be the loss of accuracy with which a smaller network is still good enough."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UserError(f"{quote_override(key, value)}: use a difference in accuracy above 0 and below 1, e.g. 0.02")
