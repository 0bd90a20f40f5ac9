import numpy as np
import pytest

from datamodules.catalog import assign_splits

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


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


def test_the_default_split_of_the_default_data_never_changes():
    pytest.importorskip("elpv_dataset", reason="needs the extra samples")
    from datamodules.elpv import elpv_catalog

    catalog = elpv_catalog(48763)
    assert [len(catalog.rows(split)) for split in FRACTIONS] == [1334, 444, 445]
    assert np.bincount(catalog.labels).tolist() == [1508, 715]
    assert [catalog.paths[row] for row in catalog.rows("test")[:3]] == FIRST_TEST_CELLS


FIRST_TEST_CELLS = ["images/cell0002.png", "images/cell0004.png", "images/cell0005.png"]
