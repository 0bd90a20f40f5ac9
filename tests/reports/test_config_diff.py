import pytest

from reports.config_diff import changed_settings
from reports.load_runs import find_records, load_runs
from tests.support.fake_runs import make_run


@pytest.fixture
def run(tmp_path):
    return lambda name, **options: make_run(tmp_path / name, epochs=0, **options)


def test_settings_that_follow_from_a_choice_are_not_told(run, tmp_path):
    run("a", choices={"optimizer": "adam"}, settings={"optimizer.lr": 0.001, "model.keep": 4, "other.keep": 1})
    run("b", choices={"optimizer": "sgd"}, settings={"optimizer.lr": 0.1, "model.keep": 5, "other.keep": 2})
    runs = load_runs(find_records(str(tmp_path))).runs
    assert changed_settings(runs) == {
        "optimizer": "optimizer", "model.keep": "model.keep", "other.keep": "other.keep"
    }  # fmt: skip


def test_a_swept_setting_is_told_though_its_group_differs(run, tmp_path):
    for optimizer in ("adam", "sgd"):
        for rate in (0.1, 0.01):
            run(f"{optimizer}{rate}", choices={"optimizer": optimizer}, settings={"optimizer.lr": rate})
    assert changed_settings(load_runs(find_records(str(tmp_path))).runs) == {
        "optimizer": "optimizer",
        "optimizer.lr": "lr",
    }


def test_a_rate_typed_for_each_optimizer_is_told(run, tmp_path):
    run("a", choices={"optimizer": "adam"}, settings={"optimizer.lr": 1.0}, overrides=("optimizer.lr=1",))
    run("b", choices={"optimizer": "sgd"}, settings={"optimizer.lr": 2.0}, overrides=("optimizer.lr=2",))
    assert set(changed_settings(load_runs(find_records(str(tmp_path))).runs).values()) == {"optimizer", "lr"}
