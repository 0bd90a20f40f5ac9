"""metrics.csv of several runs as curves."""

import re

import numpy as np
import pytest

from reports import svg
from reports.load_runs import find_records, load_runs
from reports.training_curves import Curve, training_curves
from tests.support.fake_runs import make_run


def test_curves_are_means_with_gaps_and_nulls(tmp_path):
    for seed, rows in ((1, "1,0.5,0.6,0.7,0.5,0.1\n2,nan,0.8,,0.7,0.05\n"), (2, "1,0.7,0.6,0.5,0.9,0.1\n")):
        folder = make_run(tmp_path / f"s{seed}", seed=seed, epochs=0)
        (folder / "metrics.csv").write_text("epoch,train/loss,train/accuracy,val/loss,val/accuracy,lr\n" + rows)
    curves, notes = training_curves(load_runs(find_records(str(tmp_path))).runs)
    assert notes == []
    np.testing.assert_array_equal(curves["val/accuracy"].values, [[0.5, 0.7], [0.9, np.nan]])
    np.testing.assert_array_equal(curves["train/loss"].values, [[0.5, np.nan], [0.7, np.nan]])


def test_a_learning_rate_that_ends_at_0_is_drawn_as_far_as_a_logarithm_goes():
    """A vertical line at the second epoch showed a fall that there was not."""

    def points(rates):
        drawn = svg.curves("rate", [Curve(np.arange(1, 4), np.array([rates]))], "rate", logarithmic=True)
        paths = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path) for path in re.findall(r' d="(M[^"z]*)"', drawn)]
        return [path for path in paths if len({y for _, y in path}) > 1 and len({x for x, _ in path}) > 1]

    (whole,), (ended,) = points([0.01, 0.004, 0.0004]), points([0.01, 0.004, 0.0])
    assert (len(whole), len(ended)) == (3, 2) and [x for x, _ in ended] == [x for x, _ in whole[:2]]


@pytest.mark.parametrize("value", [0.001, 1.0])  # a learning rate; an accuracy, which cannot be above 1
def test_the_axis_of_a_constant_curve_begins_at_0_and_ends_near_the_curve(value):
    """It showed from 0.00095 to 0.00105 for 0.001, as if it had been measured so exactly."""
    drawn = svg.curves("rate", [Curve(np.arange(1, 4), np.full((1, 3), value))], "rate")
    ticks = [float(text) for text in re.findall(r">(\d\.\d+)</text>", drawn)]
    assert min(ticks) == 0 and max(ticks) == value
