"""Two networks compared on their images: what is paired, what is refused, and the words."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom, norm

from common.atomic_io import write_csv
from common.predictions_csv import correct_matrix, pair, read_predictions
from common.run_folder import RunFolder
from common.run_record import DataInfo, ModelInfo, RunInfo, RunRecord, write_record
from common.text import format_interval
from evaluation.intervals import accuracy_interval, format_accuracy, proportion
from evaluation.paired_tests import compare_pair
from reports.columns import result_table
from reports.compare import main
from tests.support.fake_runs import judged, make_run
from tests.support.helpers import PROJECT

LABELS = np.array([0, 1] * 20)


@pytest.fixture
def run(tmp_path):
    """Write the folder of a run that is wrong on the given images; the order of its lines follows its name."""

    def write(name, wrong=(), *, seed=1, split="test", prints=None, labels=LABELS, classes=("cat", "dog"),
              status="finished", data="d1", select_on="val", settings=None):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"optimizer.lr": 1e-3, "seed": seed, **(settings or {})}
        about = RunInfo(name=name, seed=seed, choices={"model": "resnet18"}, settings=settings)
        record = RunRecord(status=status, run=about, data=DataInfo(fingerprint=data, select_on=select_on))
        record.folder = RunFolder(folder)
        write_record(record)
        rows = []
        for image, label in enumerate(labels):
            predicted = 1 - label if image in wrong else label
            probabilities = {
                f"p_{name}": f"{0.9 if k == predicted else 0.1:.6f}" for k, name in enumerate(("cat", "dog"))
            }
            rows.append({
                "path": f"{name}/{image:03}.png",
                "fingerprint": prints[image] if prints else f"{image * 7919 % 1000:04x}",
                "label": ("cat", "dog")[label],
                "predicted": ("cat", "dog")[predicted],
                **{f"p_{name}": probabilities[f"p_{name}"] for name in classes},
            })  # fmt: skip
        np.random.default_rng(len(name) + seed).shuffle(rows)
        write_csv(record.folder.predictions(split), list(rows[0]), rows)
        return folder

    return write


@pytest.fixture
def compared(capsys):
    def call(a, b):
        status = main([str(a), str(b)])
        printed = capsys.readouterr()
        assert (status == 0) == (printed.err == "") and (status == 0 or printed.out == "")
        return printed.out.splitlines() if status == 0 else printed.err

    return call


def test_two_runs(run, compared):
    a, b = run("a", {0, 1}), run("b", {1, 2, 3, 4, 5, 6, 7, 8, 9}, classes=("dog", "cat"))
    assert compared(a, b) == [
        f"A, {a}: {format_accuracy(proportion(38, 40))}",
        f"B, {b}: {format_accuracy(proportion(31, 40))}",
        "40 test images",
        "only A is right on 8, only B on 1",
        "A - B: 0.1750 (95% interval 0.034 to 0.330), p = 0.039 (exact McNemar test)",
        "A is better with 40 images",
        "A in place of B: good enough (margin 0.02): 0.175 above, not below (95%) with 40 test images and 1 seed",
        "B in place of A: not shown to be good enough (margin 0.02): 0.175 below, at least 0.034 below (95%) with 40 test "
        "images and 1 seed",
        "with one seed each this is about these trained networks; comparing their settings takes 3 seeds or more",
        "for a single network, with fewer than 3 errors the 95% interval of accuracy can cover as little as 84%",
        "for a single network, with 40 images or fewer the 95% interval of accuracy can cover as little as 91%",
    ]


def test_an_interval_that_covers_less_is_not_shown_without_a_word(run, compared):
    """The screen of a run, its card and the page have the caveat, which this command lacked."""

    def covered(n, accuracy):
        counts, z = np.arange(n + 1), norm.ppf(0.975)
        off = np.abs(counts / n - accuracy) <= z * np.sqrt(accuracy * (1 - accuracy) / n)  # Wilson's: the score test
        return binom.pmf(counts[off], n, accuracy).sum()

    for n, errors in ((40, 0), (60, 1), (60, 12)):
        near = np.clip(1 - errors / n + np.linspace(-0.03, 0.03, 61), 0.5, 0.9999)
        few = min(covered(n, accuracy) for accuracy in near) < 0.93 and (n <= 40 or errors < 3)
        labels = np.array([0, 1] * (n // 2))
        sides = (run(f"{side}{n}{errors}", range(errors), labels=labels) for side in "ab")
        assert any("can cover as little as" in line for line in compared(*sides)) is bool(few)


def test_images_are_paired_by_their_pixels_and_never_by_line(run):
    a, b = (read_predictions(RunFolder(run(name, {0, 5, 39})), "test") for name in ("a", "another name"))
    assert a.fingerprints == b.fingerprints == sorted(a.fingerprints) and a.paths != b.paths
    assert (correct_matrix([a, b]).sum(axis=1) == 37).all() and (a.predicted == b.predicted).all()
    assert a.probabilities[np.arange(40), a.predicted] == pytest.approx(0.9)


def test_equal_pixels_are_paired_by_occurrence(run):
    prints = ["same"] * 10 + [f"p{i}" for i in range(30)]
    a, b = (read_predictions(RunFolder(run(name, {0, 1}, prints=prints)), "test") for name in ("a", "another"))
    assert correct_matrix([a, b]).sum() == 76 and not (a.labels != b.labels).any()
    assert [path.partition("/")[2] for path in a.paths] == [path.partition("/")[2] for path in b.paths]


def test_other_images_are_refused(run, compared):
    prints = [f"{i:03}" for i in range(40)]
    a, b = run("a", prints=prints), run("b", prints=[*prints[:19], *(f"x{i}" for i in range(20)), "000"])
    message = compared(a, b)
    assert message.startswith(
        f"ERROR: {a} and {b} were tested on different images: 21 only in {a}, 21 only in {b}; e.g. a/0"
    )
    assert message.count("\n") == 1
    c = run("c", prints=[*prints[:10], *(f"x{i}" for i in range(20))], labels=LABELS[:30])
    assert f"20 only in {c}, 30 only in {a}; e.g. c/0" in compared(c, a)


def test_after_the_test_split_has_grown_the_common_images_are_compared(run, compared):
    """As if both had been tested on these images only; of three with equal pixels in one, two in the other, two count."""
    prints = [f"{i:03}" for i in range(32)]
    prints[28] = prints[30] = "same"
    old, new = {0, 1, 2, 31}, {2, 3}
    a = run("a", old, prints=prints, labels=LABELS[:32])
    b = run("b", new | {35, 36}, prints=[*prints, *(f"x{i}" for i in range(8))])
    small = run("small", new, prints=prints, labels=LABELS[:32])
    found, expected = compared(a, b), compared(a, small)
    assert "32 test images that both have, of 32 of A and 40 of B" in found and "32 test images" in expected
    assert [
        line.replace("32 test images that both have, of 32 of A and 40 of B", "32 test images") for line in found
    ] == [line.replace(str(small), str(b)) for line in expected]
    more = run("more", new, prints=[*prints, "same", *(f"y{i}" for i in range(7))])
    assert "32 test images that both have, of 32 of A and 40 of B" in compared(a, more)


def test_other_labels_and_classes_are_refused(run, compared):
    prints = [f"{i:03}" for i in range(40)]
    labels = LABELS.copy()
    labels[[4, 7]] = 1 - labels[[4, 7]]
    a, b = run("a", prints=prints), run("b", prints=prints, labels=labels)
    assert "label 2 images differently; e.g. a/004.png: cat, dog" in compared(a, b)
    first, second = (read_predictions(RunFolder(folder), "test") for folder in (a, b))
    with pytest.raises(ValueError, match=r"different classes \(only in .*a: dog; only in .*b: cow\); compare"):
        pair(first, second._replace(classes=["cat", "cow"]))
    with pytest.raises(ValueError, match="no runs"):
        correct_matrix([])


def test_seeds_are_matched_by_their_number(run, compared, tmp_path):
    wrong = {
        ("a", 1): {0},
        ("a", 2): {0, 1},
        ("a", 3): {5},
        ("b", 1): {0, 3},
        ("b", 2): {0, 1, 7, 8},
        ("b", 3): {9, 11},
    }
    for (side, seed), images in wrong.items():  # the folders' order is not that of the seeds
        run(f"{side}/{'zyx'[seed - 1]}{side}", images, seed=seed)
    lines = compared(tmp_path / "a", tmp_path / "b")
    assert lines[0].startswith(f"A, {tmp_path / 'a'}: 0.9667 (mean of seeds 1, 2, 3; standard deviation 0.0144; 95%")
    assert lines[3] == "only A is right on 5, only B on 1, summed over 3 seeds"
    right = np.ones((2, 3, 40), bool)
    for (side, seed), images in wrong.items():
        right["ab".index(side), seed - 1, list(images)] = False
    found, low = compare_pair(*right, 0.02), accuracy_interval(right[0]).low
    assert f"; 95% interval {format_interval(low, 1.0)}, over seeds and images" in lines[0]
    low, high = math.floor(1000 * found.low) / 1000, math.ceil(1000 * found.high) / 1000
    assert f"A - B: {found.difference:.4f} (95% interval {low:.3f} to {high:.3f}), p = 0." in lines[4]
    assert lines[4].endswith("(seeds and images as random effects)")
    assert lines[5] == "which is better is not decided with 40 images and 3 seeds" and len(lines) == 8
    assert lines[6].startswith("A in place of B: not shown to be good enough (margin 0.02): 0.033 above, and up to 0.0")


@pytest.mark.parametrize("naming", ["ab", "a", "b"])
def test_images_in_groups_are_not_counted_as_single_ones(run, compared, naming):
    folders = [run("a", set(range(0, 8))), run("b", set(range(4)))]
    for folder in (each for each in folders if each.name in naming):  # of the same images one run may name no groups
        rows = [{"path": f"{folder.name}/{i:03}.png", "label": ("cat", "dog")[i % 2], "split": "test", "group": f"p{i // 4}"}
                for i in range(40)]  # fmt: skip
        write_csv(folder / "splits.csv", list(rows[0]), rows)
    lines = compared(*folders)
    groups, right = np.arange(40) // 4, np.array([np.arange(40) >= 8, np.arange(40) >= 4])
    found = compare_pair(right[:1], right[1:], 0.02, groups)
    assert lines[2] == "40 test images in 10 groups, which intervals and tests take into account"
    low, high = math.floor(1000 * found.low) / 1000, math.ceil(1000 * found.high) / 1000
    assert f"95% interval {low:.3f} to {high:.3f}), p = {found.p_value:.2g} (t test on groups)" in lines[4]
    assert found.low < compare_pair(right[:1], right[1:], 0.02).low  # all four of a group go one way


@pytest.mark.parametrize("margin", ["0", "1", "-0.02", "nan"])
def test_a_margin_that_is_none_is_refused(run, capsys, margin):
    assert main([str(run("a")), str(run("b")), "--good-enough", margin]) == 1
    assert capsys.readouterr().err.startswith(
        f"ERROR: --good-enough={float(margin)}: use a difference in accuracy above 0"
    )


def test_other_seeds_are_refused(run, compared, tmp_path):
    for side, seeds in (("a", (1, 2)), ("b", (2, 3, 4)), ("c", (1, 3))):
        for seed in seeds:
            run(f"{side}/{seed}", seed=seed)
    found = compared(tmp_path / "a", tmp_path / "c")
    assert f"seeds only in {tmp_path / 'a'}: 2; only in {tmp_path / 'c'}: 3; run the missing ones" in found
    assert f"seeds only in {tmp_path / 'a'}: 1; only in {tmp_path / 'b'}: 3, 4" in compared(
        tmp_path / "a", tmp_path / "b"
    )
    assert "seeds only in" in compared(tmp_path / "a" / "1", tmp_path / "b")


@pytest.mark.parametrize(("second", "message"), [
    ({"settings": {"optimizer.lr": 0.1}}, "more than the seed: optimizer.lr=0.001 in 1, optimizer.lr=0.1 in 2"),
    ({"settings": {"loss.gamma": 2}}, "more than the seed: nothing in 1, loss.gamma=2 in 2"),
    ({"data": "d2"}, "1 and 2 have different data or splits (fingerprint d1, d2)"),
    ({"seed": 1}, "a seed appears twice (1, 1)"),
])  # fmt: skip
def test_runs_that_differ_in_more_than_the_seed_are_refused(run, compared, tmp_path, second, message):
    run("a/1", seed=1)
    run("a/2", **{"seed": 2, **second})
    found = compared(tmp_path / "a", run("b"))
    assert found.startswith(f"ERROR: {tmp_path / 'a'}: ") and message in found


def test_runs_of_one_name_are_named_with_their_folders(run, compared, tmp_path):
    """Those of smallest.py."""
    run("a/runs/net"), run("a/test/net", settings={"loss.gamma": 2})
    assert "nothing in runs/net, loss.gamma=2 in test/net;" in compared(tmp_path / "a", run("b"))


@pytest.mark.parametrize(("setting", "field"), [("model.weights", "weights_digest"), ("teacher", "teacher_digest")])
def test_seeds_that_began_with_another_content_of_a_file_are_refused(run, compared, tmp_path, setting, field):
    for seed, digest in ((1, "before"), (2, None), (3, "after")):  # None: of a version without it
        record = RunRecord.read(run(f"a/{seed}", seed=seed))
        record.model = ModelInfo(**{field: digest})
        write_record(record)
        run(f"b/{seed}", seed=seed)
    message = f"the file of {setting} changed between the starts of 1 and 3 (model.{field} before, after)"
    assert message in compared(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a/3").rename(tmp_path / "3")
    (tmp_path / "b/3").rename(tmp_path / "another")
    assert "40 test images" in compared(tmp_path / "a", tmp_path / "b")  # of an older version nothing is known


def test_two_single_runs_may_have_different_seeds(run, compared):
    assert "only A is right on 2, only B on 1" in compared(run("a", {0}, seed=1), run("b", {1, 2}, seed=2))


def test_unfinished_runs_below_a_folder_are_excluded_and_listed(run, compared, tmp_path):
    run("a/1", seed=1)
    run("a/2", seed=2, status="failed")
    lines = compared(tmp_path / "a", run("b"))
    assert lines[-1] == f"excluded: {tmp_path / 'a' / '2'}: not finished"
    assert "no finished run (status failed)" in compared(tmp_path / "a" / "2", tmp_path / "b")


def test_validation_images_replace_missing_test_images(run, compared):
    a, b = run("a", {0}, split="val"), run("b", {1}, split="val")
    run("b", {1, 2, 3})  # a test table on one side only
    lines = compared(a, b)
    assert lines[2] == "40 validation images (they also chose the epoch, so accuracies are too good)"
    assert lines[3] == "only A is right on 1, only B on 1"


def test_runs_selected_on_test_images_are_named(run, compared):
    lines = compared(run("a", select_on="test"), run("b"))
    assert (
        lines[-1].endswith("a: the test images chose the epoch, so test accuracies are too good") and len(lines) == 11
    )


def test_seeds_that_are_always_right_still_have_an_interval(run, compared, tmp_path):
    for side in "ab":
        for seed in (1, 2):
            run(f"{side}/{seed}", seed=seed)
    lines = compared(tmp_path / "a", tmp_path / "b")
    assert lines[0].startswith(
        f"A, {tmp_path / 'a'}: 1.0000 (mean of seeds 1, 2; standard deviation 0.0000; 95% interval 0.8"
    )
    assert lines[4] == "A - B: 0.0000 (95% interval -0.088 to 0.088), p = 1 (seeds and images as random effects)"
    assert lines[-1].startswith("with 2 seeds each this is about these trained networks")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda t: t[: len(t) // 2].rpartition("\n")[0] + "\nx,y", "cut off in its last line"),
    (lambda t: t.rpartition(",")[0] + "\n", "line 41: values are missing or too many"),
    (lambda t: t.replace("fingerprint", "print", 1), "column fingerprint is missing; found path, print"),
    (lambda t: t.replace("p_dog", "dog", 1), "column p_CLASS is missing"),
    (lambda t: t.splitlines(keepends=True)[0], "there are no images"),
    (lambda t: t.replace(",cat,", ",cow,", 1), "label 'cow' is none of the classes cat, dog"),
    (lambda t: t.replace("0.900000", "nan", 1), "line 2: probabilities are from 0 to 1"),
    (lambda t: t.replace("0.900000", "much", 1), "line 2: could not convert"),
    (lambda t: "", "cut off"),
])  # fmt: skip
def test_spoiled_tables_are_named(run, compared, spoil, message):
    a, b = run("a"), run("b")
    path = b / "predictions.csv"
    path.write_text(spoil(path.read_text()))
    found = compared(a, b)
    assert found.startswith(f"ERROR: {path}: ") and message in found


def test_a_table_that_is_not_that_of_its_record_is_refused(compared, tmp_path):
    a, b = (make_run(tmp_path / name, settings={"note": "two\nlines\x1b[2J"}) for name in "ab")
    assert "80 test images" in compared(a, b)
    for each in (a, b):  # both, so that they have the same images
        path = each / "predictions.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:21]))
    assert compared(a, b).startswith(
        f"ERROR: {a / 'predictions.csv'}: 17 of 20 images are right, but 64 of 80 in result.json: lines are missing or changed"
    )


def test_names_of_other_people_are_printed_as_one_line(compared, tmp_path):
    a = make_run(tmp_path / "a", classes=("two\nlines", "\x1b[2J"), settings={"note": "two\nlines"})
    b = make_run(tmp_path / "b", classes=("two\nlines", "\x1b[2J"), settings={"note": "\x1b[2J"})
    assert any("note=two" in line and "lines, B has" in line for line in compared(a, b))
    found = compared(a, make_run(tmp_path / "c"))
    assert found.count("\n") == 1 and "\x1b" not in found


def test_what_is_no_run_is_named(run, compared, tmp_path):
    a = run("a")
    none = tmp_path / "none"
    assert compared(a, none) == (
        f"ERROR: {none}: no such folder; give the one that train.py printed at its end, e.g. outputs/MODEL/DATE\n"
    )
    (tmp_path / "empty").mkdir()
    assert "no result.json in it or below; e.g. outputs/MODEL/DATE" in compared(tmp_path / "empty", a)
    b = run("b")
    (b / "predictions.csv").unlink()
    assert f"{a / 'predictions_val.csv'}: no such file; run the stage test" in compared(a, b)
    (b / "result.json").write_text((b / "result.json").read_text()[:40])
    assert "not a whole record" in compared(a, b)
    run("c/2", seed=1)
    (tmp_path / "c" / "1").mkdir()
    (tmp_path / "c" / "1" / "result.json").write_text('{"schema": 7}')
    assert compared(a, tmp_path / "c")[-1].startswith(
        f"excluded: {tmp_path / 'c' / '1'}/result.json: a record of schema 7"
    )


def test_the_command_line(run):
    command = [sys.executable, "-m", "reports.compare"]
    ran = subprocess.run([*command, run("a"), run("b", {3})], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "only A is right on 1, only B on 0" in ran.stdout and ran.stderr == ""
    ran = subprocess.run([*command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("usage: python -m reports.compare [-h] [--good-enough MARGIN] RUN_A RUN_B")
    light = "import sys, reports.compare, evaluation.calibration; sys.exit(bool({'torch', 'scipy.stats'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", light], cwd=PROJECT, check=True)


def test_what_training_writes_can_be_compared(finished_run, compared):
    lines = compared(finished_run.folder, finished_run.folder)
    accuracy = format_accuracy(RunRecord.read(finished_run.folder).test.accuracy)
    assert lines[0] == f"A, {finished_run.folder}: {accuracy}"
    assert lines[3] == "only A is right on 0, only B on 0"


def test_what_is_compared_with_itself_is_not_called_good_enough(run, compared, tmp_path):
    a, copy = run("a/1", {0, 1}), run("copy/1", {0, 1})
    beside = compared(a, copy)  # other runs, even if they predict the same
    assert sum("in place of" in line for line in beside) == 2
    (tmp_path / "link").symlink_to(a)
    for same in (a, a / "..", a / ".." / "1", tmp_path / "link"):
        lines = compared(a, same)
        assert lines[4] == "A and B are the same run, so there is nothing to decide"
        assert not any("in place of" in line for line in lines)
    run("a/2", {3}, seed=2)
    assert "A and B are the same runs, so there is nothing to decide" in compared(a.parent, a.parent)


def test_what_the_two_differ_in_is_named(run, compared):
    a, b = run("a", settings={"model.keep": 4}), run("b", {1}, settings={"model.keep": 12, "optimizer.lr": 0.1})
    assert compared(a, b)[2] == "A has lr=0.001 keep=4, B has lr=0.1 keep=12"
    assert not any(line.startswith("A has") for line in compared(a, run("c", settings={"model.keep": 4})))


def test_the_table_of_a_report_has_the_interval_of_the_comparison(tmp_path, capsys):
    """To the last digit, outwards: of 10 of 80 images that only the best gets right it is -0.21503 to -0.06934."""
    worse, best = (
        make_run(
            tmp_path / name, epochs=0, choices={"model": name}, wrong={"val": set(range(n)), "test": set(range(n))}
        )
        for name, n in (("worse", 10), ("best", 0))
    )
    assert main([str(worse), str(best)]) == 0
    assert "A - B: -0.1250 (95% interval -0.216 to -0.069)" in capsys.readouterr().out
    table = result_table(judged(tmp_path).groups[0])
    assert table.lines[1][table.titles.index("difference")].detail == "-0.216 to -0.069"
