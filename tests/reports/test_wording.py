"""What would decide, in words: the numbers by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from evaluation.choice import Finalist, Rule, measure
from evaluation.paired_tests import compare_pair
from reports.wording import as_pair, what_would_decide


def network(wrong, n=400, shift=0):
    right = np.ones((1, n), bool)
    right[0, (np.arange(wrong) + shift) % n] = False
    return right


def evidence(a, b, rule, level=0.05):
    seeds = list(range(len(a)))
    return measure(Finalist(1, a, seeds), Finalist(2, b, seeds), rule, level=level)


def test_images_that_would_decide_are_those_of_the_score_test():
    a, b = network(9), network(8, shift=200)
    found = as_pair(evidence(a, b, Rule(0.02)), "test")
    share, gap = 19 / 401, 0.02 - 1 / 400  # 17 disagreements and two pseudo-images
    number = int(found.would_decide.removeprefix("about ").removesuffix(" test images").replace(",", ""))
    one, other = (share - 1 / 400) / 2, (share + 1 / 400) / 2  # only a, only b
    likely = minimize_scalar(  # shares that are most likely where a is 0.02 below b
        lambda q: -one * np.log(q - 0.02) - other * np.log(q) - (1 - share) * np.log(1.02 - 2 * q),
        bounds=(0.0201, 0.5), method="bounded", options={"xatol": 1e-10},
    ).x  # fmt: skip
    at_margin = 2 * likely - 0.02 - 0.02**2
    assert number == pytest.approx((1.6449 * at_margin**0.5 + 0.8416 * share**0.5) ** 2 / gap**2, rel=0.1)
    assert found.would_decide in what_would_decide(compare_pair(a, b, 0.02), "test")
    assert (found.n, found.n_seeds, found.of_settings) == (400, 1, False)
    assert found.difference == pytest.approx(-1 / 400) and found.smallest_margin == -found.at_least > 0.02


@pytest.mark.parametrize(("wrong", "n", "rule"), [
    (9, 4000, Rule(0.02)),  # shown
    (40, 400, Rule(0.02)),  # not within
    (60, 400, Rule(0.02, 0.9)),  # not above
])  # fmt: skip
def test_nothing_would_decide_what_is_shown_or_what_is_not_within(wrong, n, rule):
    assert as_pair(evidence(network(wrong, n), network(8, n), rule), "val").would_decide is None


def test_images_decide_whether_a_value_lies_above_its_target():
    found = as_pair(evidence(network(30), network(8), Rule(0.02, 0.9)), "val")
    assert found.would_decide == "about 880 validation images"
    enough = binom.isf(0.05, 880, 0.9) + 1  # right images whose exact test shows more than 0.9
    assert binom.sf(enough - 1, 880, 0.9) < 0.05 and binom.sf(enough - 1, 880, 0.925) == pytest.approx(0.8, abs=0.04)
    assert found.difference == pytest.approx(-22 / 400) and 0.89 < found.at_least == found.smallest_margin < 0.9


def test_where_seeds_decide_more_of_them_are_named():
    """Seeds that are 10, 0 and 10 images of 400 apart from the reference: more images do not show a margin of 0.06."""
    a = np.vstack([network(40), network(30), network(20)])
    found = as_pair(evidence(a, np.repeat(network(30), 3, axis=0), Rule(0.06), 0.025), "test")
    assert found.would_decide.endswith("seeds with these images") and found.of_settings
