"""Which settings differ between runs, and which of them only follow another."""

import pytest

from reports.config_diff import changed_settings, values_of
from reports.load_runs import find_records, load_runs
from tests.support.fake_runs import judged


@pytest.fixture
def changed(tmp_path):
    return lambda: changed_settings(load_runs(find_records(str(tmp_path))).runs)


def test_settings_that_depend_on_a_choice_are_skipped(run, changed):
    run("a", choices={"optimizer": "adam"}, settings={"optimizer.lr": 0.001, "model.keep": 4, "other.keep": 1})
    run("b", choices={"optimizer": "sgd"}, settings={"optimizer.lr": 0.1, "model.keep": 5, "other.keep": 2})
    assert changed() == {
        "optimizer": "optimizer", "model.keep": "model.keep", "other.keep": "other.keep"
    }  # fmt: skip


def test_a_swept_setting_is_shown_though_its_group_differs(run, changed):
    for optimizer in ("adam", "sgd"):
        for rate in (0.1, 0.01):
            run(f"{optimizer}{rate}", choices={"optimizer": optimizer}, settings={"optimizer.lr": rate})
    assert changed() == {
        "optimizer": "optimizer",
        "optimizer.lr": "lr",
    }


def test_a_switch_is_named_by_what_it_switches(run, changed):
    for number, (averages, freezes) in enumerate(((True, True), (True, False), (False, False))):
        run(str(number), settings={"callbacks.ema.enabled": averages, "callbacks.freeze_batch_norm.enabled": freezes})
    assert list(changed().values()) == ["ema.enabled", "freeze_batch_norm.enabled"]


def test_a_rate_typed_for_each_optimizer_is_shown(run, changed):
    run("a", choices={"optimizer": "adam"}, settings={"optimizer.lr": 1.0}, overrides=("optimizer.lr=1",))
    run("b", choices={"optimizer": "sgd"}, settings={"optimizer.lr": 2.0}, overrides=("optimizer.lr=2",))
    assert set(changed().values()) == {"optimizer", "lr"}


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["/long/" * 9 + "a.pth", "/long/" * 9 + "b.pth", None], ["…/a.pth", "…/b.pth", "null"]),
        ([f"/{'long/' * 11}{run}/best.ckpt" for run in "ab"], ["…/a/best.ckpt", "…/b/best.ckpt"]),
        (["x" * 200 + end for end in "ab"], ["x" * 200 + end for end in "ab"]),
        ([[0.5] * 20, [0.5] * 19 + [1.5]], [str([0.5] * 20), str([0.5] * 19 + [1.5])]),
        ([0.12345678, 0.12345679, 1.0], ["0.12345678", "0.12345679", "1"]),
        ([1.0, 0.1234567], ["1", "0.123457"]),
    ],
)
def test_values_that_differ_are_shown_as_different(run, tmp_path, values, shown):
    for i, value in enumerate(values):
        run(f"run{i}", settings={"model.weights": value})
    runs = load_runs(find_records(str(tmp_path))).runs
    assert values_of(runs, "model.weights") == shown


def test_long_paths_have_a_comparison_of_their_own(run, tmp_path):
    for optimizer in ("adam", "sgd"):
        for name in ("a", "b"):
            path = f"/home/someone/projects/classification/checkpoints/pretrained/{name}.pth"
            run(f"{optimizer}{name}", choices={"optimizer": optimizer}, settings={"model.weights": path})
    (group,) = judged(tmp_path).groups
    assert len({row.name for row in group.rows}) == 4
    assert {comparison.setting for comparison in group.settings} == {"optimizer", "weights"}
