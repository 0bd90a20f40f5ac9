"""Accuracy on subsets of the images that a further column of the table names."""

import csv
import shutil

import numpy as np
import pytest

from common.run_folder import RunFolder
from engine.config.instantiate import instantiate
from engine.run.stages import split_columns
from evaluation.intervals import wilson
from reports.subsets import main, read_subsets, subset_table
from tests.support.configs import composed
from tests.support.fake_runs import change_record


def add_columns(folder, columns, split="test"):
    """Write splits.csv of a fake run with further columns, one value an image."""
    rows = list(csv.DictReader(RunFolder(folder).predictions(split).read_text().splitlines()))
    names = ["path", "label", "split", *columns]
    lines = [",".join(names)]
    for index, row in enumerate(rows):
        lines.append(",".join([row["path"], row["label"], split, *(column[index] for column in columns.values())]))
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")
    return rows


def test_each_subset_has_its_accuracy_and_interval_and_weights_count(run, capsys):
    folder = run("one")
    n = len((folder / "predictions.csv").read_text().splitlines()) - 1
    color = ["dark" if index % 3 else "light" for index in range(n)]
    weight = ["1" if index % 3 else "0.25" for index in range(n)]
    rows = add_columns(folder, {"color": color, "weight": weight, "name": [f"n{i}" for i in range(n)]})
    right = np.array([row["label"] == row["predicted"] for row in rows])
    dark = np.array(color) == "dark"
    split, runs, found, weighted, *_ = read_subsets(folder)
    assert (split, runs) == ("test", 1)
    assert [row.name for row in found] == ["all", "color=dark", "color=light"]  # a value for each image is no subset
    for row, members in zip(found, (dark | True, dark, ~dark), strict=True):
        assert row.n == members.sum() and row.accuracy == pytest.approx(right[members].mean())
        assert row.interval.low < row.accuracy < row.interval.high
        low, high = wilson(int(right[members].sum()), row.n)
        assert (row.interval.low, row.interval.high) == pytest.approx((low, high), abs=0.05)
    by_hand = (right[dark].sum() + 0.25 * right[~dark].sum()) / (dark.sum() + 0.25 * (~dark).sum())
    assert weighted.mean == pytest.approx(by_hand)
    assert main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"| color=dark | {dark.sum()} | {right[dark].mean():.3f} |" in shown
    assert f"a column of subsets has at most 50 values: name with {n} values." in shown


def test_without_subsets_one_line_says_what_is_needed(run, capsys):
    folder = run("one")
    add_columns(folder, {})
    assert main([str(folder)]) == 1
    assert "no column besides path, label, split, group, weight" in capsys.readouterr().err
    for asked in ([], ["--help"]):
        assert main(asked) == 2 and "use: python -m reports.subsets" in capsys.readouterr().err


