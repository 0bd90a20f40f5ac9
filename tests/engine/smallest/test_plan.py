"""Decisions that are kept, the clock of the budget, and predicted times."""

from typing import NamedTuple

import pytest

from common.smallest_record import Candidate, Costs
from engine.smallest.plan import PER_RUN_S, TRAINING, Budget, Plan, TrainingTimes


class Pass(NamedTuple):
    backbone: str
    image_size: int
    images: int
    seconds: float
    macs: float
    skipped: str | None = None


def candidate(backbone: str, macs: int) -> Candidate:
    costs = Costs(parameters=1, macs=macs, file_kib=1.0, activation_kib=1.0, activation_int8_kib=1.0)
    return Candidate(backbone=backbone, keep="k", image_size=64, pretrained=True, weights="w", costs=costs)


def test_a_decision_is_taken_once_and_again_for_another_budget(tmp_path):
    taken = []

    def decide() -> list[int]:
        taken.append(len(taken))
        return [len(taken)]

    assert Plan(tmp_path, Budget(10)).decide("race", decide) == [1]
    assert Plan(tmp_path, Budget(10)).decide("race", decide) == [1]
    assert Plan(tmp_path, Budget(10)).decide("finals", decide) == [2]
    assert Plan(tmp_path, Budget(20)).decide("race", decide) == [3]
    (tmp_path / "plan.json").write_text("{damaged")
    assert Plan(tmp_path, Budget(20)).decide("race", decide) == [4]


def test_without_a_budget_there_is_no_end():
    assert Budget(None).left_s() is None
    assert not Budget(None).is_over


def test_a_process_that_is_started_later_has_what_is_left():
    whole, late = Budget(10), Budget(10, left_minutes=2)
    assert whole.left_s() > 500
    assert 0 < late.left_s() <= 120
    assert late.left_s(0.5) < 0
    assert not late.is_over  # runs end in the middle 1.15 times the budget after the start
    assert Budget(10, left_minutes=-1.6).is_over


def test_a_training_is_predicted_from_the_pass_of_its_backbone_by_macs():
    """100 images of 4M MACs in 2 s: 20 ms each, of which a fifth is the stem's; 1M take 4 + 4 ms."""
    times = TrainingTimes([Pass("a", 64, 100, 2.0, 4e6), Pass("b", 64, 100, 0.0, 4e6, "skipped")], 50, 10, epochs=3)
    assert times.of(candidate("a", 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 8e-3)
    assert times.of(candidate("a", 4 * 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 20e-3)
    # Of no pass: the usual rate, 200M MACs a second
    assert times.of(candidate("other", 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 5e-3)
