import numpy as np
import pytest

from common.errors import UserError
from datamodules.sources.catalog import Catalog
from datamodules.splits import (
    TRAIN_VAL_TEST,
    assign_folds,
    assign_splits,
    check_splits,
    join_groups,
    spread_rows,
    stratified_rows,
)


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


def test_named_groups_and_equal_pixels_are_joined_also_over_several_steps():
    groups = ["a", "", "b", "", "a", ""]
    pixels = ["1", "2", "2", "3", "4", "3"]
    joined = join_groups(groups, pixels)
    assert joined[0] == joined[4] and joined[1] == joined[2] and joined[3] == joined[5]
    assert len(set(joined.tolist())) == 3
    assert len(set(join_groups(["a", "a", ""], ["1", "2", "2"]).tolist())) == 1
    assert len(set(join_groups(["", ""], ["", ""]).tolist())) == 2  # unreadable files are no duplicates of each other


def catalog():
    return Catalog(name="x", root="DIR", classes=["a", "b"], paths=list("pqrstu"), labels=np.array([0, 1] * 3),
                   splits=np.array(["train", "train", "val", "val", "test", "test"]))  # fmt: skip


def test_every_split_needs_every_class():
    images = catalog()
    check_splits(images, optional={"test"})
    images.exclude([3], "too dark")
    with pytest.raises(UserError, match="val split has no image of class b"):
        check_splits(images, optional={"test"})


def test_a_data_set_may_have_no_test_split():
    images = catalog()
    images.exclude([4, 5], "none")
    check_splits(images, optional={"test"})
    assert images.describe() == "train 2, val 2 images"


def test_stratified_rows_depend_on_the_seed_and_keep_the_shares():
    one, again, other = (stratified_rows(["a"] * 90 + ["b"] * 11, 26, seed) for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert len(set(one)) == 26 and (one >= 90).sum() in (2, 3)  # 11 * 26 / 101 = 2.8


def test_a_spread_part_has_every_class_first_and_then_each_by_its_share():
    labels = np.repeat([0, 1, 2], [80, 16, 4])  # sorted by class, as the folders of a catalog
    chosen = spread_rows(labels, 25, seed=3)
    assert sorted(labels[chosen[:3]]) == [0, 1, 2] and len(set(chosen)) == 25
    assert np.bincount(labels[chosen]).tolist() == [20, 4, 1]  # a quarter of each
    assert chosen.tolist() == spread_rows(labels, 25, seed=3).tolist() != spread_rows(labels, 25, seed=4).tolist()
    assert spread_rows(labels, 10, seed=3).tolist() == chosen[:10].tolist()
    assert sorted(labels[spread_rows(labels, 2, seed=3)]) == [0, 1]
    assert sorted(spread_rows(labels, 1000, seed=3)) == list(range(100))
