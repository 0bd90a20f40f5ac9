"""What a row makes of the proportions of its records."""

import pytest

from common.run_record import Proportion
from evaluation.intervals import proportion
from reports.accuracy import _counts, _effect


@pytest.mark.parametrize("correct", [0, 1, 40, 79, 80])
@pytest.mark.parametrize("effect", [1.0, 1.5, 4.0, 40.0])
def test_the_design_effect_is_that_by_which_the_interval_was_widened(correct, effect):
    assert _effect(proportion(correct, 80, effect)) == pytest.approx(effect, abs=1e-6)
    assert effect > 1 or _effect(proportion(correct, 80)) == 1  # exactly, since more than 1 is taken for groups


def test_an_interval_that_no_design_effect_gives_has_none():
    assert _effect(Proportion(value=0.5, low=1e-12, high=0.9, correct=2, n=4)) == 1
    assert _effect(Proportion(value=0.0, low=0.0, high=0.0, correct=0, n=4)) == 1


def test_folds_add_up_and_the_same_images_count_on_average():
    folds = [proportion(8, 10), proportion(15, 20)]
    assert _counts(folds, same_images=False) == (23, 30)
    correct, n = _counts(folds, same_images=True)
    assert n == 10 and correct / n == pytest.approx(23 / 30)
    for wrong in (Proportion(0.5, 0, 1, 11, 10), Proportion(0.5, 0, 1, -1, 10), Proportion(0.5, 0, 1, 0, 0)):
        assert _counts([*folds, wrong], same_images=False) == (0, 0)
