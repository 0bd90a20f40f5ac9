"""Which candidates are trained, on small tables whose answer can be read off."""

import itertools

import pytest

from common.smallest_record import Candidate, Costs, Measured
from engine.smallest.selection import pick_finalists, pick_race, pick_reference, utility


def candidate(macs: int, probe: float | None, excluded: str | None = None) -> Candidate:
    costs = Costs(parameters=macs, macs=macs, file_kib=1.0, activation_kib=1.0, activation_int8_kib=1.0)
    return Candidate(
        backbone="b", keep=str(macs), image_size=64, pretrained=True, weights="w", costs=costs, excluded=excluded,
        probe=None if probe is None else Measured(value=probe),
    )  # fmt: skip


def seconds(each: Candidate) -> float:
    return each.costs.macs / 1e6


def test_the_reference_is_the_best_probe_that_can_be_trained_within_a_third_of_the_time():
    listed = [candidate(10**6, 0.8), candidate(10**7, 0.9), candidate(10**8, 0.95), candidate(10**6, None)]
    assert pick_reference(listed, "macs", seconds, None) == 2
    assert pick_reference(listed, "macs", seconds, 10 / 0.35) == 1  # one training takes 10 s
    assert pick_reference(listed, "macs", seconds, 9.9 / 0.35) == 0
    assert pick_reference(listed, "macs", seconds, 1) is None


def test_of_equal_probes_the_cheaper_one_is_the_reference_and_an_excluded_one_is_not():
    listed = [candidate(10**7, 0.9), candidate(10**6, 0.9), candidate(10**5, 0.99, excluded="above a limit")]
    assert pick_reference(listed, "macs", seconds, None) == 1


def test_the_race_takes_what_is_near_the_front_and_not_hopeless():
    listed = [
        candidate(10, 0.50),  # 0.38 below what is needed: hopeless
        candidate(20, 0.85),
        candidate(30, 0.815),  # costs more and is 0.035 worse than the one before
        candidate(40, 0.83),  # within the slack of the front
        candidate(50, 0.90),  # good enough as it is
        candidate(100, 0.90),  # the reference
        candidate(200, 0.91),  # costs more than the reference
        candidate(15, 0.95, excluded="above a limit"),
    ]
    assert pick_race(listed, 5, "macs", 0.88, 8, seconds, None) == [4, 1, 3]


def test_of_many_neighbors_one_of_each_step_of_cost_races():
    listed = [candidate(round(1000 * 2 ** (i / 10)), 0.85 + i / 10000) for i in range(100)]
    chosen = pick_race(listed, 99, "macs", 0.85, 4, seconds, None)
    assert len(chosen) == 4
    steps = [listed[i].costs.macs for i in sorted(chosen)]
    assert all(b / a > 3 for a, b in itertools.pairwise(steps))


def test_the_race_starts_what_fits_into_half_of_the_time():
    listed = [candidate(10**7, 0.9), candidate(2 * 10**7, 0.9), candidate(10**8, 0.9)]
    assert pick_race(listed, 2, "macs", 0.88, 8, seconds, 1000) == [0, 1]
    assert pick_race(listed, 2, "macs", 0.88, 8, seconds, 20) == [
        0
    ]  # 5 s of the first and 10 s of the second are too much
    assert pick_race(listed, 2, "macs", 0.88, 8, seconds, 1) == []


@pytest.mark.parametrize("better", [0.0, 0.005, 0.05])
def test_above_what_is_good_enough_only_the_cost_counts(better):
    """With a margin of 0.02 half of it, 0.01, is kept in reserve."""
    assert utility(0.89 + better, 0.90, 0.02, None, 0.25) == pytest.approx(0.004)
    assert utility(0.89 + better, 0.90, 0.02, None, 0.5) == pytest.approx(0.002)


def test_below_it_each_hundredth_of_accuracy_counts_against_a_candidate():
    assert utility(0.87, 0.90, 0.02, None, 0.25) == pytest.approx(0.004 - 0.02)
    assert utility(0.93, 0.99, 0.02, 0.95, 1.0) == pytest.approx(0.93 - 0.96)  # target 0.95 and half of the margin


def test_finalists_are_the_cheapest_hopeful_one_and_the_safest():
    values, costs = {0: 0.90, 1: 0.885, 2: 0.899, 3: 0.80, 4: 0.89}, {0: 100, 1: 10, 2: 50, 3: 1, 4: 20}
    assert pick_finalists(values, costs, 0.88, 2, reference=0) == [1, 2]
    assert pick_finalists(values, costs, 0.88, 3, reference=0) == [1, 2, 4]
    assert pick_finalists(values, costs, 0.88, 1, reference=0) == [1]


def test_where_none_is_hopeful_the_nearest_is_the_finalist():
    assert pick_finalists({0: 0.9, 1: 0.7, 2: 0.8}, {0: 100, 1: 1, 2: 50}, 0.88, 2, reference=0) == [2]
    assert pick_finalists({0: 0.9, 1: 0.95}, {0: 100, 1: 200}, 0.88, 2, reference=0) == []
