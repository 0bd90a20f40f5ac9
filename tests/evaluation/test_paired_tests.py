from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, multinomial, t

from benchmarks.worlds import draw_groups, draw_rows, seed_world
from evaluation.intervals import design_effect, intraclass_correlation, over_images, over_seeds_and_images
from evaluation.paired_tests import (
    balance,
    bias_corrected_best,
    compare_pair,
    effective_counts,
    format_p,
    holm,
    holm_against_best,
    lower_bound,
    mcnemar,
    paired_difference,
    tango_score,
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
    with pytest.raises(ValueError, match="-2 that only B"):
        mcnemar(5, -2)
    assert tango_score(0, 0, 40, 0.0) == 0 and tango_score(0, 0, 40, 0.0, 0.5) == -np.inf


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


def test_against_the_best_of_equal_rows_an_error_has_its_level():
    """Twelve networks of accuracy 0.85 on 445 images, of which the best is taken: 0.05, and 0.11 by only Holm (n = 600)."""
    assert holm_against_best([0.02]) == [0.02]  # the only pair
    assert holm_against_best([0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.12, 0.12])  # 4 rows: Holm's times 2
    generator, errors = np.random.default_rng(0), []
    for _ in range(600):
        correct = generator.random((12, 445)) < np.where(generator.random(445) < 0.3, 0.5, 1.0)
        best = correct[correct.sum(axis=1).argmax()]
        p_values = [mcnemar(int((row & ~best).sum()), int((best & ~row).sum())) for row in correct if row is not best]
        errors.append([min(adjust(p_values)) < 0.05 for adjust in (holm_against_best, holm)])
    mended, by_holm = np.mean(errors, axis=0)
    assert mended <= 0.05 < 0.08 < by_holm, (mended, by_holm)


def test_the_score_interval_is_the_published_one():
    # Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33:2850-2875: airway hyper-responsiveness, Tango's interval
    assert paired_difference(1, 7, 21) == pytest.approx((-6 / 21, -0.517, -0.026), abs=5e-4)
    z2 = 1.959963984540054**2
    assert paired_difference(0, 0, 40) == pytest.approx((0, -z2 / (40 + z2), z2 / (40 + z2)), abs=1e-9)  # by hand
    with pytest.raises(ValueError, match="5 images cannot"):
        paired_difference(4, 3, 5)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(12, 3, 109), (0, 5, 50), (3, 3, 40), (30, 10, 60), (0, 1, 400)])
def test_the_score_interval_is_that_of_the_restricted_likelihood(only_a, only_b, n):
    """The nuisance share by numerical maximization of the likelihood, in place of the closed form."""

    def score(difference):
        def loss(q):  # q: share of only_b, q + difference that of only_a
            shares = np.array([q + difference, q, 1 - 2 * q - difference])
            counts = np.array([only_a, only_b, n - only_a - only_b])
            return -float(np.sum(counts * np.log(np.maximum(shares, 1e-300))))

        low, high = max(0.0, -difference), (1 - difference) / 2
        q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return (only_a - only_b - n * difference) / sqrt(n * (2 * q + difference - difference**2))

    z, value = 1.959963984540054, (only_a - only_b) / n
    low = brentq(lambda d: score(d) - z, -0.999, value - 1e-9)
    high = brentq(lambda d: score(d) + z, value + 1e-9, 0.999)
    assert paired_difference(only_a, only_b, n) == pytest.approx((value, low, high), abs=1e-4)


@pytest.mark.parametrize(("share_a", "share_b"), [(0.05, 0.05), (0.1, 0.05), (0.3, 0.1)])
def test_paired_difference_covers_as_stated(share_a, share_b):
    b, c, chances = trinomial(50, share_a, share_b)
    covered = 0.0
    for x, y, chance in zip(b, c, chances, strict=True):
        _, low, high = paired_difference(int(x), int(y), 50)
        covered += chance * (low <= share_a - share_b <= high)
    assert 0.93 <= covered <= 0.99


def right(only_a, only_b, n):
    """Return two networks of one seed, (1, n) each."""
    a, b = np.ones((1, n), bool), np.ones((1, n), bool)
    b[0, :only_a], a[0, only_a : only_a + only_b] = False, False
    return a, b


