"""The best of each value of a setting, grids of two settings, and optima at the edge of what was tried."""

from html import unescape

import pytest
from scipy.stats import binomtest

from reports.per_setting import best_note, grid_note
from reports.renderers import as_csv, as_latex, as_markdown
from reports.report import write_report
from reports.significance import answer

RATES = (1e-4, 1e-3, 1e-2)
MISSED = {"adam": (9, 2, 5), "rmsprop": (8, 7, 4), "sgd": (30, 20, 10)}  # of 60 validation images, by rate
TEST = {"adam": {0, 1}, "rmsprop": {1, 2, 3, 4, 5}, "sgd": set(range(20))}  # missed of 80, at any rate


@pytest.fixture
def optimizers(run):
    """Three optimizers at three rates."""
    for optimizer, each in MISSED.items():
        for rate, missed in zip(RATES, each, strict=True):
            add(run, optimizer, rate, missed, TEST[optimizer])


def add(run, optimizer, rate, missed, test=frozenset(range(20)), **options):
    wrong = {"val": set(range(missed)), "test": set(test)}
    name = f"{optimizer}_{rate}_{options.get('seed', '')}"
    settings = {"optimizer.lr": rate, **options.pop("settings", {})}
    choices = {"optimizer": optimizer, **options.pop("choices", {})}
    run(name, choices=choices, settings=settings, wrong=wrong, **options)


def test_each_value_has_the_best_of_its_rows(optimizers, summary):
    (group,) = summary().groups
    by_optimizer, by_rate = group.settings
    assert (by_optimizer.title, by_rate.title) == ("The best of each optimizer", "The best of each learning rate")
    found = [(b.value, b.others, b.row.accuracies["val"].value, b.n_rows, b.n_runs) for b in by_optimizer.bests]
    assert found == [
        ("adam", "lr=0.001", 58 / 60, 3, 3), ("rmsprop", "lr=0.01", 56 / 60, 3, 3), ("sgd", "lr=0.01", 50 / 60, 3, 3)
    ]  # fmt: skip
    assert [(b.value, b.others) for b in by_rate.bests] == [
        ("0.001", "optimizer=adam"), ("0.01", "optimizer=rmsprop"), ("0.0001", "optimizer=rmsprop")
    ]  # fmt: skip


def test_p_values_are_those_of_the_table_of_all(optimizers, summary):
    (group,) = summary().groups
    best, rmsprop, sgd = group.settings[0].bests
    p_rmsprop, p_sgd = (
        binomtest(1, 5).pvalue,
        binomtest(0, 18).pvalue,
    )  # right where the other is wrong: 1 and 4; 0 and 18
    assert best.comparison.verdict == "the best"
    assert rmsprop.comparison.p_value == pytest.approx(min(1, 8 * p_rmsprop)) == 1  # those of the table of all
    assert sgd.comparison.p_value == pytest.approx(8 * p_sgd)
    assert (rmsprop.comparison.pair.difference, sgd.comparison.pair.difference) == pytest.approx((-3 / 80, -18 / 80))
    assert group.settings[0].sentences == [
        "The best by validation is adam with lr=0.001. Compared with the best row, on test: rmsprop is not decided; sgd is "
        "worse as trained.",
        "Each was chosen from 3 runs.",
    ]


def test_a_value_that_is_better_on_test_is_named(run, summary):
    for rate, missed in ((1e-3, 2), (1e-2, 3)):
        add(run, "adam", rate, missed, range(30))
        add(run, "sgd", rate, missed + 5, ())
    sentence, _ = summary().groups[0].settings[0].sentences
    assert sentence.endswith(" on test: sgd is better as trained.")


def test_unequal_budgets_are_reported_with_whom_they_favor(optimizers, run, summary):
    add(run, "sgd", 1e-1, 25)
    add(run, "failed", 1e-1, 0, status="failed", reason="diverged")
    assert summary().groups[0].settings[0].sentences[1] == (
        "Budgets differ: sgd from 4 runs and adam and rmsprop from 3 runs, so the comparison favors sgd."
    )


