"""Rows of a report: which runs are one row, which rows are one group, their accuracies, ranks and costs."""

import math
import shutil

import numpy as np
import pytest
from scipy.stats import binomtest, t

from common.run_folder import RunFolder
from common.run_record import Latency, Proportion, increment_test_evaluations
from evaluation.paired_tests import compare_pair
from reports.accuracy import CorrectnessMatrix
from reports.columns import note, result_table
from reports.compare import compare, load
from reports.significance import answer
from tests.support.fake_runs import change_record, judged, make_run
from tests.support.helpers import SIMPLE_CNN

COSTS = {"a": 1e7, "b": 1e6, "c": 1e5}  # MACs of models


def wilson_by_scipy(correct, n):
    interval = binomtest(correct, n).proportion_ci(method="wilson")
    return pytest.approx((interval.low, interval.high))


def test_seeds_are_one_row_with_mean_and_standard_deviation(run, summary):
    for seed, missed in ((1, 12), (2, 18), (3, 15)):
        run(f"s{seed}", seed=seed, wrong={"val": set(range(missed)), "test": set(range(40))})
    run("other", choices={"optimizer": "sgd"}, accuracy=0.5)
    best, other = summary().groups[0].rows
    values = np.array([48, 42, 45]) / 60
    val = best.accuracies["val"]
    assert (best.name, best.seeds, val.n, val.n_seeds) == ("optimizer=adam", [1, 2, 3], 60, 3)
    assert val.value == pytest.approx(values.mean())
    assert val.standard_deviation == pytest.approx(math.sqrt(((values - values.mean()) ** 2).sum() / 2))
    assert (
        val.high - val.low > 2 * 1.96 * math.sqrt(0.75 * 0.25 / 60) * 0.9
    )  # the images by themselves give nearly this
    test = best.accuracies["test"]  # half of the images, in all seeds: t over images and four pseudo-images
    half = t.ppf(0.975, 83) * np.std([0, 1] * 42, ddof=1) / math.sqrt(84)
    assert (test.low, test.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert other.accuracies["val"].standard_deviation is None


def test_without_predictions_the_interval_is_over_seeds_only(run, summary):
    for seed, missed in ((1, 12), (2, 18)):
        (run(f"s{seed}", seed=seed, wrong={"val": set(range(missed))}) / "predictions_val.csv").unlink()
    val = summary().groups[0].rows[0].accuracies["val"]
    half = t.ppf(0.975, 1) * np.std([0.8, 0.7], ddof=1) / math.sqrt(2)
    assert val.value == pytest.approx(0.75)
    assert (val.low, val.high) == (pytest.approx(max(0, 0.75 - half)), pytest.approx(min(1, 0.75 + half)))


@pytest.mark.parametrize("missing", ["predictions.csv", "splits.csv"])
def test_an_interval_is_as_wide_as_the_record_has_it_of_images_in_groups(run, summary, missing):
    """40 of 80 images in pairs that are alike count as 20 of 40; their groups are in splits.csv."""
    folder = run("a", wrong={"test": set(range(40))})
    low, high = binomtest(20, 40).proportion_ci(method="wilson")
    change_record(folder, test={"accuracy": Proportion(0.5, low, high, 40, 80)})
    (folder / missing).unlink(missing_ok=True)
    row = summary().groups[0].rows[0]
    assert row.accuracies["test"][1:3] == pytest.approx((low, high))
    run("b", seed=2, wrong={"test": set(range(40))})
    test = summary().groups[0].rows[0].accuracies["test"]
    assert test.n_seeds == 2 and test.low <= low + 1e-9 and test.high >= high - 1e-9


def test_a_table_that_is_not_that_of_its_record_gives_no_interval_of_its_own(run, summary, caplog):
    folder = run("a")
    path = folder / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:21]))
    row = summary().groups[0].rows[0]
    assert "17 of 20 images are right, but 64 of 80 in result.json" in row.outcomes["test"]
    assert "test images are not compared: " in caplog.text
    assert row.accuracies["test"].n == 80 and row.accuracies["test"][1:3] == wilson_by_scipy(64, 80)


