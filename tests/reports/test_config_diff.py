"""Which settings differ between runs, and which of them only follow another."""

import pytest

from reports.config_diff import changed_settings
from reports.load_runs import find_records, load_runs


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


def test_a_rate_typed_for_each_optimizer_is_shown(run, changed):
    run("a", choices={"optimizer": "adam"}, settings={"optimizer.lr": 1.0}, overrides=("optimizer.lr=1",))
    run("b", choices={"optimizer": "sgd"}, settings={"optimizer.lr": 2.0}, overrides=("optimizer.lr=2",))
    assert set(changed().values()) == {"optimizer", "lr"}