def test_seeds_are_no_tries(run, summary):
    for seed in (1, 2):
        for rate, missed in ((1e-3, 2), (1e-2, 5)):
            add(run, "adam", rate, missed, seed=seed)
            add(run, "sgd", rate, missed + 5, seed=seed)
    (group,) = summary().groups
    comparison = group.settings[0]
    assert [(best.n_rows, best.n_runs) for best in comparison.bests] == [(2, 4), (2, 4)]
    assert comparison.sentences[1] == "Each was chosen from 2 rows."
    assert comparison.bests[1].comparison.pair.n_seeds == 2
    assert "| 2 rows (4 runs) |" in as_markdown(summary(), "")


def test_settings_beyond_the_cap_are_named(run, summary):
    for row in range(6):
        settings = {f"optimizer.p{i:02}": (row >> i % 3) % 2 for i in range(11)}
        run(f"r{row}", settings=settings, wrong={"val": set(range(row)), "test": set()})
    (group,) = summary().groups
    assert [found.setting for found in group.settings] == [f"p{i:02}" for i in range(8)]
    assert group.settings[-1].sentences[-1] == "Settings without a table of their own: p08, p09 and p10."
    assert not any("Without such" in text for found in group.settings[:-1] for text in found.sentences)


@pytest.mark.parametrize(
    "pairs", [[("adam", 1e-3), ("sgd", 1e-3)], [("adam", 1e-3), ("sgd", 1e-2), ("rmsprop", 1e-1)]], ids=str
)
def test_where_nothing_was_chosen_the_main_table_is_all(run, summary, pairs):
    for optimizer, rate in pairs:
        add(run, optimizer, rate, 5)
    (group,) = summary().groups
    assert group.settings == [] and group.grid is None
    assert "best of each" not in as_markdown(summary(), "")


def test_a_setting_that_some_rows_lack_is_compared_among_the_others(run, summary):
    for rate in (1e-3, 1e-2):
        for model, keep in (("truncated", 3), ("truncated", 4), ("resnet18", None)):
            settings = {"optimizer.lr": rate} | ({"model.keep": keep} if keep else {})
            run(f"{model}{keep}{rate}", choices={"model": model}, settings=settings, wrong={"val": {keep or 0}})
    comparisons = {c.setting: c for c in summary().groups[0].settings}
    assert {b.value for b in comparisons["keep"].bests} == {"3", "4"}
    budgets = "Budgets differ: truncated from 4 runs and resnet18 from 2 runs, so the comparison favors truncated."
    assert comparisons["model"].sentences[1] == budgets


def test_the_grid_has_every_pair_and_the_best_of_each_line(optimizers, run, summary):
    add(run, "sgd", 1e-1, 25)
    (group,) = summary().groups
    found = group.grid
    assert (found.down, found.across, found.values) == ("optimizer", "lr", ["0.0001", "0.001", "0.01", "0.1"])
    right = {line.value: [row and round(60 * row.accuracies["val"].value) for row in line.rows] for line in found.lines}
    assert right == {"adam": [51, 58, 55, None], "rmsprop": [52, 53, 56, None], "sgd": [30, 40, 50, 35]}
    assert [(line.value, line.best) for line in found.lines] == [("adam", 1), ("rmsprop", 2), ("sgd", 2)]
    assert grid_note(found).startswith("Validation accuracy (n = 60) with its 95% interval.")
    lines = as_markdown(summary(), "").splitlines()
    start = lines.index("### Each optimizer at each learning rate")
    assert lines[start + 2] == r"| optimizer \\ lr | lr=0.0001 | lr=0.001 | lr=0.01 | lr=0.1 |"
    assert lines[start + 4].startswith("| adam | 0.850 (0.") and "| **0.967 (0." in lines[start + 4]
    assert lines[start + 4].endswith("| - |")


def test_numbers_go_across_and_a_few_of_many_pairs_are_no_grid(run, summary):
    for size in (8, 16, 32):
        for rate in (1e-3, 1e-2):
            run(f"{size}-{rate}", settings={"datamodule.batch_size": size, "optimizer.lr": rate})
    found = summary().groups[0].grid
    assert (found.down, found.values) == ("batch_size", ["0.001", "0.01"])
    assert [line.value for line in found.lines] == ["8", "16", "32"]
    for index in range(5):
        run(f"x{index}", settings={"datamodule.batch_size": 100 + index, "optimizer.lr": 10.0 + index})
    assert summary().groups[0].grid is None


def test_an_optimum_at_the_edge_is_reported(optimizers, summary):
    assert summary().groups[0].edges == [
        "The best learning rate for rmsprop and sgd is the largest tried (0.01): try larger ones."
    ]