def test_folds_of_a_cross_validation_are_one_prediction_an_image(run, summary):
    for fold, missed in enumerate((2, 5, 3)):
        settings = {"datamodule.fold": fold, "datamodule.folds": 3}
        run(f"f{fold}", settings=settings, n={"val": 20}, wrong={"val": set(range(missed))},
            data={"fingerprint": f"fold{fold}", "folds": 3})  # fmt: skip
    (group,) = summary().groups
    (row,) = group.rows
    val = row.accuracies["val"]
    assert (row.folds, val.value, val.n) == ([0, 1, 2], 50 / 60, 60)
    assert (val.low, val.high) == wilson_by_scipy(50, 60)
    assert row.outcomes["val"].correct.shape == (1, 60)
    assert "cross-validation in 3 folds" in group.heading


def test_the_test_images_of_several_folds_count_once(run, summary):
    """As where each fold's network is evaluated on test, which its cross-validation keeps closed."""
    for fold, missed in enumerate((20, 26, 20)):
        settings = {"datamodule.fold": fold, "datamodule.folds": 3}
        run(f"f{fold}", settings=settings, n={"val": 20, "test": 80}, wrong={"test": set(range(missed))},
            data={"fingerprint": f"fold{fold}", "folds": 3})  # fmt: skip
    (row,) = summary().groups[0].rows
    test = row.accuracies["test"]
    assert (test.value, test.n) == (pytest.approx(1 - 22 / 80), 80)
    assert (test.low, test.high) == wilson_by_scipy(58, 80)
    assert [(loss.wrong, loss.runs) for loss in row.top_losses.losses] == [(3, 3)] * 12
    assert len({loss.path for loss in row.top_losses.losses}) == 12


def test_a_seed_that_lacks_a_fold_is_not_counted_with_the_images_of_the_others(run, summary):
    for seed, folds in ((1, 4), (2, 3)):
        for fold in range(folds):
            settings = {"datamodule.fold": fold, "datamodule.folds": 4}
            run(f"s{seed}f{fold}", seed=seed, settings=settings, n={"val": 40}, wrong={"val": {fold, 9, 19, 29}},
                data={"fingerprint": f"fold{fold}", "folds": 4})  # fmt: skip
    (group,) = summary().groups
    val = group.rows[0].accuracies["val"]
    assert (val.value, val.n, val.n_seeds) == (0.9, 120, 2)
    assert (val.low, val.high) == wilson_by_scipy(
        108, 120
    )  # two seeds that agree show no more than the fewer images do
    table = result_table(group)
    assert table.lines[0][table.titles.index("folds")].text == "3 to 4 of 4"


