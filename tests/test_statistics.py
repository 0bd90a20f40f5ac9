from math import sqrt

import pytest
from scipy.stats import binomtest

from reports.statistics import accuracy_entry, accuracy_in_words, wilson


@pytest.mark.parametrize(("correct", "n"), [(101, 109), (0, 12), (12, 12), (1, 2), (50, 100), (979, 1000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(correct, n, confidence):
    theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand():
    z = 1.959963984540054
    p = 101 / 109
    centre = (p + z * z / 218) / (1 + z * z / 109)
    half = z / (1 + z * z / 109) * sqrt(p * (1 - p) / 109 + z * z / (4 * 109**2))
    assert wilson(101, 109) == pytest.approx((centre - half, centre + half), abs=1e-14)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(correct, n):
    with pytest.raises(ValueError, match="proportion"):
        wilson(correct, n)


def test_accuracy_in_words_is_the_study_s_line():
    assert accuracy_in_words(accuracy_entry(101, 109)) == "0.9266 (101 of 109, 95% interval 0.862 to 0.962)"
