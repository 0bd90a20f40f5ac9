import numpy as np
import pytest

from datamodules.splits import FRACTIONS, assign_folds, assign_splits, join_groups


@pytest.mark.parametrize("counts", [(1508, 715), (5, 5), (101, 7, 33)])
def test_every_split_has_its_share_of_every_class(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    splits = assign_splits(labels, FRACTIONS, seed=48763)
    for label, count in enumerate(counts):
        for split, fraction in FRACTIONS.items():
            assert abs(((labels == label) & (splits == split)).sum() - fraction * count) <= 1
    assert set(splits) == set(FRACTIONS)  # every row in exactly one split


def test_splits_are_stable_and_follow_the_seed():
    labels = np.arange(200) % 2
    assert np.array_equal(assign_splits(labels, FRACTIONS, 1), assign_splits(labels, FRACTIONS, 1))
    assert not np.array_equal(assign_splits(labels, FRACTIONS, 1), assign_splits(labels, FRACTIONS, 2))


def test_single_groups_change_nothing():
    labels = np.arange(200) % 3
    groups = np.arange(200)
    assert np.array_equal(assign_splits(labels, FRACTIONS, 1, groups), assign_splits(labels, FRACTIONS, 1))


@pytest.mark.parametrize("seed", range(10))
def test_a_group_never_crosses_a_border_and_shares_stay_near(seed):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 120, 600)  # about five images each
    labels = (generator.random(600) < 0.3).astype(int)
    splits = assign_splits(labels, FRACTIONS, seed, groups)
    for group in np.unique(groups):
        assert len(set(splits[groups == group])) == 1
    for label in (0, 1):
        for split, fraction in FRACTIONS.items():
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


def test_named_groups_and_equal_pixels_are_joined_also_over_several_steps():
    groups = ["a", "", "b", "", "a", ""]
    pixels = ["1", "2", "2", "3", "4", "3"]
    joined = join_groups(groups, pixels)
    assert joined[0] == joined[4] and joined[1] == joined[2] and joined[3] == joined[5]
    assert len(set(joined.tolist())) == 3
    assert len(set(join_groups(["a", "a", ""], ["1", "2", "2"]).tolist())) == 1
    assert len(set(join_groups(["", ""], ["", ""]).tolist())) == 2  # unreadable files are no duplicates of each other
