from types import SimpleNamespace

import numpy as np
import pytest

from callbacks.contact_sheet import _class_rows, _suspicious_rows
from datamodules.audit import Finding


@pytest.mark.parametrize(("kind", "leak", "shown"), [
    ("near duplicate", False, 3), ("near duplicate", True, 12), ("conflict", False, 12),
])  # fmt: skip
def test_duplicates_within_a_split_do_not_fill_the_sheet(kind, leak, shown):
    groups = [[2 * i, 2 * i + 1] for i in range(20)]
    finding = Finding(kind, "", groups)
    finding.leak = leak
    catalog = SimpleNamespace(
        paths=[f"{i}.png" for i in range(40)], splits=["train"] * 40, labels=[0] * 40, classes=["red", "blue"]
    )
    data = SimpleNamespace(catalog=catalog, findings=[finding], pixel_cache=[np.zeros((2, 2, 3), np.uint8)] * 40)
    rows = _suspicious_rows(data)
    assert len(rows) == shown and [title for _, title in rows[0][1]] == ["train: 0.png", "train: 1.png"]


@pytest.mark.parametrize(("classes", "last"), [
    (8, "c7, test: 1"), (9, "c7, test: 1\n(the first 8 of 9 classes)"), (30, "c7, test: 1\n(the first 8 of 30 classes)"),
])  # fmt: skip
def test_the_sheet_says_that_it_shows_only_the_first_classes(classes, last):
    labels, splits = np.repeat(np.arange(classes), 2), np.array(["train", "test"] * classes)
    catalog = SimpleNamespace(
        classes=[f"c{n}" for n in range(classes)], labels=labels, paths=["x.png"] * len(labels),
        rows=lambda split: np.flatnonzero(splits == split),
    )  # fmt: skip
    rows = _class_rows(SimpleNamespace(catalog=catalog, pixel_cache=[np.zeros((2, 2, 3), np.uint8)] * len(labels)))
    assert len(rows) == 16 and rows[-2][0] == "c7, train: 1" and rows[-1][0] == last