@pytest.mark.parametrize(("setting", "values", "missed", "words"), [
    ("optimizer.lr", (1e-4, 1e-3, 1e-2), (3, 4, 5), "The best learning rate is the smallest tried (0.0001): try smaller ones."),
    ("optimizer.lr", (1e-4, 1e-3, 1e-2), (4, 3, 5), None),
    ("optimizer.lr", (1e-4, 1e-3, 1e-2), (3, 3, 5), None),  # an inner one is as good, so that there is no single best
    ("optimizer.lr", (1e-3, 1e-2), (4, 3), None),  # two values are both at an edge
    ("datamodule.batch_size", (8, 16, 64), (5, 4, 3), "The best batch size is the largest tried (64): try larger ones."),
    ("model.keep", (1, 2, 3), (3, 4, 5), None),  # there is nothing below one
    ("optimizer.weight_decay", (0, 1e-3, 1e-2), (3, 4, 5), None),
    ("datamodule.train_fraction", (0.25, 0.5, 1), (5, 4, 3), None),
    ("datamodule.split_seed", (1, 2, 3), (5, 4, 3), None),
    ("model.weights", ("a", "b", 3), (5, 4, 3), None),
], ids=str)  # fmt: skip
def test_edges_of_a_single_setting(run, summary, setting, values, missed, words):
    for index, (value, count) in enumerate(zip(values, missed, strict=True)):
        run(f"r{index}", settings={setting: value}, wrong={"val": set(range(count))}, cost=(1e6 + index, 1e5, 3))
    assert summary().groups[0].edges == ([words] if words else [])


def test_a_value_that_failed_was_tried(optimizers, run, summary):
    add(run, "sgd", 1e-1, 0, status="failed", reason="diverged")
    made = summary()
    assert made.groups[0].edges == ["The best learning rate for rmsprop is the largest tried (0.01): try larger ones."]


def test_page_and_markdown_have_it_and_the_other_tables_do_not(optimizers, summary, tmp_path):
    made = summary()
    (group,) = made.groups
    page = unescape(write_report(str(tmp_path)).page.read_text())
    for text in (page, as_markdown(made, "")):
        for title in (*(c.title for c in group.settings), group.grid.title):
            assert text.count(f"{title}<" if text is page else f"# {title}\n") == 1
        assert "Each was chosen from 3 runs." in text and "try larger ones" in text and best_note(group) in text
    assert page.count('<td class="best"') == 3
    for text in (as_csv(made), as_latex(made), " ".join(answer(group))):
        assert "chosen from" not in text and "try larger" not in text
    assert len(answer(group)) == 3  # with that of one seed


def test_hostile_values_are_text(run, summary, tmp_path):
    for model in ("<b>a</b>", "a|b"):
        for optimizer in ("*sgd*", "adam"):
            run(f"{len(model)}{optimizer}", choices={"model": model, "optimizer": optimizer})
    page = write_report(str(tmp_path)).page.read_text()
    assert "<b>a" not in page and "model=&lt;b&gt;a&lt;/b&gt;" in page
    for line in as_markdown(summary(), "").splitlines():
        assert "<b>" not in line and "*sgd*" not in line.replace(r"\*", "")


def test_where_the_test_images_chose_there_is_a_warning(run, summary):
    selected = {"select_on": "test", "n_val": 0}
    for optimizer in ("adam", "sgd"):
        for rate in RATES:
            run(f"{optimizer}{rate}", choices={"optimizer": optimizer}, settings={"optimizer.lr": rate}, n={"test": 80},
                accuracy=0.9 if optimizer == "adam" else 0.5, data=selected)  # fmt: skip
    (group,) = summary().groups
    sentence, _ = group.settings[0].sentences
    assert sentence.startswith("The best by test (which chose the epoch too) is adam with lr=")
    assert "Its test accuracy chose it, which flatters" in best_note(group)
    assert grid_note(group.grid).startswith("Test accuracy (n = 80)")


def test_runs_without_accuracies_are_not_compared(run, summary):
    for optimizer in ("adam", "sgd"):
        for rate in RATES:
            run(f"{optimizer}{rate}", choices={"optimizer": optimizer}, settings={"optimizer.lr": rate}, n={"train": 1})
    (group,) = summary().groups
    assert (group.settings, group.grid, group.edges) == ([], None, [])