def test_p_value_and_interval_of_a_pair_never_disagree():
    for n in (40, 109):
        for only_a in range(0, 26):
            for only_b in range(0, 12):
                found = compare_pair(*right(only_a, only_b, n), 0.02)
                assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high), (only_a, only_b, n)
                assert found.p_value == mcnemar(only_a, only_b) and found.low <= found.difference <= found.high
                assert found.low - 1e-12 <= found.at_least <= found.difference
                assert (found.at_least > -0.02) == (found.margin_p_value < 0.05)


def below_classes(a, b, classes):
    """Return how far below the difference of two accuracies, balanced over classes, their joined bound is, by its level."""
    counts = []
    for each in classes:
        only_a, only_b = (np.flatnonzero((x & ~y)[:, each].ravel()) % each.sum() for x, y in ((a, b), (b, a)))
        net = (np.bincount(only_a, minlength=each.sum()) - np.bincount(only_b, minlength=each.sum())) / len(a)
        mean, disagree = net.mean(), (len(only_a) + len(only_b)) / len(a)
        times = (disagree - each.sum() * mean**2 + 0.5) / (((net - mean) ** 2).sum() + 0.5)  # as many images
        counts.append([times * count for count in (len(only_a) / len(a), len(only_b) / len(a), each.sum())])
    return lambda level, less=0.5: (
        sqrt(sum(((x - y) / n - lower_bound(x, y, n, level, less)) ** 2 for x, y, n in counts)) / len(counts)
    )


def level_of(below, above):
    if below(1e-9) <= above:
        return 1e-9
    return brentq(lambda level: below(level) - above, 1e-9, 0.5) if above > below(0.5) else 0.5


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("n_seeds", [1, 2, 4])
def test_a_pair_by_t_tests_is_decided_by_the_strictest(n_seeds, balanced, grouped):
    """By scipy's t, from the errors and degrees of freedom that tests of evaluation/intervals.py have by hand."""
    if n_seeds == 1 and not (balanced or grouped):
        return  # exact tests
    generator, groups = np.random.default_rng(n_seeds), np.repeat(np.arange(24), [1, 2, 9] * 8)
    labels, images = (groups % 3 == 0).astype(int), np.arange(96)
    for chances in ((0.9, 0.7), (0.7, 0.9), (0.8, 0.8)):
        hard = generator.random(24)[groups] < 0.3
        a, b = (generator.random((n_seeds, 96)) < np.where(hard, chance / 2, chance) for chance in chances)
        found = compare_pair(a, b, 0.05, groups if grouped else None, labels if balanced else None, level=0.02)
        differences, pseudo, less = a.astype(int) - b, [(1.0, 1.0), (-1.0, 1.0)], 0.5 / 96
        if balanced:
            differences, pseudo = balance(differences, labels, pseudo)
            less = sqrt(sum((0.5 / (labels == each).sum()) ** 2 for each in (0, 1))) / 2  # half an image of each class
        alike = max(intraclass_correlation(each, groups) for each in (a, b)) if grouped else 0.0
        if n_seeds == 1:
            tests = [over_images(differences[0], pseudo, groups if grouped else images, alike)]
        else:
            tests = over_seeds_and_images(differences, pseudo, groups if grouped else None, alike)
            of_mean, of_one = (96 * each.var() + 0.5 for each in (differences.mean(axis=0), differences))
            less *= of_mean / of_one if grouped else 0.0
        tests = [(each.mean, each.error, each.degrees_of_freedom) for each in tests]
        value = differences.mean()
        p_value = max(2 * t.sf(abs(mean) / error, freedom) for mean, error, freedom in tests)
        ends = [mean + sign * t.ppf(0.975, freedom) * error for mean, error, freedom in tests for sign in (-1, 1)]
        at_least = min(mean - t.ppf(0.98, freedom) * error for mean, error, freedom in tests) - less
        margin_p = max(t.sf((mean + 0.05 - less) / error, freedom) for mean, error, freedom in tests)
        if not grouped:
            classes = [labels == 0, labels == 1] if balanced else [labels >= 0]
            sides = [(below_classes(*pair, classes), value * sign) for pair, sign in (((a, b), 1), ((b, a), -1))]
            of_end = 0.5 if balanced else 0.0
            ends += [value - sides[0][0](0.025, of_end), value + sides[1][0](0.025, of_end)]
            p_value = max(p_value, *(2 * level_of(below, above) for below, above in sides if above > 0))
            at_least = min(at_least, value - sides[0][0](0.02))
            margin_p = max(margin_p, level_of(sides[0][0], value + 0.05))
        ends += [value] if p_value < 0.05 else [value, 0.0]
        ours = (found.difference, found.p_value, found.low, found.high, found.at_least, found.margin_p_value)
        theirs = (value, p_value, max(-1, min(ends)), min(1, max(ends)), max(-1, at_least), margin_p)
        assert ours == pytest.approx(theirs, abs=1e-9)
        assert (found.margin_p_value < 0.02) == (found.at_least > -0.05) and found.spread.less == pytest.approx(
            96 * less
        )


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("size", [4, 5])
def test_seeds_that_are_the_same_network_show_no_more_on_groups_than_one_does(balanced, size):
    """As frozen networks: three copies were half an image nearer to the best than a single one."""
    generator, labels, groups = np.random.default_rng(0), np.repeat([0, 1, 2], [40, 200, 200]), np.arange(440) // size
    b = generator.random(440) < 0.95
    for lost in (0.1, 0.15, 0.2):
        a = b & ~((generator.random(440) < lost) & (labels == 0))
        one, three = (
            compare_pair(np.tile(a, (seeds, 1)), np.tile(b, (seeds, 1)), 0.15, groups, labels if balanced else None)
            for seeds in (1, 3)
        )
        assert three.at_least == pytest.approx(one.at_least, abs=2e-4)
        assert three.margin_p_value == pytest.approx(one.margin_p_value, abs=2e-4)


