"""How many images or seeds would decide: the power at the printed number, with known truth."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom, chi2, multinomial, norm
from scipy.stats import t as student

from benchmarks.worlds import draw_rows, seed_world
from evaluation.choice import Finalist, Rule, measure
from evaluation.paired_tests import compare_pair, tango_score
from evaluation.planning import Spread, images_needed, seeds_needed


def pair(worlds, n_seeds, n, seed=0):
    return compare_pair(*draw_rows(np.random.default_rng(seed), worlds, n_seeds, n), 0.02)


def above(right, target):
    finalist = Finalist(1, right, list(range(len(right))))
    return measure(finalist, finalist, Rule(0.02, target))


@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize("disagree", [0.01, 0.02, 0.05, 0.2])
def test_the_exact_power_of_one_seed_is_as_promised(disagree, margin):
    """Over all tables of two equally good networks; without the variance at the margin it was 0 to 0.8."""
    right = np.ones((1, 4000), bool)
    a, b = right.copy(), right.copy()
    half = round(disagree * 2000) - 1  # beside the two pseudo-images
    a[:, :half], b[:, half : 2 * half] = False, False
    n = images_needed(compare_pair(a, b, margin).spread, margin, 1)
    power = 0.0
    for both in range(int(binom.ppf(1e-6, n, disagree)), int(binom.ppf(1 - 1e-6, n, disagree)) + 1):
        only_a = np.arange(both + 1)
        shown = [NormalDist().cdf(-tango_score(k, both - k, n, -margin, 0.5)) < 0.05 for k in range(both + 1)]
        power += binom.pmf(both, n, disagree) * float(binom.pmf(only_a, both, 0.5) @ shown)
    assert 0.79 <= power <= 0.93


@pytest.mark.parametrize(("only_a", "only_b", "margin"), [(0.02, 0.03, 0.05), (0.005, 0.025, 0.05), (0.3, 0.36, 0.22)])
def test_the_exact_power_of_one_seed_that_is_a_little_worse_is_as_promised(only_a, only_b, margin):
    """Over all tables of networks that differ as they do on the pilot."""
    right = np.ones((2, 1, 4000), bool)
    first, second = round(only_a * 4000) - 1, round(only_b * 4000) - 1  # beside the two pseudo-images
    right[1, :, :first], right[0, :, first : first + second] = False, False
    n = images_needed(compare_pair(*right, margin).spread, margin + only_a - only_b, 1)
    a, b = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    a, b = a[a + b <= n], b[a + b <= n]
    chances = multinomial.pmf(np.stack([a, b, n - a - b], axis=1), n, [only_a, only_b, 1 - only_a - only_b])
    likely = np.flatnonzero(chances > 1e-7)
    shown = [tango_score(int(a[i]), int(b[i]), n, -margin, 0.5) > 1.6448536 for i in likely]
    assert 0.78 <= chances[likely] @ shown <= 0.86


@pytest.mark.parametrize("n_groups", [12, 40])
def test_the_power_of_one_seed_on_few_groups_is_as_promised(n_groups):
    """The number from many groups of 10, then fresh ones of as many images as it says."""
    margin = 0.55 / sqrt(n_groups)

    def groups_of(number, seed):
        generator, of = np.random.default_rng(seed), np.repeat(np.arange(number), 10)
        easy = 0.5 + generator.normal(size=len(of))
        sides = (generator.normal(size=number)[of] + easy + generator.normal(size=len(of)) > 0 for _ in range(2))
        return compare_pair(*(side[None] for side in sides), margin, of)

    n = images_needed(groups_of(2000, 0).spread, margin, 1)
    shown = np.mean([groups_of(round(n / 10), 100 + seed).margin_p_value < 0.05 for seed in range(400)])
    assert shown >= 0.8 - 3 * sqrt(0.16 / 400)


@pytest.mark.parametrize(("n_seeds", "size", "margin"), [
    (1, 5, 0.1), *(pytest.param(*each, marks=pytest.mark.thorough) for each in ((1, 10, 0.05), (3, 5, 0.06))),
])  # fmt: skip
def test_the_power_on_groups_of_which_most_are_right_is_as_promised(n_seeds, size, margin):
    """A pseudo-image is a part of a group that counts among 30 to 70; where it counted as one image, the first had 0.63."""

    def groups_of(number, seed, n_seeds=n_seeds):
        generator, of = np.random.default_rng(seed), np.repeat(np.arange(number), size)
        hard = 1.9 + generator.normal(size=number)[of] + generator.normal(size=len(of))
        sides = []
        for _ in range(2):
            own = 0.5 * generator.normal(size=number)[of] + 0.5 * generator.normal(size=len(of))
            sides.append(hard + own + 0.3 * (n_seeds > 1) * generator.normal(size=(n_seeds, len(of))) > 0)
        return compare_pair(*sides, margin, of)

    pilot = groups_of(2000, 0, max(20, n_seeds) if n_seeds > 1 else 1).spread._replace(n_seeds=n_seeds, seeds=0.0)
    number = round(images_needed(pilot, margin, n_seeds) / size)
    shown = np.mean([groups_of(number, 100 + seed).margin_p_value < 0.05 for seed in range(600)])
    assert shown >= 0.8 - 2 * sqrt(0.16 / 600), (number, shown)


@pytest.mark.parametrize(("n_seeds", "accuracy"), [(1, 0.8), (5, 0.8)])
def test_the_power_at_the_printed_number_is_as_promised(n_seeds, accuracy):
    """Equal settings; the number from a pilot is checked with fresh images and seeds."""
    worlds = [seed_world(accuracy, 0)] * 2
    numbers = [images_needed(pair(worlds, n_seeds, 2000, seed).spread, 0.02, n_seeds) for seed in range(9)]
    n = int(np.median([number or 10**7 for number in numbers]))
    shown = np.mean([pair(worlds, n_seeds, n, 100 + seed).margin_p_value < 0.05 for seed in range(200)])
    assert 0.8 - 3 * sqrt(0.16 / 200) <= shown


@pytest.mark.parametrize(
    ("right", "n", "target"), [(850, 1000, 0.8), (970, 1000, 0.95), (990, 1000, 0.98), (50, 50, 0.95)]
)
def test_the_exact_power_of_one_network_above_a_target_is_as_promised(right, n, target):
    found = above(np.arange(n)[None] < right, target)
    number = images_needed(found.spread, found.own - target, 1)
    enough = binom.isf(0.05, number, target) + 1  # right images whose exact test shows more than the target
    assert 0.77 <= binom.sf(enough - 1, number, found.own) <= (0.87 if right < n else 1)


@pytest.mark.parametrize("size", [1, 5, 3.25])  # images of a group; 3.25: three single ones and one of ten
@pytest.mark.parametrize(("metric", "classes"), [("accuracy", 2), ("balanced_accuracy", 2), ("balanced_accuracy", 10)])
@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(("n", "target"), [(20, 0.9), (100, 0.99), (40, 0.95)])
def test_where_all_images_are_right_more_that_are_right_show_it(n, target, n_seeds, metric, classes, size):
    """At the printed number all right are shown to be above the target, and at a fourth of it they are not.

    Of two classes the first has every second unit, or every tenth: with that as if both had as many it took twice the number.
    """

    def all_right(n: int):
        units = np.arange(n) // size if size != 3.25 else np.repeat(np.arange(n), np.resize([1, 1, 1, 10], n))[:n]
        each = Finalist(1, np.ones((n_seeds, n), bool), list(range(n_seeds)))
        return measure(each, each, Rule(0.02, target, metric), units % classes > 0, None if size == 1 else units)

    found = all_right(int(n * size))
    number = images_needed(found.spread, 1 - target, n_seeds)
    assert not found.shown and all_right(number).shown and not all_right(number // 4).shown


@pytest.mark.parametrize("size", [1, 5])  # images of a group
@pytest.mark.parametrize("classes", [2, 10])  # the first has every second unit, or every tenth
@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(("n", "margin"), [(20, 0.05), (40, 0.02), (100, 0.02)])
def test_where_networks_agree_everywhere_more_such_images_show_it_for_rare_classes_too(
    n, margin, n_seeds, classes, size
):
    """With one in ten as if both classes had as many it took up to twice the number on groups, and 1.3 times on images."""

    def agreeing(n: int):
        units, right = np.arange(n) // size, np.ones((n_seeds, n), bool)
        return compare_pair(right, right, margin, None if size == 1 else units, units % classes > 0)

    found = agreeing(n * size)
    number = images_needed(found.spread, margin, n_seeds)
    shown = [agreeing(each).margin_p_value < 0.05 for each in (n * size, number // 8, number)]
    assert shown == [False, False, True]


@pytest.mark.parametrize(("n_seeds", "accuracy", "target"), [(4, 0.97, 0.95), (6, 0.9, 0.87)])
def test_the_power_of_seeds_above_a_target_is_as_promised(n_seeds, accuracy, target):
    world = [seed_world(accuracy, 0.005)]
    (pilot,) = draw_rows(np.random.default_rng(1), world, 40, 4000)
    spread = above(pilot, target).spread._replace(seeds=0.005**2, n_seeds=n_seeds)
    n = images_needed(spread, accuracy - target, n_seeds)
    draws = [draw_rows(np.random.default_rng(100 + seed), world, n_seeds, n)[0] for seed in range(200)]
    assert 0.8 - 3 * sqrt(0.16 / 200) <= np.mean([above(right, target).shown for right in draws]) <= 0.93


def test_the_variances_of_seeds_and_images_by_hand():
    y = np.array([[1, 1, 0, -1, 0, 1, 0, 0], [0, 1, 0, -1, 1, 1, 0, 0], [1, 1, 1, -1, 0, 0, 1, 1]]) * 1.0
    found = Spread.of(y, square=1.5)
    of_images, of_seeds = y.mean(axis=0), y.mean(axis=1)
    rest = sum((y[s, i] - of_images[i] - of_seeds[s] + y.mean()) ** 2 for s in range(3) for i in range(8)) / (2 * 7)
    at_most = sum((of_seeds - y.mean()) ** 2) / chi2.ppf(0.2, 2)  # the upper end of the one-sided 80% interval
    between = (sum((of_images - y.mean()) ** 2) + 2) / 9  # with two pseudo-images, whose squares are 1
    assert found == pytest.approx(
        (at_most - rest / 8, between - rest / 3, rest, 3, 1, None, None, 0, 1, 2 * 0.5, 1, None)
    )
    one = Spread.of(y[:1])
    assert one == pytest.approx((0, (sum((y[0] - 0.25) ** 2) + 2) / 9, 0, 1, 1, None, None, 0, 1, 0, 1, None))


@pytest.mark.parametrize(("sizes", "alike", "together"), [
    ([1] * 9 + [12], 1, (9 + 12**3) / (9 + 12**2)),  # images that lie in the group of the variance, all of them alike
    ([4] * 6, 0.5, 1 + 3 * 0.5),
])  # fmt: skip
def test_the_variance_of_groups_by_hand(sizes, alike, together):
    n, of = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(0).permutation(np.resize([1.0, 0, 0, -1, 0], sum(sizes)))
    mean = sum(sizes) / n
    squares = sum(((y[of == group] - y.mean()).sum() / mean) ** 2 for group in range(n))  # of a ratio of sums
    number, reach = min(1, together / mean), max(1, together / mean)
    found = Spread.of(y[None], of, alike, square=1.5)
    assert found.units == pytest.approx(max(squares / (n - 1), 2 / mean / (n + 1)))
    assert found.further == pytest.approx(2 * 1.5 * number * reach**2)
    assert found.equal == pytest.approx(sum(sizes) ** 2 / sum(size**2 for size in sizes) / n)
    agree = Spread.of(np.zeros((1, sum(sizes))), of, alike)
    assert agree.units == pytest.approx(2 / mean / (n + 1)) and agree.images_per_unit == mean


def test_the_power_of_one_seed_by_hand():
    spread = Spread(0.0, 0.3, 0.0, 1, 4.0, equal=0.5, further=3.0)
    deviation = sqrt((0.3 + 3 / 30) / 30)  # of 120 images in 30 groups, which tell as much as 15 of equal size
    assert spread.power(0.2, 120, 1, 0.025) == pytest.approx(norm.cdf(0.2 / deviation + student.ppf(0.025, 14)))
    at_margin = Spread(0.0, 0.3, 0.0, 1, 4.0, at_limit=1.7, less=2.0)
    critical = norm.ppf(0.05) * sqrt(1.7)
    assert at_margin.power(0.2, 120, 1) == pytest.approx(norm.cdf((0.2 - 2 / 120) / sqrt(0.3 / 30) + critical))


def test_as_many_seeds_as_are_proposed_at_most_are_proposed():
    spread = Spread(seeds=0.05**2, units=0.1, residual=0.1, n_seeds=3, images_per_unit=1)
    gap = next(gap for gap in np.arange(0.02, 0.05, 0.0002) if spread.power(gap, 5000, 30) >= 0.8)
    assert seeds_needed(spread, gap, 5000) in (29, 30)
    assert seeds_needed(spread, gap - 0.0004, 5000) is None
    assert any(seeds_needed(spread, gap + further, 5000) == 30 for further in (0.0, 0.0001, 0.0002))


def test_where_the_seeds_decide_more_images_do_not_help():
    found = pair([seed_world(0.8, 0.03)] * 2, 3, 2000)
    assert images_needed(found.spread, 0.02, 3) is None
    assert found.spread.power(0.02, 10**7, 3) < 0.8  # the more images the same
    spread = Spread(seeds=0.01**2, units=0.1, residual=0.1, n_seeds=3, images_per_unit=1)
    seeds = seeds_needed(spread, 0.02, 2000)
    assert 4 <= seeds <= 12 and spread.power(0.02, 2000, seeds) >= 0.8 > spread.power(0.02, 2000, seeds - 1)
    assert seeds_needed(spread, 0.0, 2000) is None and images_needed(spread, -0.01, 3) is None


def test_the_power_over_seeds_is_that_of_the_simulated_test():
    """Normal outcomes with these variances, put through the test itself."""
    spread = Spread(seeds=0.006**2, units=0.12, residual=0.15, n_seeds=5, images_per_unit=1)
    generator, shown = np.random.default_rng(1), []
    from evaluation.intervals import over_seeds_and_images

    for _ in range(600):
        y = -0.0 + 0.006 * generator.normal(size=(5, 1)) + sqrt(0.12) * generator.normal(size=(1, 1500))
        y = y + sqrt(0.15) * generator.normal(size=(5, 1500))
        found = over_seeds_and_images(y, [(1.0, 1.0), (-1.0, 1.0)])
        shown.append(max(each.p_above(-0.03) for each in found) < 0.05)
    assert spread.power(0.03, 1500, 5) == pytest.approx(np.mean(shown), abs=3 * sqrt(0.16 / 600))


@pytest.mark.parametrize(("n_seeds", "margin"), [(1, 0.22), pytest.param(5, 0.2, marks=pytest.mark.thorough)])
def test_the_power_on_groups_of_unequal_sizes_is_as_promised(n_seeds, margin):
    """Of ten groups one has 60 of 69 images; with the degrees of freedom of as many equal groups it was 0.76."""

    def groups_of(number, seed, n_seeds=n_seeds):
        generator, sizes = np.random.default_rng(seed), [*[1] * 9, 60] * number
        of = np.repeat(np.arange(len(sizes)), sizes)
        easy = 1.5 + generator.normal(size=len(of))
        sides = []
        for _ in range(2):
            right = generator.normal(size=len(sizes))[of] + easy + generator.normal(size=(n_seeds, len(of))) > 0
            sides.append(right)
        return compare_pair(*sides, margin, of)

    pilot = groups_of(1500, 0, max(20, n_seeds) if n_seeds > 1 else 1).spread._replace(n_seeds=n_seeds, seeds=0.0)
    number = round(images_needed(pilot, margin, n_seeds) / 69)
    shown = np.mean([groups_of(number, 100 + seed).margin_p_value < 0.05 for seed in range(800)])
    assert shown >= 0.8 - 2 * sqrt(0.16 / 800)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_images_that_would_decide_a_balanced_accuracy_suffice_where_only_a_rare_class_differs(n_seeds):
    """A tenth of the images are of the rare class, of which A gets 2% wrong and B none; with all others both are right.

    The seeds are the same network.
    """
    labels = np.arange(3000) < 300
    worse = np.repeat(np.arange(3000)[None] >= 6, n_seeds, axis=0)
    spread = compare_pair(worse, np.ones_like(worse), 0.05, labels=labels).spread
    assert images_needed(spread, 0.9, n_seeds) < 20  # tried numbers may have less than one image of the rare class
    n = images_needed(spread, 0.05 - 0.01, n_seeds)
    rare = np.arange(n) < n // 10
    wrong = np.arange(n // 10 + 1)
    rows = [np.repeat(np.arange(n)[None] >= k, n_seeds, axis=0) for k in wrong]
    shown = [compare_pair(row, np.ones_like(row), 0.05, labels=rare).margin_p_value < 0.05 for row in rows]
    assert 0.7 < float(binom.pmf(wrong, n // 10, 0.02) @ shown) < 0.95


@pytest.mark.parametrize(("units", "residual", "times"), [(0.1, 0.0, 1), (0.0, 0.1, 2), (0.05, 0.15, 0.1 / 0.075)])
def test_more_seeds_count_as_more_images_as_far_as_their_errors_are_their_own(units, residual, times):
    """For the bound that also has to pass: 10 images below the difference, with six seeds instead of three."""
    spread = Spread(seeds=0.0, units=units, residual=residual, n_seeds=3, images_per_unit=1)
    bound = spread._replace(below=lambda n, _: 10 / n)
    assert bound.power(11 / times / 500, 500, 6) > bound.power(9 / times / 500, 500, 6) > 0
    reached = [bound.power(gap / times / 500, 500, 6, 0.4999) for gap in (10, 10.1)]
    sd = sqrt((units + residual / 6) / 500)
    assert reached == pytest.approx([0.5, norm.cdf(0.1 / times / 500 / sd)], abs=0.03)
