"""The checks of settings, and their limits, that are shared."""

from common.errors import UserError
from common.text import quote_override

FEWEST_SEEDS = 3  # of a statement on a setting; with fewer it is on trained networks
LARGE = 1000  # above it an upper limit is stated as such: nobody means to reach it


def check_between(key: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside of `low` to `high`, and NaN.

    Raises:
        UserError: names key, value and range.
    """
    if not low <= value <= high:
        raise UserError(f"{key}={value}: use {low} " + (f"or more, up to {high:,}" if high > LARGE else f"to {high}"))


def check_target_accuracy(value: object) -> None:
    """Raise UserError unless it is None or an accuracy that can be reached and missed."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1):
        raise UserError(
            f"{quote_override('target_accuracy', value)}: use an accuracy above 0 and below 1, e.g. 0.95, or null"
        )


def check_good_enough(value: object, key: str = "good_enough") -> None:
    """Raise UserError unless it is an accuracy that a smaller network may lack and still be good enough."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UserError(f"{quote_override(key, value)}: use a difference in accuracy above 0 and below 1, e.g. 0.02")