def test_rows_that_lack_folds_are_compared_on_those_that_both_have(run, summary):
    missed = {"a": (set(), {1}, set()), "b": ({0}, set(range(9)), {0, 1}), "c": ({0, 1, 2}, {0, 1}, {3})}

    def fold_of(model, seed, fold):
        settings, data = {"datamodule.fold": fold, "datamodule.folds": 3}, {"fingerprint": f"fold{fold}", "folds": 3}
        return run(f"{model}{seed}f{fold}", seed=seed, settings=settings, choices={"model": model}, n={"val": 20},
                   wrong={"val": missed[model][fold]}, data=data, cost=(COSTS[model], 1e5, 5))  # fmt: skip

    def found():
        return {row.changed["model"]: row.comparison for row in summary().groups[0].rows[1:]}

    folders = [fold_of(model, seed, fold) for model in "abc" for seed in (1, 2) for fold in range(3)]
    lost = {folder.name: folder for folder in folders}
    assert [(each.pair.n, each.n_folds) for each in found().values()] == [(60, None)] * 2
    for name in ("b1f1", "c2f0", "c2f2"):
        shutil.rmtree(lost[name])
    b, c = found()["b"], found()["c"]
    assert (b.pair.n, b.pair.n_seeds, b.n_folds, b.pair.difference) == (40, 2, 2, pytest.approx(-3 / 40))
    assert b.details.endswith(", 2 common folds")
    # Of its second seed one fold is left, so the first by itself has more
    assert (c.pair.n, c.pair.n_seeds, c.n_unused_seeds, c.n_folds) == (60, 1, 1, None)
    assert c.pair.difference == pytest.approx(-5 / 60) and c.details.endswith(", 1 common seed")
    shutil.rmtree(lost["a1f1"])
    assert (found()["b"].pair.n, found()["b"].n_folds) == (40, 2)  # the same two, though the table has means over three
    for name in ("a2f1", "c1f0", "c1f2"):
        shutil.rmtree(lost[name])
    assert found()["c"].reason == "it has no fold in common with the best"
    text = (
        "model=b with 1M multiply-accumulates, 0.1 times as many as model=a, on the 2 folds that both have: 0.075 below"
    )
    assert text in " ".join(answer(summary().groups[0]))


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_common_folds_give_the_comparison_of_rows_that_have_only_these(run, summary, tmp_path, seeds):
    """Groups of images count, also where only one of the rows names them."""
    generator = np.random.default_rng(0)

    def fold_of(where, model, seed, fold, wrong):
        settings, data = {"datamodule.fold": fold, "datamodule.folds": 3}, {"fingerprint": f"fold{fold}", "folds": 3}
        folder = run(f"{where}/{model}{seed}f{fold}", seed=seed, settings=settings, choices={"model": model},
                     n={"val": 40}, wrong={"val": wrong}, data=data)  # fmt: skip
        if model == "a":
            lines = [f"{fold}/val/{image:05}.png,cat,val,{fold}-{image // 4}" for image in range(40)]
            (folder / "splits.csv").write_text("\n".join(["path,label,split,group", *lines]))

    for seed in seeds:
        for model, rate in (("a", 0.05), ("b", 0.3)):
            for fold in range(3):
                wrong = set(np.flatnonzero(generator.random(40) < rate).tolist())
                for where in ("lacks", "has"):
                    if fold < 2 or (where == "lacks" and model == "a"):
                        fold_of(where, model, seed, fold, wrong)
    lacks, has = (judged(tmp_path / "lacks"), judged(tmp_path / "has"))
    pairs = [each.groups[0].rows[1].comparison.pair._replace(spread=None) for each in (lacks, has)]
    assert pairs[0] == pairs[1] and pairs[0].n == 80
    right = [row.outcomes["val"].correct for row in reversed(has.groups[0].rows)]
    of = np.arange(80) // 4
    assert (
        pairs[0]
        == compare_pair(*right, 0.02, of)._replace(spread=None)
        != compare_pair(*right, 0.02)._replace(spread=None)
    )


def test_equal_accuracies_are_ranked_by_macs(run, summary):
    wrong = {"val": {1, 2}, "test": {3}}
    run("large", choices={"model": "large"}, wrong=wrong, cost=(2e9, 1e7, 9))
    run("small", choices={"model": "small"}, wrong=wrong, cost=(1e6, 1e5, 3))
    run("worse", choices={"model": "worse"}, wrong={"val": {1, 2, 3}}, cost=(1e5, 1e5, 3))
    assert [(row.rank, row.name) for row in summary().groups[0].rows] == [
        (1, "model=small"),
        (2, "model=large"),
        (3, "model=worse"),
    ]


def test_rows_on_other_images_are_a_group_of_their_own(run, summary):
    run("a", choices={"model": "a"}, accuracy=0.9)
    run("b", choices={"model": "b"}, accuracy=0.5)
    run("c", choices={"model": "b", "datamodule": "elpv"}, data={"fingerprint": "d2"})
    groups = summary().groups
    assert [[row.name for row in group.rows] for group in groups] == [["model=a", "model=b"], ["b"]]
    assert groups[1].rows[0].comparison.p_value is None
    assert "only setting here" in answer(groups[1])[-1]


def test_rows_of_other_training_images_are_compared_on_the_same_test_images(run, summary):
    for fraction, n in ((0.25, 50), (0.5, 100), (1, 200)):
        data = {"fingerprint": f"all{n}", "fingerprint_val_test": "same", "n_train": n}
        run(f"f{fraction}", settings={"datamodule.train_fraction": fraction}, accuracy=0.5 + 0.4 * fraction, data=data)
    run("other", choices={"model": "b"}, data={"fingerprint": "d9", "fingerprint_val_test": "other", "n_train": 300})
    same, other = summary().groups
    assert [row.changed["train_fraction"] for row in same.rows] == ["1", "0.5", "0.25"]
    assert [row.comparison.reason for row in same.rows] == ["the best", None, None]
    assert "50 to 200 train, 60 val, 80 test images, fingerprint of val and test same" in same.heading
    assert [row.name for row in other.rows] == ["b"] and "300 train" in other.heading
    table = result_table(same)
    assert [str(line[table.titles.index("training images")]) for line in table.lines] == ["200", "100", "50"]
    assert "training images" not in result_table(other).titles


