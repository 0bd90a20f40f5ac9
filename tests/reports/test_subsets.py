import csv

import numpy as np
import pytest

from evaluation.intervals import wilson
from reports.subsets import in_markdown, main, read_subsets


def add_columns(folder, columns):
    """splits.csv of a made-up run with further columns, one value an image."""
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    names = ["path", "label", "split", *columns]
    lines = [",".join(names)]
    for index, row in enumerate(rows):
        lines.append(",".join([row["path"], row["label"], "test", *(column[index] for column in columns.values())]))
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")
    return rows


def test_each_subset_has_its_accuracy_and_interval_and_weights_count(run, tmp_path, capsys):
    folder = run("one")
    n = len((folder / "predictions.csv").read_text().splitlines()) - 1
    color = ["dark" if index % 3 else "light" for index in range(n)]
    weight = ["1" if index % 3 else "0.25" for index in range(n)]
    rows = add_columns(folder, {"color": color, "weight": weight, "name": [f"n{i}" for i in range(n)]})
    right = np.array([row["label"] == row["predicted"] for row in rows])
    dark = np.array(color) == "dark"
    split, runs, found, weighted = read_subsets(folder)
    assert (split, runs) == ("test", 1)
    assert [row.name for row in found] == ["all", "color=dark", "color=light"]  # a value an image is no subset
    for row, members in zip(found, (dark | True, dark, ~dark), strict=True):
        assert row.n == members.sum() and row.accuracy == pytest.approx(right[members].mean())
        assert row.interval.low < row.accuracy < row.interval.high
        low, high = wilson(int(right[members].sum()), row.n)
        assert (row.interval.low, row.interval.high) == pytest.approx((low, high), abs=0.05)
    by_hand = (right[dark].sum() + 0.25 * right[~dark].sum()) / (dark.sum() + 0.25 * (~dark).sum())
    assert weighted.mean == pytest.approx(by_hand)
    assert main([str(folder)]) == 0
    assert f"| color=dark | {dark.sum()} | {right[dark].mean():.3f} |" in capsys.readouterr().out


def test_without_subsets_one_line_says_what_is_needed(run, capsys):
    folder = run("one")
    add_columns(folder, {})
    assert main([str(folder)]) == 1
    assert "no column beside path, label, split, group, weight" in capsys.readouterr().err
    assert main([]) == 2 and "use: python -m reports.subsets" in capsys.readouterr().err


def test_a_table_s_further_columns_reach_the_run_s_splits(train, two_colors, tmp_path):
    images = sorted(two_colors.rglob("*.png"))
    lines = ["path,label,split,camera"]
    for index, path in enumerate(images):
        relative = path.relative_to(two_colors)
        lines.append(f"{relative},{relative.parts[1]},{relative.parts[0]},{'old' if index % 2 else 'new'}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    ran = train(f"datamodule.table={table}", "trainer.max_epochs=1")
    rows = list(csv.DictReader((ran.folder / "splits.csv").read_text().splitlines()))
    assert {row["path"]: row["camera"] for row in rows} == {
        line.split(",")[0]: line.split(",")[3] for line in lines[1:]
    }
    assert "camera=new" in in_markdown(ran.folder)
