from math import sqrt

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binom, binomtest, t, ttest_1samp

from benchmarks.worlds import draw_groups, draw_rows, seed_world
from evaluation.intervals import (
    StudentT,
    accuracy_interval,
    class_effects,
    columns_of,
    coverage_caveat,
    design_effect,
    effective_groups,
    format_accuracy,
    group_numbers,
    intraclass_correlation,
    mean_over_seeds,
    over_images,
    over_seeds_and_images,
    proportion,
    wilson,
)


@pytest.mark.parametrize(("correct", "n"), [(101, 109), (0, 12), (12, 12), (1, 2), (50, 100), (979, 1000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(correct, n, confidence):
    theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(correct, n):
    with pytest.raises(ValueError, match="proportion"):
        wilson(correct, n)


def test_an_accuracy_is_shown_as_in_the_study():
    assert format_accuracy(proportion(101, 109)) == "0.9266 (101 of 109, 95% interval 0.861 to 0.963)"


# The least coverage over the accuracies 0.50, 0.51, ... 0.99; summed over the binomial, not simulated
@pytest.mark.parametrize(("n", "worst"), [(50, 0.9106), (109, 0.9413), (200, 0.9331), (500, 0.9427), (1000, 0.9457)])
def test_wilson_covers_as_stated(n, worst):
    low, high = np.array([wilson(correct, n) for correct in range(n + 1)]).T
    accuracies = np.arange(50, 100) / 100
    coverage = np.array([binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum() for p in accuracies])
    assert 0.94 <= coverage.mean() <= 0.96
    assert coverage.min() == pytest.approx(worst, abs=1e-4)


def test_over_seeds_equals_scipy():
    values = [0.91, 0.93, 0.92, 0.97]
    found = mean_over_seeds(values)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.mean == pytest.approx(0.9325) and found.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert found.n == 4


def test_a_single_seed_has_no_spread():
    assert mean_over_seeds([0.9]) == (0.9, None, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        mean_over_seeds([])


def scipy_t(values):
    test = ttest_1samp(values, 0)
    interval = test.confidence_interval(0.95)
    return test.statistic, interval.low, interval.high, test.pvalue, test.df


def two_way(outcomes):
    """Two-way random effects without pseudo-images."""
    return over_seeds_and_images(np.asarray(outcomes), [])[0]


def test_two_way_with_one_source_is_the_t_test_of_that_source():
    generator = np.random.default_rng(1)
    images, seeds = generator.normal(0.1, 1, 30), generator.normal(0.1, 1, 4)
    found = two_way(np.tile(images, (4, 1)))  # every seed the same
    expected = scipy_t(images)
    assert (*found.interval(), found.p_value(), found.degrees_of_freedom) == pytest.approx(expected[1:], abs=1e-9)
    found = two_way(np.tile(seeds[:, None], (1, 30)))  # every image the same
    expected = scipy_t(seeds)
    assert (*found.interval(), found.p_value(), found.degrees_of_freedom) == pytest.approx(expected[1:], abs=1e-9)


def test_two_way_by_hand():
    y = [[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]]  # rows 3/4, 2/4, 1/4; columns 2/3, 1/3, 0, 1; mean 1/2
    seeds_ms = 4 * (1 / 16 + 0 + 1 / 16) / 2
    images_ms = 3 * (1 / 36 + 1 / 36 + 1 / 4 + 1 / 4) / 3
    residual_ms = (12 * 1 / 4 - 2 * seeds_ms - 3 * images_ms) / 6  # all squares less those of rows and columns
    combined = seeds_ms + images_ms - residual_ms
    freedom = combined**2 / (seeds_ms**2 / 2 + images_ms**2 / 3 + residual_ms**2 / 6)
    found, error = two_way(y), sqrt(combined / 12)
    assert found.mean == 0.5 and found.degrees_of_freedom == pytest.approx(freedom)
    assert found.error == pytest.approx(error)
    assert found.interval().high - 0.5 == pytest.approx(t.ppf(0.975, freedom) * error)
    assert found.p_value() == pytest.approx(2 * t.sf(0.5 / error, freedom))
    assert found.p_above(0.3) == pytest.approx(t.sf(0.2 / error, freedom))


def test_a_p_value_is_two_sided_whatever_the_sign_and_without_an_error_certain():
    for mean in (-0.3, -0.05, 0.05, 0.3):
        assert StudentT(mean, 0.1, 4.0).p_value() == pytest.approx(2 * t.sf(abs(mean) / 0.1, 4))
        assert StudentT(mean, 0.0, 4.0).p_value() == 0
    assert StudentT(0.0, 0.1, 4.0).p_value() == StudentT(0.0, 0.0, 4.0).p_value() == 1
    assert StudentT(0.9, 0.0, 4.0).p_above(0.9) == 1 and StudentT(0.9, 0.0, 4.0).p_above(0.8) == 0


def test_groups_of_equal_sizes_are_the_t_test_of_their_means():
    generator, groups = np.random.default_rng(7), np.repeat(np.arange(12), 5)
    one = (generator.normal(size=12)[groups] + generator.normal(size=60) > 0).astype(float)
    found, expected = over_images(one, [], groups), scipy_t(one.reshape(12, 5).mean(axis=1))
    assert (*found.interval(), found.p_value(), found.degrees_of_freedom) == pytest.approx(expected[1:], abs=1e-9)
    several = np.stack([one, one[::-1], generator.random(60) < 0.6])
    both, of_means = over_seeds_and_images(several, [], groups)
    assert both[:] == pytest.approx(two_way(several.reshape(3, 12, 5).mean(axis=2))[:])
    expected = scipy_t(several.mean(axis=1))
    assert (*of_means.interval(), of_means.p_value(), of_means.degrees_of_freedom) == pytest.approx(
        expected[1:], abs=1e-9
    )


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_groups_of_unequal_sizes_by_hand(alike):
    """The ratio estimate with the squares of Bell & McCaffrey, and pseudo-images that are parts of the groups that decide."""
    sizes, sums = np.array([1, 1, 2, 3, 8, 10]), np.array([1, 0, 2, 1, 7, 4])
    groups = np.repeat(np.arange(6), sizes)
    right = np.concatenate([np.arange(size) < hits for size, hits in zip(sizes, sums, strict=True)])
    freedom = 25**2 / (1 + 1 + 4 + 9 + 64 + 100) - 1
    found, mean = over_images(right, [], groups), 15 / 25
    squares = ((sums - sizes * mean) ** 2 / (1 - sizes / 25)).sum()
    assert found[:] == pytest.approx((mean, sqrt(squares) / 25, freedom))
    assert effective_groups(groups) == pytest.approx(freedom + 1)
    alike_seeds, _ = over_seeds_and_images(np.stack([right] * 3), [], groups)  # then only the groups vary
    assert alike_seeds[:] == pytest.approx(found[:])

    within = max(alike, intraclass_correlation(right, groups))
    variances = sizes * (1 + (sizes - 1) * within)
    together = 1 + ((sizes * variances).sum() / variances.sum() - 1) * within  # of the images of a group, as many tell
    columns = columns_of(right[None], groups, alike)
    size, number, reach = 25 / 6, min(1, together / (25 / 6)), max(1, together / (25 / 6))
    assert (columns.number, columns.reach) == pytest.approx((number, reach)) and (reach > 1) == (alike > 0)
    found = over_images(right, [(1.0, 2.0), (0.0, 1.0)], groups, alike)
    weight = number * reach  # of a pseudo-image, in groups of mean size
    n = 6 + 3 * weight
    center = (6 * mean + 2 * weight) / n
    values = (sums - mean * sizes) / size + mean
    squares = ((values - center) ** 2 / (1 - sizes / size / n)).sum()
    squares += weight * reach * (2 * (1 - center) ** 2 + center**2) / (1 - reach / n)
    assert found[:] == pytest.approx((center, sqrt(squares) / n, freedom))


def test_images_of_a_group_are_alike_as_their_design_effect_says():
    """Of G groups of m images the effect is 1 + (m - 1) times it, before the quantile of few groups."""
    groups = np.repeat(np.arange(30), 4)
    right = np.random.default_rng(2).normal(size=30)[groups] + np.random.default_rng(3).normal(size=120) > 0
    quantile = t.ppf(0.975, 29) / 1.959963984540054
    alike = intraclass_correlation(right, groups)
    assert 0.1 < alike < 0.9 and design_effect(right, groups) == pytest.approx((1 + 3 * alike) * quantile**2)
    assert intraclass_correlation(right, np.arange(120)) == 0
    assert class_effects(right, groups % 2, 3, groups) == pytest.approx(
        [design_effect(right[groups % 2 == each], groups[groups % 2 == each]) for each in (0, 1)] + [1]
    )
    assert class_effects(right, groups % 2, 2, None).tolist() == [1, 1]


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(30), [1, 2, 9] * 10)])
def test_the_interval_of_seeds_is_the_widest_of_two_and_of_that_of_log_odds(groups):
    generator = np.random.default_rng(4)
    for n_seeds, accuracy, sd in ((2, 0.97, 0.3), (3, 0.6, 0.1), (5, 0.99, 1.0)):
        right = generator.random((n_seeds, 120)) < expit(logit(accuracy) + sd * generator.normal(size=(n_seeds, 1)))
        both, of_means = over_seeds_and_images(right, [(1.0, 2.0), (0.0, 2.0)], groups)
        halves = [t.ppf(0.975, each.degrees_of_freedom) * each.error for each in (both, of_means)]
        half = halves[0] / (both.mean * (1 - both.mean))
        low, high = (expit(logit(both.mean) + sign * half) for sign in (-1, 1))
        low = min(low, both.mean - halves[0], of_means.mean - halves[1])
        high = max(high, both.mean + halves[0], of_means.mean + halves[1])
        assert accuracy_interval(right, groups) == pytest.approx((max(0, low), min(1, high)))


def test_a_caveat_is_of_40_images_or_of_fewer_than_three_errors():
    assert coverage_caveat(proportion(20, 41)) is None and "40 images" in coverage_caveat(proportion(20, 40))
    assert coverage_caveat(proportion(97, 100)) is None and "3 errors" in coverage_caveat(proportion(98, 100))
    assert coverage_caveat(proportion(3, 100)) is None and "3 right images" in coverage_caveat(proportion(2, 100))


def test_two_way_covers_seeds_and_images_and_one_of_them_by_itself_does_not():
    generator = np.random.default_rng(2)
    hits = {"both": 0, "seeds": 0, "images": 0}
    for _ in range(1000):
        chances = np.where(generator.random(200) < 0.5, 0.85, 0.25)  # easy and hard images, mean 0.55
        outcomes = generator.random((5, 200)) < chances + generator.normal(0, 0.04, (5, 1))  # good and bad seeds
        intervals = {
            "both": two_way(outcomes).interval(),
            "seeds": mean_over_seeds(outcomes.mean(axis=1)),
            "images": ttest_1samp(outcomes.mean(axis=0), 0).confidence_interval(0.95),
        }
        for name, interval in intervals.items():
            hits[name] += interval.low <= 0.55 <= interval.high
    assert 930 <= hits["both"] <= 970  # 950 expected, standard deviation 7
    assert hits["seeds"] < 925 and hits["images"] < 925


def cell(seeds, images, *wrong):
    table = np.ones((seeds, images), bool)
    for place in wrong:
        table[place] = False
    return table


def test_one_seed_has_the_interval_of_wilson():
    assert accuracy_interval(cell(1, 109, (0, 3))) == wilson(108, 109)


@pytest.mark.parametrize(("seeds", "images"), [(3, 109), (5, 50), (2, 100)])
def test_an_error_more_hardly_ever_makes_an_interval_narrower(seeds, images):
    """Three seeds of 109 images had 0.966 to 1 without an error and 0.991 to 1 with one."""
    none, one = accuracy_interval(cell(seeds, images)), accuracy_interval(cell(seeds, images, (0, 0)))
    assert none.high == one.high == 1.0 and one.low < none.low + 0.003 < 1  # the scale of log odds: 0.001 to 0.0025
    assert none.low < (1 + wilson(images, images).low) / 2


def test_a_single_wrong_answer_counts_the_same_wherever_it_is():
    """Its three mean squares are equal, and rounding decided which degrees of freedom there were."""
    intervals = {accuracy_interval(cell(3, 109, (i, j))) for i in range(3) for j in range(109)}
    lows = [interval.low for interval in intervals]
    assert max(lows) - min(lows) < 1e-9
    freedoms = {two_way(cell(3, 109, (i, j))).degrees_of_freedom for i in range(3) for j in range(109)}
    assert freedoms == {2.0}  # of equals the fewest


def test_an_interval_is_never_narrower_than_that_of_the_seeds_and_holds_its_mean():
    generator = np.random.default_rng(0)
    for _ in range(200):
        seeds, images = generator.integers(2, 6), generator.integers(2, 60)
        table = generator.random((seeds, images)) < generator.random((seeds, 1))
        found, of_means = accuracy_interval(table), mean_over_seeds(table.mean(axis=1))
        assert found.low <= max(0, of_means.low) + 1e-12 and found.high >= min(1, of_means.high) - 1e-12
        assert found.low <= table.mean() <= found.high and found.high - found.low > 0.01


@pytest.mark.parametrize(
    ("seeds", "images", "accuracy", "sd"),
    [(3, 109, 0.99, 0.0), (5, 109, 0.99, 0.0), (2, 109, 0.97, 0.0), (3, 445, 0.8, 0.03)],
)
def test_seeds_and_images_cover_near_the_ceiling_too(seeds, images, accuracy, sd):
    world, generator, covered = seed_world(accuracy, sd), np.random.default_rng(5), 0
    for _ in range(400):
        low, high = accuracy_interval(draw_rows(generator, [world], seeds, images)[0])
        covered += low <= accuracy <= high
    assert covered / 400 >= 0.95 - 3 * sqrt(0.95 * 0.05 / 400)


def test_group_numbers():
    assert group_numbers(["", "", "a", "b"]) is None and group_numbers([]) is None
    assert group_numbers(["a", "", "a", "", "b"]).tolist() == [0, 1, 0, 2, 3]


def test_images_that_are_alike_in_groups_count_as_their_groups():
    groups = np.repeat(np.arange(40), 5)
    alike = np.repeat(np.arange(40) % 4 > 0, 5)
    quantile = t.ppf(0.975, 39) / 1.959963984540054
    assert design_effect(alike, groups) == pytest.approx(
        5 * quantile**2, rel=0.03
    )  # five times as many as independent ones
    assert design_effect(alike, None) == design_effect(alike, np.arange(200)) == 1
    assert proportion(150, 200, 5.0).low == pytest.approx(wilson(30, 40).low)


@pytest.mark.parametrize("sizes", [[200] + [1] * 200, [200] + [10] * 20], ids=["and single images", "and groups of 10"])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_intervals_cover_where_one_group_has_half_of_the_images(sizes, n_seeds):
    """Three seeds covered 0.74 and 0.88 with degrees of freedom of as many groups of equal size."""
    generator, groups, held = np.random.default_rng(4), np.repeat(np.arange(len(sizes)), sizes), []
    for _ in range(400):
        easy = 1.5 * generator.normal(size=len(sizes))[groups] + generator.normal(size=len(groups))
        low, high = accuracy_interval(easy + generator.normal(size=(n_seeds, len(groups))) > 0, groups)
        held.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.95 - 3 * sqrt(0.05 * 0.95 / 400)


def test_a_few_large_groups_that_are_all_right_do_not_hide_how_alike_they_may_be():
    """Five of 30 images beside 50 single ones, each group right or wrong as a whole: in 0.59 of cases no large one fails."""
    generator, sizes = np.random.default_rng(2), [30] * 5 + [1] * 50
    groups, covered = np.repeat(np.arange(55), sizes), 0
    for _ in range(200):
        right = (generator.random(55) < 0.9)[groups]
        low, high = accuracy_interval(right[None], groups)
        covered += low <= 0.9 <= high
    assert covered / 200 >= 0.95 - 3 * sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize("low", [0, -1])  # -1: differences of two networks
@pytest.mark.parametrize(
    ("sizes", "whole", "by_within"),
    [
        ([6] * 4, False, False),
        ([1, 2, 3, 8, 10], False, False),
        ([12, 1, 1], False, False),
        ([20] + [2] * 9, True, True),
    ],
)
def test_the_design_effect_is_that_of_the_bias_reduced_variance_or_of_the_differences_within(
    sizes, whole, by_within, low
):
    """Bell & McCaffrey's by matrices: residuals by the inverse root of I - H of their group, which is all ones / n."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    draws = np.random.default_rng(1).random(len(groups))
    correct = np.where((draws[groups] if whole else draws) < 0.6, 1, low)
    size, n = sum(each**2 for each in sizes) / sum(sizes), sum(sizes) + np.mean(sizes) / 2  # size as an image sees it
    part = 0.25 * np.mean(sizes) / size
    columns = [(1.0, each, correct[groups == g].sum()) for g, each in enumerate(sizes)]
    columns += [
        (part, size, low * size),
        (part, size, size),
    ]  # parts of a group that is all wrong, and of one that is all right
    mean = sum(weight * right for weight, _, right in columns) / n
    between = 0.0
    for weight, number, right in columns:
        # the eigenvalue of I - H for a vector that is the same for all of the group's images
        between += weight * ((right - number * mean) / sqrt(1 - number / n)) ** 2
    squares = (correct**2).sum() + part * size * (low**2 + 1)
    single = squares - mean**2 * n
    effective = sum(sizes) ** 2 / sum(each**2 for each in sizes)
    quantile = t.ppf(0.975, max(1.0, effective - 1)) / 1.959963984540054
    several = [correct[groups == g] for g, each in enumerate(sizes) if each > 1]
    within = np.average([each.var(ddof=1) for each in several], weights=[len(each) - 1 for each in several])
    of_within = 1 + (size - 1) * (1 - within / np.concatenate(several).var())
    assert by_within == (of_within > max(between / single, 1))
    expected = np.clip(max(between / single, of_within), 1, size) * quantile**2
    assert design_effect(correct, groups) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("n_groups", "size", "alike", "plain"), [(20, 5, 1.2, 0.9), (10, 20, 1.2, 0.6), (40, 5, 3, 0.8)]
)
def test_intervals_of_groups_cover_and_those_of_images_do_not(n_groups, size, alike, plain):
    generator, hits = np.random.default_rng(2), np.zeros(3)
    for _ in range(500):
        (right,), groups = draw_groups(generator, 0.9, [size] * n_groups, alike)
        of_groups = proportion(int(right.sum()), len(right), design_effect(right, groups))
        of_images = proportion(int(right.sum()), len(right))
        seeds = accuracy_interval(np.stack([right, right, right]), groups)  # three networks that agree
        hits += [
            of_groups.low <= 0.9 <= of_groups.high,
            of_images.low <= 0.9 <= of_images.high,
            seeds.low <= 0.9 <= seeds.high,
        ]
    margin = 3 * sqrt(0.95 * 0.05 / 500)
    assert hits[0] / 500 >= 0.95 - margin and hits[2] / 500 >= 0.95 - margin
    assert hits[1] / 500 < plain


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_pseudo_images_of_one_large_group_leave_the_mean_between_0_and_1(right):
    """A group of 1,000 images beside nine: two pseudo-images of either kind, each of up to as many images."""
    groups = np.minimum(np.arange(1009), 9)
    outcomes = np.full((3, 1009), right)
    both, _ = over_seeds_and_images(outcomes, [(1.0, 2.0), (0.0, 2.0)], groups)
    nearest = (1009 * right + 2 * 1000) / (1009 + 4 * 1000)
    assert min(right, nearest) <= both.mean <= max(right, nearest) and 0 < both.mean < 1
    interval = accuracy_interval(outcomes == 1, groups)
    assert interval.low <= right <= interval.high and interval.high - interval.low > 0.5