def test_a_table_s_further_columns_reach_the_run_s_splits(finished_run, two_colors, tmp_path):
    lines = ["path,label,split,camera"]
    for index, path in enumerate(sorted(two_colors.rglob("*.png"))):
        relative = path.relative_to(two_colors)
        lines.append(f"{relative},{relative.parts[1]},{relative.parts[0]},{'old' if index % 2 else 'new'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    config = composed(
        "datamodule=image_folder", f"datamodule.root={two_colors}", f"datamodule.cache={tmp_path / 'cache'}",
        f"datamodule.table={tmp_path / 'table.csv'}",
    )  # fmt: skip
    data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
    data.setup()
    folder = RunFolder(shutil.copytree(finished_run.folder, tmp_path / "run"))
    folder.write_splits(split_columns(data))
    rows = {row["path"]: row["camera"] for row in folder.read_splits()}
    assert rows == {line.split(",")[0]: line.split(",")[3] for line in lines[1:]}
    assert "camera=new" in subset_table(folder.path)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"weight": "much"}, "column weight: could not convert"),
        *(({"weight": weight}, "some are negative, NaN or infinite") for weight in ("nan", "inf", "-1")),
        ({"kind": "a,b"}, "values are missing or too many"),
    ],
    ids=str,
)
def test_tables_that_no_run_writes_are_an_error(run, capsys, column, words):
    folder = run("one")
    n = len((folder / "predictions.csv").read_text().splitlines()) - 1
    add_columns(
        folder,
        {"color": ["dark", "light"] * (n // 2), **{name: [value, *["1"] * (n - 1)] for name, value in column.items()}},
    )
    assert main([str(folder)]) == 1
    assert words in capsys.readouterr().err


def test_a_table_of_predictions_that_was_cut_is_an_error(run, capsys):
    folder = run("one")
    n = len((folder / "predictions.csv").read_text().splitlines()) - 1
    add_columns(folder, {"color": ["red", "blue"] * (n // 2)})
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    (folder / "predictions.csv").write_text("".join(lines[:-1]))
    assert main([str(folder)]) == 1
    assert "lines are missing or changed" in capsys.readouterr().err


def test_a_subset_of_one_image_has_a_wide_interval(run, capsys):
    folder = run("one")
    n = len((folder / "predictions.csv").read_text().splitlines()) - 1
    add_columns(folder, {"color": ["red"] + ["blue"] * (n - 1)})
    assert main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "| color=red | 1 | 1.000 |  | 0.206 to 1.000 |" in printed
    # With a true accuracy of 0.2 it is right with a chance of 0.2, and then 0.207 to 1 does not hold the truth
    assert (
        "For a single network, with fewer than 3 errors the 95% interval of accuracy can cover as little as 84%."
        in printed
    )
    assert "chose the epoch" not in printed


@pytest.mark.parametrize(("split", "made"), [("test", {"data": {"select_on": "test"}}), ("val", {"n": {"val": 80}})])
def test_images_that_chose_the_epoch_are_named(run, capsys, split, made):
    """`reports.compare` and the page have it of the same images."""
    folder = run("one", **made)
    add_columns(folder, {"color": ["dark", "light"] * 40}, split)
    assert main([str(folder)]) == 0
    assert "These images also chose the epoch, so accuracies are too good." in capsys.readouterr().out


def test_debug_runs_do_not_count(run, tmp_path, capsys):
    add_columns(run("one"), {"color": ["dark", "light"] * 40})
    before = subset_table(tmp_path)
    run("two", run={"debug": "trainer.limit_val_batches=2"}, accuracy=0.1)
    after = subset_table(tmp_path)
    assert (
        after == before + f"\nExcluded: {tmp_path / 'two'}: a debug run (trainer.limit_val_batches=2), never ranked.\n"
    )
    assert main([str(tmp_path / "two")]) == 1
    assert "a debug run (trainer.limit_val_batches=2), never ranked" in capsys.readouterr().err


def test_only_finished_runs_of_one_setting_are_its_seeds(run, tmp_path, capsys):
    """Runs of other settings counted as seeds, and of an unfinished one that has no test images val was measured."""
    for seed in (1, 2):
        add_columns(run(f"a/{seed}", seed=seed, accuracy=0.9), {"color": ["dark", "light"] * 40})
    before = subset_table(tmp_path / "a")
    assert before.startswith("Accuracy on subsets of test, 2 runs;")
    run("a/3", seed=3, status="failed")
    assert subset_table(tmp_path / "a") == f"{before}\nExcluded: {tmp_path / 'a' / '3'}: not finished.\n"
    run("b", seed=3, accuracy=0.5, settings={"optimizer.lr": 0.1})
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"ERROR: {tmp_path}: its runs differ in lr; give the folder of one of them, or of its seeds\n"
    )
    for seed, digest in ((1, "before"), (2, "after")):
        change_record(tmp_path / "a" / str(seed), model={"weights_digest": digest})
    assert main([str(tmp_path / "a")]) == 1
    assert "runs differ in the content of the file of model.weights; give" in capsys.readouterr().err
    assert main([str(tmp_path / "a" / "3")]) == 1 and "no finished run; finish it first" in capsys.readouterr().err


def test_of_several_seeds_the_table_has_the_spread_of_each_row_by_hand(run, tmp_path):
    light = np.arange(80) % 2 == 1
    weights, right = np.where(light, 0.5, 2.0), []
    kinds = {"color": np.where(light, "light", "dark"), "bin": np.arange(80) % 50, "step": np.arange(80) % 51}
    for seed, accuracy in ((1, 0.9), (2, 0.7), (3, 0.6)):
        rows = add_columns(
            run(f"{seed}", seed=seed, accuracy=accuracy),
            {name: [str(each) for each in values] for name, values in {**kinds, "weight": weights}.items()},
        )
        right.append([row["label"] == row["predicted"] for row in rows])
    shown = subset_table(tmp_path)
    for name, members in (("all", light | True), ("color=dark", ~light), ("color=light", light)):
        each = np.mean(np.array(right)[:, members], axis=1)
        assert f"| {name} | {members.sum()} | {each.mean():.3f} | {each.std(ddof=1):.3f} |" in shown
    each = np.average(right, axis=1, weights=weights)
    assert f"All images, weighted as in training: {each.mean():.3f} (SD of runs {each.std(ddof=1):.3f})." in shown
    assert "For a single network" not in shown
    assert "| bin=49 |" in shown and "a column of subsets has at most 50 values: step with 51 values." in shown


def test_weights_that_are_all_0_give_no_weighted_accuracy(run):
    folder = run("one")
    add_columns(folder, {"color": ["dark", "light"] * 40, "weight": ["0"] * 80})
    assert read_subsets(folder).weighted is None and "weighted as in training" not in subset_table(folder)


def test_folds_are_refused_with_a_way_out(run, tmp_path, capsys):
    """The message was that they were tested on different images, to compare runs with the same splits."""
    for fold in (0, 1):
        folder = run(f"fold-{fold}", settings={"datamodule.folds": 2, "datamodule.fold": fold})
        add_columns(folder, {"color": ["dark", "light"] * 40})
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"ERROR: {tmp_path}: its runs are folds, each with other images; give the folder of one of them\n"
    )
    assert main([str(tmp_path / "fold-1")]) == 0


def test_a_seed_that_ran_twice_is_refused(run, tmp_path, capsys):
    """It counted as two seeds, which agree on every image."""
    for name in ("a", "b"):
        add_columns(run(name, seed=3), {"color": ["dark", "light"] * 40})
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"ERROR: {tmp_path}: seed 3 appears twice, which would count as two; delete one\n"


def test_a_folder_without_runs_is_named_as_it_was_given(tmp_path, capsys):
    for place, words in (
        (tmp_path, "no result.json in it or below; e.g. "),
        (tmp_path / "x", "no such folder; give the one "),
    ):
        assert main([str(place)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"ERROR: {place}: {words}") and error.endswith("e.g. outputs/MODEL/DATE\n")