def test_records_without_a_fingerprint_of_val_and_test_are_grouped_by_that_of_all(run, summary):
    run("old", choices={"model": "old"}, data={"fingerprint": "d1"})
    run("new", choices={"model": "new"}, data={"fingerprint": "d1", "fingerprint_val_test": "t1"})
    run("part", choices={"model": "part"}, data={"fingerprint": "d2", "fingerprint_val_test": "t1"})
    run("other", choices={"model": "other"}, data={"fingerprint": "d3"})
    assert [{row.name for row in s.rows} for s in summary().groups] == [
        {"model=old", "model=new", "model=part"},
        {"other"},
    ]


def test_repetitions_on_other_training_images_are_rows_of_their_own(run, summary):
    for seed, own in ((1, "a" * 16), (2, "b" * 16)):
        run(f"s{seed}", seed=seed, data={"fingerprint": own, "fingerprint_val_test": "same"})
    (group,) = summary().groups
    assert [row.seeds for row in group.rows] in ([[1], [2]], [[2], [1]])
    table = result_table(group)
    cells = {str(line[table.titles.index("training images")]) for line in table.lines}
    assert cells == {"200 (fingerprint aaaaaa…)", "200 (fingerprint bbbbbb…)"}


@pytest.mark.parametrize("full", [True, False], ids=["with fingerprint_full", "of a version without it"])
def test_seeds_that_train_on_parts_of_their_own_are_one_row_unless_the_data_changed(run, summary, full):
    def made(name, seed, *, val_test="v1", n_train=100, all_images="f1"):
        data = {"fingerprint": f"part {seed}", "fingerprint_val_test": val_test, "n_train": n_train}
        data |= {"fingerprint_full": all_images} if full else {}
        run(name, seed=seed, settings={"datamodule.train_fraction": 0.5}, data=data)

    for seed in (1, 2, 3):
        made(f"s{seed}", seed)
    (group,) = summary().groups
    assert [row.seeds for row in group.rows] == [[1, 2, 3]]
    made("relabeled", 4, val_test="v2", all_images="f2")
    made("more", 5, n_train=110, all_images="f3")
    assert sorted(row.seeds for group in summary().groups for row in group.rows) == [[1, 2, 3], [4], [5]]


@pytest.mark.thorough
def test_seeds_of_a_command_with_half_of_the_training_images_are_one_row(train, tmp_path):
    sweep = tmp_path / "sweep"
    half = ("datamodule.train_fraction=0.5", "stages=[fit,test]", "trainer.max_epochs=1", *SIMPLE_CNN, "logger=none")
    ran = train("-m", "seed=1,2", *half, f"hydra.sweep.dir={sweep}")
    assert ran.status == 0, ran.err
    records = [run.data for run in judged(sweep).runs]
    assert [data.n_train for data in records] == [12, 12]
    assert len({data.fingerprint for data in records}) == 2  # they trained on other halves
    (group,) = judged(sweep).groups
    assert [row.seeds for row in group.rows] == [[1, 2]]
    sides = [shutil.copytree(sweep, tmp_path / name) for name in ("a", "b")]
    lines = compare(*(load(side) for side in sides))
    assert lines[0].startswith(f"A, {tmp_path / 'a'}: ") and "mean of seeds 1, 2" in lines[0]


def test_folds_are_compared_whatever_share_of_the_others_is_trained_on(run, summary):
    for fraction in (0.5, 1):
        for fold in (0, 1):
            data = {"fingerprint": f"{fold} {fraction}", "fingerprint_val_test": f"fold{fold}", "folds": 2}
            settings = {"datamodule.fold": fold, "datamodule.folds": 2, "datamodule.train_fraction": fraction}
            run(f"{fraction}{fold}", settings=settings, n={"val": 20}, data=data, accuracy=0.4 + fraction / 2)
    (group,) = summary().groups
    assert [(row.changed["train_fraction"], row.folds) for row in group.rows] == [("1", [0, 1]), ("0.5", [0, 1])]
    assert group.rows[1].comparison.pair.n == 40


