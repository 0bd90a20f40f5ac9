import hashlib

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm

from common.errors import UserError
from datamodules.sources.catalog import Catalog
from datamodules.splits import (
    TRAIN_VAL_TEST,
    _fill_gaps,
    assign_folds,
    assign_splits,
    check_folds,
    check_splits,
    draw_splits,
    join_groups,
    spread_rows,
    stratified_rows,
    thin_train,
)
from evaluation.paired_tests import compare_pair


@pytest.mark.parametrize("counts", [(1508, 715), (5, 5), (101, 7, 33)])
def test_every_split_has_its_share_of_every_class(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    splits = assign_splits(labels, TRAIN_VAL_TEST, seed=48763)
    for label, count in enumerate(counts):
        for split, fraction in TRAIN_VAL_TEST.items():
            assert abs(((labels == label) & (splits == split)).sum() - fraction * count) <= 1
    assert set(splits) == set(TRAIN_VAL_TEST)  # every row in exactly one split


def test_splits_are_stable_and_depend_on_the_seed():
    labels = np.arange(200) % 2
    assert np.array_equal(assign_splits(labels, TRAIN_VAL_TEST, 1), assign_splits(labels, TRAIN_VAL_TEST, 1))
    assert not np.array_equal(assign_splits(labels, TRAIN_VAL_TEST, 1), assign_splits(labels, TRAIN_VAL_TEST, 2))


def test_single_groups_change_nothing():
    labels = np.arange(200) % 3
    groups = np.arange(200)
    assert np.array_equal(assign_splits(labels, TRAIN_VAL_TEST, 1, groups), assign_splits(labels, TRAIN_VAL_TEST, 1))


@pytest.mark.parametrize("seed", range(10))
def test_a_group_never_crosses_a_border_and_shares_stay_near(seed):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 120, 600)  # about five images each
    labels = (generator.random(600) < 0.3).astype(int)
    splits = assign_splits(labels, TRAIN_VAL_TEST, seed, groups)
    for group in np.unique(groups):
        assert len(set(splits[groups == group])) == 1
    for label in (0, 1):
        for split, fraction in TRAIN_VAL_TEST.items():
            share = (splits[labels == label] == split).mean()
            assert abs(share - fraction) < 0.05


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_partition_and_are_stratified_and_grouped(folds):
    generator = np.random.default_rng(0)
    groups, labels = generator.integers(0, 80, 400), generator.integers(0, 2, 400)
    numbers = assign_folds(labels, folds, 3, groups)
    assert set(numbers) == set(range(folds))
    for group in np.unique(groups):
        assert len(set(numbers[groups == group])) == 1
    sizes = np.bincount(numbers)
    assert sizes.max() - sizes.min() <= 0.1 * 400 / folds + 10


def test_groups_across_classes_leave_folds_equally_large_and_no_class_in_one_of_them():
    labels, generator = np.repeat(np.arange(25), 3), np.random.default_rng(0)
    for seed in range(100):
        groups, drawn = np.arange(75), generator.permutation(75)[:20].reshape(2, 10)
        groups[drawn[1]] = drawn[0]  # ten pairs, some of one class
        numbers = assign_folds(labels, 5, seed, groups)
        sizes = np.bincount(numbers, minlength=5)
        assert sizes.max() - sizes.min() <= 2
        for label in range(25):  # three images in three folds, or a pair in one and the third in another
            of_class = labels == label
            assert len(set(numbers[of_class])) == len(set(groups[of_class]))