def test_no_end_of_a_difference_lies_beyond_what_accuracies_can_differ_by():
    """Two groups, of which one network has one right and the other the other: a t test of one degree of freedom."""
    a, groups = np.arange(20)[None] < 10, np.arange(20) // 10
    found = compare_pair(a, ~a, 0.02, groups)
    assert (found.low, found.high, found.at_least) == (-1, 1, -1)


def test_networks_that_agree_everywhere_still_have_an_interval():
    same = np.ones((3, 100), bool)
    found = compare_pair(same, same, 0.02)
    assert found.difference == 0 and found.p_value == 1 and found.low < -0.01 < 0.01 < found.high
    assert found.margin_p_value > 0.05  # 100 images cannot show 0.02
    assert compare_pair(np.ones((3, 2000), bool), np.ones((3, 2000), bool), 0.02).margin_p_value < 0.05


def share(runs, of):
    return sum(of(run) for run in range(runs)) / runs


@pytest.mark.parametrize(("n_seeds", "n", "sd"), [(2, 445, 0.03), (3, 445, 0.01), (3, 109, 0.08), (5, 445, 0.03)])
def test_equal_settings_are_rarely_called_different(n_seeds, n, sd):
    world, generator = seed_world(0.8, sd), np.random.default_rng(n_seeds)
    false = share(400, lambda _: compare_pair(*draw_rows(generator, [world] * 2, n_seeds, n), 0.02).p_value < 0.05)
    assert false <= 0.05 + 3 * sqrt(0.05 * 0.95 / 400)  # one trained network each: 0.24 to 0.54, by the same count


@pytest.mark.parametrize(("n_seeds", "n"), [(1, 1000), (3, 445), (5, 1000)])
def test_a_network_at_the_margin_passes_in_at_most_one_of_twenty(n_seeds, n):
    sd = 0.01 if n_seeds > 1 else 0.0
    worlds, generator = [seed_world(0.88, sd), seed_world(0.9, sd)], np.random.default_rng(7)
    passed = share(400, lambda _: compare_pair(*draw_rows(generator, worlds, n_seeds, n), 0.02).margin_p_value < 0.05)
    assert passed <= 0.05 + 3 * sqrt(0.05 * 0.95 / 400)


def test_pairs_on_images_in_groups_are_rarely_called_different():
    """As two networks whose errors come in groups: without groups it is called different in a third of the cases."""
    generator, false, naive = np.random.default_rng(3), 0, 0
    for _ in range(400):
        a, groups = draw_groups(generator, 0.8, [10] * 20, 1.5)
        b, _ = draw_groups(generator, 0.8, [10] * 20, 1.5)
        false += compare_pair(a, b, 0.02, groups).p_value < 0.05
        naive += compare_pair(a, b, 0.02).p_value < 0.05
        assert design_effect(a, groups) > 1
    assert naive > 100 and false <= 20 + 3 * sqrt(400 * 0.05 * 0.95)