def test_a_fold_that_ran_after_images_were_added_does_not_join_the_others(run, summary):
    for fold, images in enumerate(("before", "before", "after")):
        data = {"fingerprint": f"fold{fold}", "folds": 3, "fingerprint_folds": images}
        run(f"f{fold}", settings={"datamodule.fold": fold, "datamodule.folds": 3}, n={"val": 20}, data=data)
    assert sorted(row.folds for group in summary().groups for row in group.rows) == [[0, 1], [2]]


@pytest.mark.parametrize("field", ["weights_digest", "teacher_digest"])
def test_seeds_that_began_with_another_content_of_a_file_are_another_row(run, summary, field):
    for seed, digest in ((1, "before"), (2, "before"), (3, "after")):
        change_record(run(f"s{seed}", seed=seed), model={field: digest})
    (group,) = summary().groups
    assert sorted(row.seeds for row in group.rows) == [[1, 2], [3]]


@pytest.mark.parametrize(("digests", "rows"), [
    ((None, "before", "before"), [[1, 2, 3]]),
    ((None, "before", "after"), [[1], [2], [3]]),
    ((None, None, None), [[1, 2, 3]]),
])  # fmt: skip
def test_a_seed_of_an_older_version_joins_the_only_row_of_its_settings(run, summary, digests, rows):
    for seed, digest in enumerate(digests, 1):
        change_record(run(f"s{seed}", seed=seed), model={"weights_digest": digest})
    (group,) = summary().groups
    assert sorted(row.seeds for row in group.rows) == rows


def test_runs_selected_on_test_are_ranked_by_it_in_a_group_with_a_warning(run, summary):
    run("honest", choices={"model": "a"}, accuracy=0.6)
    selected = {"select_on": "test", "n_val": 0}
    for name, accuracy in (("b", 0.8), ("c", 0.9)):
        run(name, choices={"model": name}, n={"test": 80}, accuracy=accuracy, data=selected)
    honest, chosen = sorted(summary().groups, key=lambda s: len(s.rows))
    assert [row.name for row in chosen.rows] == ["model=c", "model=b"] and not honest.rows[0].selected_on_test
    assert "too good" in answer(chosen)[0] and "the test images chose the epoch" in chosen.heading
    assert chosen.selection_bias is None
    assert note(chosen).endswith("The test images chose the epoch, so these accuracies are too good.")
    assert "Validation images also chose the epochs" in note(honest) and "Validation" not in note(chosen)


def test_a_single_run_selected_on_test_says_so_in_a_sentence_of_its_own(run, summary):
    run("b", n={"test": 80}, accuracy=0.9, data={"select_on": "test", "n_val": 0})
    first, *_ = answer(summary().groups[0])
    assert first.endswith("gives 0.500. The test images also chose its epoch, so this accuracy is too good.")


def test_failed_and_running_runs_are_not_ranked(run, summary):
    run("done")
    run("failed", status="failed", reason="out of memory", choices={}, settings={})
    run("running", status="running", seed=4)
    made = summary()
    assert [len(group.rows) for group in made.groups] == [1]
    assert {row.runs[0].name for row in made.unfinished} == {"failed", "running"}


def test_seeds_of_which_one_measured_the_cost_are_one_row(run, summary):
    """As smallest.py evaluates its networks on test."""
    run("a", settings={"stages": ["cost", "test"]}, seed=1)
    run("b", settings={"stages": ["test"]}, seed=2, cost=None)
    run("c", settings={"stages": ["fit"]}, seed=1)
    assert sorted(row.seeds for row in summary().groups[0].rows) == [[1], [1, 2]]


def test_of_two_equal_runs_the_later_counts(run, summary, tmp_path):
    run("z_early", accuracy=0.5, run={"started_at": "2026-01-01"})
    run("a_late", accuracy=0.9, run={"started_at": "2026-01-02"})
    made = summary()
    assert [r.name for r in made.groups[0].rows[0].runs] == ["a_late"]
    why = f"{tmp_path / 'z_early'}: the same settings, seed and fold as the later run {tmp_path / 'a_late'}"
    assert made.excluded == [(str(tmp_path / "z_early"), why)]


