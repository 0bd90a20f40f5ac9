"""Checks that several rooms share."""

import pytest

from common.checks import check_whole_numbers
from common.errors import UserError


@pytest.mark.parametrize(("values", "key"), [
    ({"seed": 10**400}, "seed"),
    ({"optimizer": {"lr": -(2**63)}}, r"optimizer\.lr"),
    ({"seeds": [1, 2**63]}, r"seeds\[1\]"),
    ({"space": {"optimizer.lr": {"low": 1, "high": 10**400}}}, r"space\.optimizer\.lr\.high"),
])  # fmt: skip
def test_a_whole_number_that_overflows_is_refused(values, key):
    with pytest.raises(
        UserError, match=rf"^{key}: its whole number has more than 64 bits; use one below 9,223,372,036,854"
    ):
        check_whole_numbers(values)


def test_others_pass():
    check_whole_numbers(
        {"seed": 2**63 - 1, "lr": 1e300, "on": True, "name": "9" * 400, "none": None, "of": {1: [[0.5]]}}
    )