def test_the_bias_of_equal_runs_does_not_depend_on_their_order():
    """Runs in order of their accuracy on all images, as reports give them."""
    generator, bias = np.random.default_rng(0), []
    for seed in range(300):
        rows = generator.random((20, 50)) < 0.8
        rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
        bias.append(bias_corrected_best(rows, resamples=200, seed=seed).corrected - 0.8)
    assert abs(np.mean(bias)) < 3 * np.std(bias) / sqrt(300) + 0.002  # taking the first of equals: +0.015


def test_a_p_value_never_reads_as_the_other_side_of_the_level():
    words = [format_p(p) for p in (1.0, 0.6875, 0.04996, 0.00213, 0.00013, 1e-9)]
    assert words == ["p = 1", "p = 0.69", "p = 0.04996", "p = 0.0021", "p = 0.00013", "p < 0.0001"]


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
        hits = correct[:, drawn].sum(axis=1)
        best = generator.choice(np.flatnonzero(hits == hits.max()))  # one of equals at random
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
        with pytest.raises(ValueError, match="one row per run"):
            bias_corrected_best(np.ones(shape))
    with pytest.raises(ValueError, match=r"a resample, not \(1, 40\), 0"):
        bias_corrected_best(row[None], resamples=0)
    assert bias_corrected_best(row[None]).index == 0  # of a single run


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_equal_runs_is_not_corrected_upwards(seed):
    """Their choice flatters nothing; noise of the draws would say that it does so by less than nothing."""
    found = bias_corrected_best(np.tile(np.arange(60) >= 5, (3, 1)), seed=seed)
    assert found.value == pytest.approx(55 / 60) and 0 <= found.selection_bias < 0.01 and found.corrected <= found.value


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("sizes", [[30] * 5 + [1] * 50, [40] * 3 + [1] * 80])
def test_a_network_at_the_margin_rarely_passes_where_a_few_groups_decide(n_seeds, sizes):
    """Each group is right or wrong as a whole: mostly no large one shows that the second network is 0.1 better.

    With pseudo-images of mean size, the first one passed in 0.24 to 0.36 of the cases.
    """
    generator, of = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    passed = 0
    for _ in range(300):
        first = generator.random(len(sizes))
        later = [
            np.where(generator.random(len(sizes)) < 0.3, generator.random(len(sizes)), first) for _ in range(n_seeds)
        ]
        chance = np.stack(later)[:, of]
        only_a, only_b, both = chance < 0.02, (chance >= 0.02) & (chance < 0.14), (chance >= 0.14) & (chance < 0.92)
        passed += compare_pair(only_a | both, only_b | both, 0.1, of).margin_p_value < 0.05
    assert passed / 300 <= 0.05 + 2 * sqrt(0.05 * 0.95 / 300)


def test_the_best_of_equal_runs_is_corrected_by_groups_that_chose_nothing():
    """Each run is good at groups of its own; images of the same groups, left out by themselves, are as lucky."""
    generator, single, grouped = np.random.default_rng(0), [], []
    for seed in range(150):
        runs, groups = zip(*(draw_groups(generator, 0.8, [10] * 20, 3.0) for _ in range(20)), strict=True)
        rows = np.concatenate(runs)
        single.append(bias_corrected_best(rows, 200, seed).corrected - 0.8)
        grouped.append(bias_corrected_best(rows, 200, seed, groups[0]).corrected - 0.8)
    assert np.mean(single) > 0.05
    assert abs(np.mean(grouped)) < 3 * np.std(grouped) / sqrt(150) + 0.005


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(("classes", "rare", "margin"), [(2, 40, 0.05), (2, 20, 0.1), (3, 40, 0.02), (5, 20, 0.02)])
def test_a_margin_of_balanced_accuracies_holds_where_only_a_rare_class_differs(classes, rare, margin, n_seeds):
    """Exact sums over the images of the rare class that only B gets right: with the t test, 0.07 to 0.12 passed at 5%.

    The seeds are the same network, such as a frozen one.
    """
    labels = np.concatenate([np.zeros(450, int), *(np.full(50, each) for each in range(2, classes)), np.full(rare, 1)])
    shown, above = [], []
    for wrong in range(rare + 1):
        right = np.repeat(np.arange(len(labels))[None] < len(labels) - wrong, n_seeds, axis=0)
        found = compare_pair(right, np.ones_like(right), margin, labels=labels)
        shown.append(found.margin_p_value < 0.05)
        above.append(found.low > -margin)
        assert (found.at_least > -margin) == shown[-1] and (found.p_value < 0.05) == (found.high < 0)
        swapped = compare_pair(np.ones_like(right), right, margin, labels=labels)
        assert (swapped.low, swapped.high, swapped.p_value) == pytest.approx((-found.high, -found.low, found.p_value))
    chances = binom.pmf(range(rare + 1), rare, classes * margin)
    assert chances @ shown < 0.05 and chances @ above < 0.025