def test_checkpoints_that_a_sweep_evaluates_away_from_their_runs_are_rows(run, summary, tmp_path):
    """They have the same settings, but are networks of their own; the same one again is a repetition."""
    for name, path, accuracy in (("0", "x/a.ckpt", 0.7), ("1", "x/b.ckpt", 0.6), ("2", "x/b.ckpt", 0.6)):
        started = {"started_at": f"2026-01-0{int(name) + 1}"}
        run(name, overrides=(f"ckpt_path={path}",), accuracy=accuracy, run=started)
    made = summary()
    assert {row.name for row in made.groups[0].rows} == {"resnet18 (0)", "resnet18 (2)"}
    assert [folder for folder, _ in made.excluded] == [str(tmp_path / "1")]


def test_a_network_that_is_evaluated_again_is_no_further_row(run, summary, tmp_path):
    """Its row was that of one lucky seed, first of all, with the name of the row of all seeds and without a cost."""
    for seed in (1, 2, 3):
        change_record(run(f"s{seed}", seed=seed, settings={"stages": ["cost", "fit", "test"]}), best={"epoch": 1})
    run("again", seed=1, settings={"stages": ["test"]}, cost=None)
    run("elsewhere", seed=1, settings={"stages": ["test"]}, data={"fingerprint": "b", "fingerprint_val_test": "b"})
    run("cost", seed=1, settings={"stages": ["cost"]}, n={"val": 0})
    made = summary()
    assert [[run.name for run in row.runs] for group in made.groups for row in group.rows] == [
        ["s1", "s2", "s3"], ["cost"], ["elsewhere"]
    ]  # fmt: skip
    why = f"{tmp_path / 'again'}: evaluates the network of {tmp_path / 's1'} again on the same images"
    assert made.excluded == [(str(tmp_path / "again"), why)]


def test_an_earlier_network_on_images_added_since_is_not_that_trained_on_them(run, summary, tmp_path):
    """It was excluded as what the network of the same settings had trained, which knows the added images."""
    grown = {"data": {"fingerprint": "b", "fingerprint_val_test": "b"}}
    change_record(run("old", settings={"stages": ["fit"]}), best={"epoch": 1})
    change_record(run("new", settings={"stages": ["fit"]}, **grown), best={"epoch": 1})
    for name in ("old", "new"):
        checkpoint = f"ckpt_path='{tmp_path / name}/checkpoints/best.ckpt'"
        run(f"{name}_again", settings={"stages": ["test"]}, overrides=(checkpoint,), **grown)
    made = summary()
    rows = {run.name for group in made.groups for row in group.rows for run in row.runs}
    assert rows == {"old", "new", "old_again"}
    assert {row.name for row in made.groups[0].rows} == {"resnet18 (new)", "resnet18 (old_again)"}
    why = f"{tmp_path / 'new_again'}: evaluates the network of {tmp_path / 'new'} again on the same images"
    assert made.excluded == [(str(tmp_path / "new_again"), why)]


@pytest.mark.parametrize("settings", [{"datamodule.batch_size": 16}, {"seed": 2}, {"metrics.kappa": "x"}])
def test_an_evaluation_with_other_settings_is_of_the_network_whose_checkpoint_it_names(run, summary, settings):
    """It was a row `batch_size=16` of a network that was trained with 8; only a further metric is news."""
    trained = run("a", settings={"datamodule.batch_size": 8, "stages": ["fit", "test"]})
    change_record(trained, best={"epoch": 1})
    typed = {"datamodule.batch_size": 8, "stages": ["test"], **settings}
    run("b", seed=typed.get("seed", 1), settings=typed, overrides=(f"ckpt_path={trained}/checkpoints/best.ckpt",))
    names = [run.name for group in summary().groups for row in group.rows for run in row.runs]
    assert sorted(names) == (["a", "b"] if "metrics.kappa" in settings else ["a"])