@pytest.mark.parametrize(
    ("sizes", "folds"), [((50, 100, 50), 4), ((10, 20, 10, 10), 4), ((3,) * 25, 5), ((7, 13, 29), 6)]
)
def test_folds_are_equally_large_also_where_all_classes_round_the_same_way(sizes, folds):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    numbers = assign_folds(labels, folds, 3)
    for part in (numbers, *(numbers[labels == label] for label in range(len(sizes)))):
        counts = np.bincount(part, minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_named_groups_and_equal_pixels_are_joined_also_over_several_steps():
    groups = ["a", "", "b", "", "a", ""]
    pixels = ["1", "2", "2", "3", "4", "3"]
    joined = join_groups(groups, pixels)
    assert joined[0] == joined[4] and joined[1] == joined[2] and joined[3] == joined[5]
    assert len(set(joined.tolist())) == 3
    assert len(set(join_groups(["a", "a", ""], ["1", "2", "2"]).tolist())) == 1
    assert len(set(join_groups(["", ""], ["", ""]).tolist())) == 2  # unreadable files are no duplicates of each other


@pytest.mark.parametrize("seed", range(5))
def test_joined_groups_are_the_connected_components(seed):
    generator = np.random.default_rng(seed)
    names = [f"g{number}" if number < 40 else "" for number in generator.integers(80, size=200)]
    pixels = [f"{number}" for number in generator.integers(300, size=200)]
    near = [generator.integers(200, size=generator.integers(1, 4)).tolist() for _ in range(25)]
    links = [(row, other) for of in (names, pixels) for row in range(200) for other in range(row)
             if of[row] and of[row] == of[other]] + [(one, other) for one, *others in near for other in others]  # fmt: skip
    rows, others = np.array(links).T
    _, expected = connected_components(
        coo_matrix((np.ones(len(rows)), (rows, others)), shape=(200, 200)), directed=False
    )
    joined = join_groups(names, pixels, near)
    pairs = set(zip(joined.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(set(joined.tolist())) == len(set(expected.tolist()))  # one to one


def catalog():
    return Catalog(name="x", root="DIR", classes=["a", "b"], paths=list("pqrstu"), labels=np.array([0, 1] * 3),
                   splits=np.array(["train", "train", "val", "val", "test", "test"]))  # fmt: skip


def test_two_folds_are_enough():
    check_folds(2, 0)
    check_folds(2, 1)
    for folds, fold in ((1, 0), (2, 2), (2, -1)):
        with pytest.raises(UserError, match=r"datamodule\.fold"):
            check_folds(folds, fold)


def test_every_split_needs_every_class():
    images = catalog()
    check_splits(images, optional={"test"})
    images.exclude([3], "too dark")
    with pytest.raises(UserError, match="val split has no image of class b"):
        check_splits(images, optional={"test"})


@pytest.mark.parametrize(("weights", "named"), [([1, 0, 1, 1, 1, 1], "b"), ([0, 0, 1, 1, 1, 1], "a and b")])
def test_a_class_that_training_would_ignore_is_named(weights, named):
    images = catalog()
    images.weights = np.array(weights, np.float32)
    with pytest.raises(UserError, match=f"every training image of class {named} has the weight 0"):
        check_splits(images, optional=set())
    images.weights[:] = 1, 0.5, 0, 0, 0, 0  # of val and test only means over images weigh them
    check_splits(images, optional=set())


def test_a_data_set_may_have_no_test_split():
    images = catalog()
    images.exclude([4, 5], "none")
    check_splits(images, optional={"test"})
    assert images.describe() == "train 2, val 2 images"


def test_stratified_rows_depend_on_the_seed_and_keep_the_shares():
    one, again, other = (stratified_rows(["a"] * 90 + ["b"] * 11, 26, seed) for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert len(set(one)) == 26 and (one >= 90).sum() in (2, 3)  # 11 * 26 / 101 = 2.8


@pytest.mark.parametrize(("counts", "wanted", "expected"), [
    ((50, 30, 20), 7, (4, 2, 1)),  # 3.5, 2.1 and 1.4
    ((10, 10, 11), 5, (2, 1, 2)),  # 1.61, 1.61 and 1.77; of equals the first
    ((3, 90), 31, (1, 30)),
])  # fmt: skip
def test_what_rounding_leaves_goes_to_the_largest_remainders(counts, wanted, expected):
    names = np.repeat(["a", "b", "c"][: len(counts)], counts)
    drawn = stratified_rows(names.tolist(), wanted, 1)
    assert tuple(np.unique(names[drawn], return_counts=True)[1]) == expected and len(set(drawn.tolist())) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_are_dealt_out_before_small_ones(seed):
    """Of 100 images 60, 20 and 20: small groups first would leave no room for the large one."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(7), [60, 10, 10, 5, 5, 5, 5]))
    splits = assign_splits(np.zeros(100, int), TRAIN_VAL_TEST, seed, groups)
    assert [(splits == split).sum() for split in ("train", "val", "test")] == [60, 20, 20]


@pytest.mark.parametrize("seed", range(40))
def test_gaps_are_filled_wherever_a_group_can_be_spared_and_none_is_made(seed):
    generator, ends = np.random.default_rng(seed), np.array([0.6, 0.8, 1.0])
    classes_of = [
        np.flatnonzero(generator.random(3) < 0.5) for _ in range(9)
    ]  # groups of several classes, some of none
    units = np.repeat(np.arange(9), [len(each) for each in classes_of])
    labels, there = np.concatenate(classes_of), generator.integers(2, size=(3, 3)) * (seed % 2)
    place = generator.random(9)
    before = np.searchsorted(ends, place, side="right")

    def counted(choice):
        counts = there.copy()
        for unit, label in zip(units, labels, strict=True):
            counts[choice[unit], label] += 1
        return counts

    after = before.copy()
    moved = _fill_gaps(after, place, units, labels, ends, there)
    assert (counted(after) > 0)[counted(before) > 0].all()  # no split has lost a class
    assert {int(unit) for unit in np.flatnonzero(after != before)} <= set(moved)
    for split, label in np.argwhere(counted(after) == 0):
        for unit in units[labels == label]:  # whoever has the class is the last one of some class where it is
            assert (counted(after)[after[unit], classes_of[unit]] == 1).any(), (split, label)
    if len(moved) == 1:  # of those that can be spared the one whose hash is nearest
        (split,), gained = after[moved], np.flatnonzero((counted(before) == 0)[after[moved][0]])

        def distance(unit):
            begin, end = [0.0, *ends][split : split + 2]
            return max(begin - place[unit], place[unit] - end, 0.0)

        spared = [
            unit for unit in range(9)
            if set(classes_of[unit]) & set(gained) and (counted(before)[before[unit], classes_of[unit]] > 1).all()
        ]  # fmt: skip
        assert len(gained) > 1 or distance(moved[0]) == min(map(distance, spared))


def test_a_spread_part_has_every_class_first_and_then_each_by_its_share():
    labels = np.repeat([0, 1, 2], [80, 16, 4])  # sorted by class, as the folders of a catalog
    chosen = spread_rows(labels, 25, seed=3)
    assert sorted(labels[chosen[:3]]) == [0, 1, 2] and len(set(chosen)) == 25
    assert np.bincount(labels[chosen]).tolist() == [20, 4, 1]  # a quarter of each
    assert chosen.tolist() == spread_rows(labels, 25, seed=3).tolist() != spread_rows(labels, 25, seed=4).tolist()
    assert spread_rows(labels, 10, seed=3).tolist() == chosen[:10].tolist()
    assert sorted(labels[spread_rows(labels, 2, seed=3)]) == [0, 1]
    assert sorted(spread_rows(labels, 1000, seed=3)) == list(range(100))


def half_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows that half of the training images are for a seed."""
    images = Catalog(name="x", root="DIR", classes=["a", "b"], paths=[""] * len(labels), labels=labels,
                     splits=np.full(len(labels), "train", "<U8"))  # fmt: skip
    thin_train(images, np.arange(len(labels)), 0.5, seed)
    return images.rows("train")


def test_the_gain_from_twice_as_many_images_is_covered_where_each_seed_has_a_half_of_its_own():
    """Nearest class means in ten dimensions, trained on 20 and on all 40 of some images, with 5 seeds and 2,000 test images.

    The expected gain is over halves of these 40; accuracy on all possible images is known in closed form.
    """
    generator, labels, covered = np.random.default_rng(0), np.repeat([0, 1], 20), {"own": 0, "shared": 0}
    center = np.full(10, 0.3)  # of class 1; class 0 has its negative

    def trained(rows, train):
        means = [train[rows[labels[rows] == label]].mean(0) for label in (0, 1)]
        return means[1] - means[0], (means[1] + means[0]) / 2

    def accuracy(direction, middle):
        margins = [(sign * center - middle) @ direction * sign / np.linalg.norm(direction) for sign in (-1, 1)]
        return norm.cdf(margins).mean()

    replicates, halves = 150, [half_of(labels, seed) for seed in range(100)]
    for _ in range(replicates):
        train = (2 * labels[:, None] - 1) * center + generator.normal(size=(40, 10))
        truth = np.arange(2000) % 2
        test = (2 * truth[:, None] - 1) * center + generator.normal(size=(2000, 10))
        full = trained(np.arange(40), train)
        expected = accuracy(*full) - np.mean([accuracy(*trained(rows, train)) for rows in halves])

        def right(direction, middle, test=test, truth=truth):
            return ((test - middle) @ direction > 0) == truth

        seeds = generator.choice(100, 5, replace=False)
        for name, drawn_by in (("own", seeds), ("shared", [seeds[0]] * 5)):
            half = np.stack([right(*trained(halves[seed], train)) for seed in drawn_by])
            found = compare_pair(np.stack([right(*full)] * 5), half, margin=0.02)
            covered[name] += found.low <= expected <= found.high
    error = np.sqrt(0.95 * 0.05 / replicates)
    assert covered["own"] / replicates > 0.95 - 3 * error
    assert covered["shared"] / replicates < 0.95 - 6 * error, covered


def drawn(pixels, seed=7, groups=None, labels=None):
    """Return fingerprint -> split."""
    names = groups or [""] * len(pixels)
    labels = np.zeros(len(pixels), int) if labels is None else labels
    images = Catalog(name="x", root="DIR", classes=["a", "b"], paths=pixels, labels=labels, groups=names,
                     splits=np.full(len(pixels), "", dtype=object))  # fmt: skip
    rows = np.arange(len(pixels))
    draw_splits(images, rows, TRAIN_VAL_TEST, join_groups(names, pixels), pixels, seed)
    return dict(zip(pixels, images.splits.tolist(), strict=True))


def by_hand(key, seed):
    place = int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=16).digest()[:8], "big") / 2**64
    return "train" if place < 0.6 else "val" if place < 0.8 else "test"


@pytest.mark.parametrize("seed", [0, 48763])
def test_an_image_goes_where_its_own_hash_says(seed):
    pixels = [f"{number:016x}" for number in range(500)]
    assert drawn(pixels, seed) == {name: by_hand(f"pixels {name}", seed) for name in pixels}
    names = [f"patient {number // 5}" for number in range(500)]
    assert drawn(pixels, seed, names) == {
        image: by_hand(f"group {name}", seed) for image, name in zip(pixels, names, strict=True)
    }


def test_shares_are_near_those_asked_for_also_of_groups():
    """A group is not placed by the lowest place of its images, which would be train for nearly all."""
    pixels = [f"{number:016x}" for number in range(10_000)]
    near = [list(range(begin, begin + 5)) for begin in range(0, 10_000, 5)]
    images = Catalog(name="x", root="DIR", classes=["a"], paths=pixels, labels=np.zeros(10_000, int),
                     splits=np.full(10_000, "", dtype=object))  # fmt: skip
    groups = join_groups([""] * 10_000, pixels, near)
    draw_splits(images, np.arange(10_000), TRAIN_VAL_TEST, groups, pixels, 1)
    for split, share in TRAIN_VAL_TEST.items():  # of 2,000 groups; the standard deviation is at most 0.011
        assert abs((images.splits == split).mean() - share) < 0.04
    assert all(len(set(images.splits[rows])) == 1 for rows in near)


def test_images_that_are_added_move_none_and_order_does_not_matter():
    generator = np.random.default_rng(0)
    pixels = [f"{number:016x}" for number in generator.integers(0, 2**62, 600)]
    names = [f"camera {number % 97}" if number % 3 == 0 else "" for number in range(600)]
    before, order = drawn(pixels[:300], groups=names[:300]), generator.permutation(600)
    after = drawn([pixels[row] for row in order], groups=[names[row] for row in order])
    assert {name: after[name] for name in before} == before


def test_only_where_a_class_would_have_none_the_nearest_image_moves(caplog):
    generator = np.random.default_rng(0)
    for _ in range(30):
        pixels = [f"{number:016x}" for number in generator.integers(0, 2**62, 205)]
        labels = np.repeat([0, 1], [200, 5])
        splits = drawn(pixels, labels=labels)
        moved = [name for name in pixels if splits[name] != by_hand(f"pixels {name}", 7)]
        few = {by_hand(f"pixels {name}", 7) for name in pixels[200:]}
        assert {splits[name] for name in pixels[200:]} == {"train", "val", "test"}
        assert len(moved) == 3 - len(few) and set(moved) <= set(pixels[200:])
    assert "datamodule.splits=RUN" in caplog.text
