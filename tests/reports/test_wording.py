"""What would decide, in words: the numbers by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from evaluation.choice import Finalist, Rule, measure
from evaluation.paired_tests import PairedComparison, compare_pair
from evaluation.planning import Spread, seeds_needed
from reports import wording
from reports.wording import _rounded, as_pair, at_most, verdict, what_would_decide


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


def compared(difference=0.0, n_seeds=1, margin=0.02, spread=None, **given):
    spread = spread or Spread(seeds=0.0, units=0.1, residual=0.0, n_seeds=n_seeds, images_per_unit=1)
    values = {"low": -0.03, "high": 0.03, "p_value": 0.5, "at_least": -0.03, "margin_p_value": 0.2, "n": 400}
    return PairedComparison(difference=difference, n_seeds=n_seeds, margin=margin, spread=spread, **values | given)


def test_what_is_supposed_where_images_would_decide_and_where_nothing_would():
    assert what_would_decide(compared(), "test").startswith("if they are equally good, about ")
    assert what_would_decide(compared(0.01), "test") == what_would_decide(compared(), "test")
    assert what_would_decide(compared(-0.001), "test").startswith("if the difference stays, about ")
    for difference in (-0.02, -0.03):
        assert what_would_decide(compared(difference), "test").startswith("the difference is not within 0.02, so more")
    near = what_would_decide(compared(-0.02 + 1e-7), "test")
    assert near == "the difference is too close to the margin for any number of images"
    seeds = Spread(seeds=0.02**2, units=0.1, residual=0.1, n_seeds=3, images_per_unit=1)
    enough = seeds_needed(seeds, 0.02, 4000)
    assert enough > 3 and what_would_decide(compared(n_seeds=3, spread=seeds, n=4000), "test") == (
        "3 seeds do not show how much seeds differ, so more images may not decide it; "
        f"about {enough} seeds with these images would"
    )
    many = seeds._replace(seeds=0.3**2)
    assert what_would_decide(compared(n_seeds=3, spread=many), "test").endswith("; more seeds and images would")


@pytest.mark.parametrize(("p_value", "difference", "shown", "text"), [
    (0.049, 0.01, True, "better"), (0.049, 0.01, False, "better"), (0.049, -0.01, True, "worse but good enough"),
    (0.049, -0.01, False, "worse"), (0.05, -0.01, True, "good enough"), (0.05, 0.01, True, "good enough"),
    (0.05, 0.01, False, "not decided"), (0.05, -0.01, False, "not decided"),
])  # fmt: skip
def test_the_verdict_is_of_the_level_of_the_sign_and_of_the_seeds(p_value, difference, shown, text):
    assert verdict(compared(difference, n_seeds=3), p_value, shown) == text
    as_trained = text if text == "not decided" else f"{text} as trained"
    assert verdict(compared(difference, n_seeds=2), p_value, shown) == as_trained


def test_what_one_row_by_itself_would_show_is_not_enough_for_several():
    pair = compared(-0.002, at_least=-0.0181, margin_p_value=0.04)
    text = wording.evidence(pair, "test", shown=False, tests=2)
    assert text == (
        "0.002 below, by itself at most 0.019 below (95%) with 400 test images and 1 seed, which is not enough with 2 rows "
        f"tested; {what_would_decide(pair, 'test', 2)}"
    )
    assert what_would_decide(pair, "test", 2) != what_would_decide(pair, "test")  # the level is halved


@pytest.mark.parametrize(("at_least", "text"), [
    (-0.0301, "at most 0.031 below"), (-0.0001, "at most 0.001 below"), (0.0, "not below"), (0.01, "not below"),
])  # fmt: skip
def test_a_bound_that_is_not_below_is_not_called_so(at_least, text):
    assert at_most(compared(at_least=at_least)) == text


def test_a_number_of_images_has_two_digits_and_is_never_too_small():
    for number in (1, 7, 9, 10, 99, 100, 101, 999, 1001, 12_345, 99_001):
        text = _rounded(number)
        digits = text.replace(",", "").rstrip("0")
        assert len(digits) <= 2 and number <= int(text.replace(",", "")) < number * 1.1