@pytest.mark.parametrize("started_at", ["2026-01-01", "2026-01-03"])  # an evaluation on a machine whose clock is behind
def test_the_first_evaluation_of_a_training_without_test_is_the_test_accuracy_of_its_row(
    run, summary, tmp_path, started_at
):
    """It was a row of its own, without a cost, and the best of the two rows was compared with itself."""
    trained = run("a", settings={"stages": ["fit"]}, n={"val": 60}, run={"started_at": "2026-01-02"})
    change_record(trained, best={"epoch": 1})
    checkpoint = (f"ckpt_path={trained}/checkpoints/best.ckpt",)
    test = {"settings": {"stages": ["test"]}, "cost": None, "overrides": checkpoint}
    run("b", **test, n={"val": 60, "test": 40}, accuracy=0.75, run={"started_at": started_at})
    run("c", **test, n={"val": 60, "test": 40}, accuracy=0.5, run={"started_at": "2026-01-04"})
    assert increment_test_evaluations(RunFolder(trained)) == 1
    made = summary()
    ((row,),) = (group.rows for group in made.groups)
    assert [each.name for each in row.runs] == ["a"] and row.macs is not None
    assert row.accuracies["test"].value == 0.75 and row.outcomes["test"].correct.sum() == 30
    assert [reason for _, reason in made.excluded] == [
        f"{tmp_path / 'b'}: no row of its own; its test results are in the row of {tmp_path / 'a'}",
        f"{tmp_path / 'c'}: evaluates the network of {tmp_path / 'a'} again on the same images",
    ]


def test_folds_that_were_evaluated_on_test_later_are_one_row(run, summary):
    for fold in (0, 1):
        data = {"fingerprint": f"{fold}", "fingerprint_val_test": f"fold{fold}", "folds": 2}
        settings = {"datamodule.fold": fold, "datamodule.folds": 2}
        trained = run(f"f{fold}", settings={**settings, "stages": ["fit"]}, n={"val": 20}, data=data)
        change_record(trained, best={"epoch": 1})
        run(f"t{fold}", settings={**settings, "stages": ["test"]}, n={"val": 20, "test": 30}, data=data)
    ((row,),) = (group.rows for group in summary().groups)
    assert row.folds == [0, 1] and row.accuracies["test"].n == 30


def test_an_evaluation_on_a_part_of_test_is_no_accuracy_of_its_training(run, summary):
    trained = run("a", settings={"stages": ["fit"]}, n={"val": 60})
    change_record(trained, best={"epoch": 1})
    typed = {"settings": {"stages": ["test"]}, "overrides": (f"ckpt_path={trained}/checkpoints/best.ckpt",)}
    change_record(run("b", **typed), test={"part": "trainer.limit_test_batches=1"})
    rows = {row.runs[0].name: row for row in summary().groups[0].rows}
    assert rows.keys() == {"a", "b"} and rows["a"].accuracies["test"] is None


def test_nulls_are_gaps(run, summary):
    folder = run("a", choices={"model": "a"})
    latency = [Latency(batch_size=1), Latency(batch_size=8, latency_p50_ms=3.0)]
    change_record(folder, val={"accuracy": None}, test={"accuracy": None}, model={"macs": None, "latency": latency})
    change_record(folder, run={"wall_time_s": None})
    run("b", choices={"model": "b"})
    row = summary().groups[0].rows[1]
    assert (row.name, row.macs, row.latency_p50_ms, row.wall_time_s) == ("model=a", None, None, None)
    assert row.accuracies == {"val": None, "test": None} and isinstance(row.outcomes["val"], CorrectnessMatrix)


@pytest.mark.parametrize("counts", [(90, 80), (-1, 80), (0, 0)], ids=str)
def test_counts_that_contradict_each_other_give_no_interval(run, summary, counts):
    folder = run("a")
    change_record(folder, test={"accuracy": Proportion(0.9, 0.8, 0.95, *counts)})
    found = summary().groups[0].rows[0].accuracies["test"]
    assert (found.value, found.low, found.n) == (0.9, None, None)


def test_rows_are_named_by_the_last_part_of_each_key_and_its_value(tmp_path):
    for keep, choice in ((4, "none"), (12, "plateau")):
        settings = {"model.keep": keep, "stages": ["fit", str(keep)]}  # what is done is no setting of a network
        make_run(tmp_path / choice, choices={"scheduler": choice}, settings=settings, accuracy=0.9)
    (group,) = judged(tmp_path).groups
    assert {row.name for row in group.rows} == {"scheduler=none keep=4", "scheduler=plateau keep=12"}
    for place in range(8):  # too many for a name
        settings = {f"model.s{i}": place * 10 + i for i in range(7)}
        make_run(tmp_path / f"r{place}", settings=settings, accuracy=0.9)
    assert "r3" in {row.name for group in judged(tmp_path).groups for row in group.rows}
