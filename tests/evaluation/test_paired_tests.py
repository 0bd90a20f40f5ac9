from fractions import Fraction
from math import ceil, comb, sqrt

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from evaluation.paired_tests import (
    bias_corrected_best,
    format_p,
    holm,
    mcnemar,
    paired_difference,
    sample_size_for,
    verdict,
)


def trinomial(n, share_a, share_b):
    """Counts (b, c) that n images can give, and their chances."""
    b, c = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    return b, c, multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [share_a, share_b, 1 - share_a - share_b])


@pytest.mark.parametrize(("only_a", "only_b"), [
    (1, 0), (0, 5), (3, 9), (7, 7), (28, 51), (10_000, 9_700), (20_000, 19_800), (20_000, 0), (19_999, 20_000),
])  # fmt: skip
def test_mcnemar_equals_scipy(only_a, only_b):
    theirs = binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(theirs, abs=1e-12)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_equals_exact_fractions():
    for n in range(1, 60):
        for fewer in range(n // 2 + 1):
            exact = min(Fraction(1), Fraction(2 * sum(comb(n, k) for k in range(fewer + 1)), 2**n))
            assert mcnemar(fewer, n - fewer) == pytest.approx(float(exact), rel=1e-12)


def test_nothing_disagrees():
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="-1 that only A"):
        mcnemar(-1, 3)


@pytest.mark.parametrize("disagreement", [0.05, 0.2, 0.5, 1.0])
def test_mcnemar_calls_equal_accuracies_different_in_at_most_one_of_twenty(disagreement):
    b, c, chances = trinomial(60, disagreement / 2, disagreement / 2)
    false = sum(chance for x, y, chance in zip(b, c, chances, strict=True) if mcnemar(x, y) < 0.05)
    assert sum(chances) == pytest.approx(1) and false <= 0.05
    assert false > (0.02 if disagreement >= 0.5 else 0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 3p, at least 2 x 0.03, 2p, 4p
    assert holm([0.5, 0.9, 0.6]) == [1, 1, 1]
    assert holm([]) == [] and holm([0.02]) == [0.02]
    with pytest.raises(ValueError, match=r"1\.5"):
        holm([0.1, 1.5])


def test_paired_difference_by_hand():
    a, b = 13 / 111, 4 / 111
    half = 1.959963984540054 * sqrt((a + b - (a - b) ** 2) / 111)
    assert paired_difference(12, 3, 109) == pytest.approx((9 / 109, a - b - half, a - b + half), abs=1e-14)
    with pytest.raises(ValueError, match="5 images cannot"):
        paired_difference(4, 3, 5)


@pytest.mark.parametrize(("share_a", "share_b"), [(0.05, 0.05), (0.1, 0.05), (0.3, 0.1)])
def test_paired_difference_covers_as_stated(share_a, share_b):
    b, c, chances = trinomial(50, share_a, share_b)
    covered = 0.0
    for x, y, chance in zip(b, c, chances, strict=True):
        _, low, high = paired_difference(int(x), int(y), 50)
        covered += chance * (low <= share_a - share_b <= high)
    assert 0.94 <= covered <= 0.99


def test_sample_size_by_hand():
    root = 1.959963984540054 * sqrt(0.1) + 0.8416212335729143 * sqrt(0.1 - 0.0025)
    assert sample_size_for(0.05, 0.1) == sample_size_for(-0.05, 0.1) == ceil(root**2 / 0.0025)
    assert sample_size_for(0.05, 0.0) == sample_size_for(0.05, 0.05) < sample_size_for(0.05, 0.06)


@pytest.mark.parametrize(("difference", "disagreement", "power"), [(0.05, 0.1, 0.8), (0.02, 0.08, 0.9)])
def test_the_sample_size_gives_the_power(difference, disagreement, power):
    n = sample_size_for(difference, disagreement, power)
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    b, c, _ = np.random.default_rng(0).multinomial(n, shares, 20_000).T
    seen = np.abs(b - c) > 1.959963984540054 * np.sqrt(b + c)  # McNemar's own test, of which the formula is
    assert seen.mean() == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, 0.1), "difference=0"), ((2, 0.1), "difference=2"), ((0.1, 1.5), r"disagreement=1\.5"), ((0.1, 0.2, 1.0), "power=1"),
])  # fmt: skip
def test_sample_size_refuses_what_has_no_answer(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_size_for(*arguments)


def test_a_verdict_as_it_is_shown():
    assert verdict(4, 2, 109) == (
        "cannot be distinguished with 109 images (difference 0.018, 95% interval -0.032 to 0.068, p = 0.69); "
        "1,078 would be needed to see a difference of 0.02"
    )
    assert verdict(12, 1, 109) == (
        "can be distinguished with 109 images (difference 0.101, 95% interval 0.033 to 0.165, p = 0.0034)"
    )
    assert "difference 0.000, 95% interval -0.000" not in verdict(100, 101, 20_000)
    assert verdict(100, 101, 20_000).endswith("; 391 are enough to see a difference of 0.02")


def test_a_p_value_never_reads_as_the_other_side_of_the_level():
    words = [format_p(p) for p in (1.0, 0.6875, 0.04996, 0.00213, 1e-9)]
    assert words == ["p = 1", "p = 0.69", "p = 0.04996", "p = 0.0021", "p < 0.0001"]


def test_the_best_of_equal_runs_is_corrected_to_what_they_are():
    generator = np.random.default_rng(0)
    found = [bias_corrected_best(generator.random((20, 100)) < 0.8, resamples=200, seed=i) for i in range(200)]
    naive, corrected = np.mean([f.value for f in found]), np.mean([f.corrected for f in found])
    assert naive > 0.86  # the largest of 20 accuracies with a standard deviation of 0.04
    assert corrected == pytest.approx(0.8, abs=0.01)
    assert all(f.selection_bias == pytest.approx(f.value - f.corrected) for f in found)


def test_the_corrected_best_equals_a_plain_loop():
    correct = np.random.default_rng(1).random((4, 30)) < np.array([[0.6], [0.7], [0.8], [0.75]])
    generator, values = np.random.default_rng(2), []
    for _ in range(4000):
        drawn = generator.integers(30, size=30)
        best = correct[:, drawn].mean(axis=1).argmax()
        values.append(correct[best][np.setdiff1d(np.arange(30), drawn)].mean())
    found = bias_corrected_best(correct, resamples=4000)
    assert found.corrected == pytest.approx(np.mean(values), abs=0.006)  # two standard errors of the difference: 0.004
    assert found.index == correct.mean(axis=1).argmax() and found.value == correct.mean(axis=1).max()
    assert bias_corrected_best(correct) == bias_corrected_best(correct) != bias_corrected_best(correct, seed=1)


def test_the_corrected_best_takes_the_first_of_equals_and_refuses_no_table():
    row = np.arange(40) % 5 > 0
    found = bias_corrected_best(np.stack([row[::-1] & False, row, row]))
    assert found.index == 1 and found.value == 0.8 and found.corrected == pytest.approx(0.8, abs=0.01)
    for shape in [(0, 5), (5,), (3, 1)]:
        with pytest.raises(ValueError, match="a row a run"):
            bias_corrected_best(np.ones(shape))
