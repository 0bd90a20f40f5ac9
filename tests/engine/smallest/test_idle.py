"""What smallest.py warns of once, for all its runs."""

from types import SimpleNamespace

import pytest

from common.idle import warn_of_idle
from engine.config.validate import validate
from engine.smallest.idle import idle_in_runs
from tests.support.configs import composed, data_module


@pytest.mark.parametrize(("typed", "folds", "warning"), [
    ("datamodule.split_seed=3", None, "datamodule.split_seed=3: has no effect on images that come with their splits"),
    ("datamodule.split_seed=3", 4, ""),
    ("decision.false_negative_cost=5", None,
     "decision.false_negative_cost=5: has no effect without decision.threshold_criterion=cost"),
    ("finals.folds=3", None, "finals.folds=3: has no effect with 12 validation images, since finals.folds_below=12"),
    ("finals.folds=3", 3, ""),
])  # fmt: skip
def test_what_was_typed_without_an_effect_is_warned_of(two_colors, tmp_path, caplog, typed, folds, warning):
    data = data_module(two_colors, tmp_path)
    data.setup()
    of_runs = [typed] * (not typed.startswith("finals."))
    config = validate(composed(f"datamodule.root={two_colors}", "datamodule=image_folder", *of_runs))
    caplog.clear()
    warn_of_idle([typed], idle_in_runs(SimpleNamespace(folds_below=12), config, data, folds))
    assert [record.getMessage() for record in caplog.records] == [warning] * bool(warning)
