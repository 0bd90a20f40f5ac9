"""The check of a setting's range that constructors share."""

from common.errors import UserError

LARGE = 1000  # above it an upper limit is stated as such: nobody means to reach it


def check_between(key: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside of `low` to `high`, and NaN.

    Raises:
        UserError: names key, value and range.
    """
    if not low <= value <= high:
        raise UserError(f"{key}={value}: use {low} " + (f"or more, up to {high:,}" if high > LARGE else f"to {high}"))