@pytest.mark.parametrize(("n", "margin"), [(150, 0.1), (450, 0.01), (1000, 0.02), (2000, 0.005), (2000, 0.05)])
def test_a_margin_holds_where_the_seeds_are_the_same_network(n, margin):
    """Exact sums over the images that only B gets right: with the t tests, 0.060 to 0.067 passed at 5%."""
    likely = np.arange(n + 1)[binom.pmf(range(n + 1), n, margin) > 1e-9]
    shown = []
    for wrong in likely:
        right = np.arange(n)[None] >= wrong
        pairs = [[np.repeat(each, seeds, axis=0) for each in (right, np.ones_like(right))] for seeds in (1, 3)]
        one, three = (compare_pair(*each, margin) for each in pairs)
        assert three.margin_p_value >= one.margin_p_value - 1e-9 and three.at_least <= one.at_least + 1e-9
        assert three.low <= one.low + 1e-9 and three.high >= one.high - 1e-9
        shown.append(three.margin_p_value < 0.05)
    assert 0.01 < binom.pmf(likely, n, margin) @ shown < 0.05


def test_seeds_with_errors_of_their_own_count_as_more_images():
    """Each of four pairs disagrees on 20 of 400 images: on the same, or each on others."""
    same, others = np.zeros((2, 4, 400), int)
    for seed in range(4):
        same[seed, :20] = others[seed, 20 * seed : 20 * seed + 20] = [1, -1] * 10
    assert effective_counts(same) == pytest.approx((10, 10, 400))
    ratio = (80 / 16 + 0.5) / (20 + 0.5)
    assert effective_counts(others) == pytest.approx((10 / ratio, 10 / ratio, 400 / ratio))
    assert effective_counts(np.zeros((4, 400))) == (0, 0, 400)  # nothing shows how the pairs differ


@pytest.mark.parametrize(("n", "rare", "margin"), [(1000, 0, 0.02), (470, 20, 0.1), (490, 40, 0.05)])
def test_a_margin_holds_where_few_images_are_in_groups(n, rare, margin):
    """Two images are of one group; exact sums as above, over the images that only B gets right: by t tests, 0.06 to 0.08."""
    groups, labels = np.maximum(np.arange(n) - 1, 0), None
    if rare:
        labels = (np.arange(n) >= n - rare).astype(int)
    most, share = (rare, 2 * margin) if rare else (n, margin)
    likely = np.arange(most + 1)[binom.pmf(range(most + 1), most, share) > 1e-9]
    shown = []
    for wrong in likely:
        right = np.arange(n)[None] < n - wrong
        grouped = compare_pair(right, np.ones_like(right), margin, groups, labels)
        single = compare_pair(right, np.ones_like(right), margin, None, labels)
        assert grouped.at_least <= single.at_least + 0.02 * margin
        shown.append(grouped.margin_p_value < 0.05)
    assert binom.pmf(likely, most, share) @ shown < 0.05


def test_images_of_groups_count_as_fewer():
    """200 images in pairs that are right or wrong together count as 100; if pairs differ within, as more."""
    differences = np.repeat([1, -1, *[0] * 98], 2)[None]
    only_a, only_b, n = effective_counts(differences, np.repeat(np.arange(100), 2))
    assert (only_a, only_b) == pytest.approx((1, 1), rel=0.05) and n == pytest.approx(100, rel=0.05)
    assert effective_counts(differences, np.arange(200)) == (2, 2, 200)
    assert effective_counts(differences, np.arange(200) // 2, 0.5)[2] == pytest.approx(n)
    spread_out = np.zeros((1, 200), int)
    spread_out[0, [0, 50, 100, 150]] = 1
    assert effective_counts(spread_out, np.repeat(np.arange(100), 2))[2] > 150
    assert effective_counts(spread_out, np.repeat(np.arange(100), 2), 0.5) == pytest.approx((4 / 1.5, 0, 200 / 1.5))
