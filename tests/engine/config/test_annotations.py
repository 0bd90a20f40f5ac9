"""Types as messages name them."""

from typing import Literal

from engine.config.annotations import type_name


def test_a_choice_that_two_literals_allow_is_named_once():
    """Lightning writes Literal[16, 32] | Literal["16", "32", "bf16"] | None."""
    assert type_name(Literal[16, 32] | Literal["16", "32", "bf16"] | None) == "16 or 32 or bf16 or null"
    assert type_name(list[int | None] | list[float | None]) == "[int or null, ...] or [float or null, ...]"
