"""Which candidates are trained, on small tables whose answer can be read off."""

import itertools
from collections import namedtuple

import pytest

from common.smallest_record import Candidate, Costs, Measured
from engine.smallest.selection import Racer, cost_of, pick_finalists, pick_race, pick_reference, rank_of, utility

Times = namedtuple("Times", ["of", "of_head"])  # as TrainingTimes has


def candidate(macs: int, probe: float | None, excluded: str | None = None, n: int | None = None) -> Candidate:
    costs = Costs(parameters=macs, macs=macs, file_kib=1.0, activation_kib=1.0, activation_int8_kib=1.0)
    return Candidate(
        backbone="b", keep=str(macs), image_size=64, pretrained=True, weights="w", costs=costs, excluded=excluded,
        probe=None if probe is None else Measured(value=probe, n=n),
    )  # fmt: skip


def seconds(each: Candidate) -> float:
    return each.costs.macs / 1e6


def head_seconds(each: Candidate) -> float:
    """A fortieth of a whole training."""
    return each.costs.macs / 4e7


def never(each: Candidate) -> float:
    return float("inf")


def reference(listed: list[Candidate], left_s: float | None, head_s=never) -> tuple[int, bool] | None:
    found = pick_reference(listed, range(len(listed)), "macs", Times(seconds, head_s), left_s)
    return found and (found.index, found.frozen)


def race(listed: list[Candidate], index: int, need: float, most: int, left_s: float | None, head_s=never, frozen=False):
    """Return who races against a reference, in its order: an index, or one with `frozen`."""
    among, times = range(len(listed)), Times(seconds, head_s)
    racers = pick_race(listed, among, Racer(index, frozen, 0.0), "macs", need, most, times, left_s)
    return [(each.index, "frozen") if each.frozen else each.index for each in racers]


def test_the_reference_is_the_best_probe_that_can_be_trained_within_a_third_of_the_time():
    listed = [candidate(10**6, 0.8), candidate(10**7, 0.9), candidate(10**8, 0.95), candidate(10**6, None)]
    assert reference(listed, None) == (2, False)
    assert reference(listed, 10 / 0.35) == (1, False)  # one training takes 10 s
    assert reference(listed, 9.9 / 0.35) == (0, False)
    assert reference(listed, 1) is None


def test_a_frozen_network_is_the_reference_where_its_probe_exceeds_what_fine_tuning_would_make_of_the_others():
    listed = [candidate(10**6, 0.8), candidate(10**7, 0.9), candidate(10**8, 0.95)]
    assert reference(listed, 10 / 0.35, head_seconds) == (2, True)  # 0.95 and 0.90 + 0.03
    listed[2] = candidate(10**8, 0.925)
    assert reference(listed, 10 / 0.35, head_seconds) == (1, False)
    assert reference(listed, 1000, head_seconds) == (2, False)
    assert reference(listed, None, head_seconds) == (2, False)
    assert reference(listed[2:], 2.5 / 0.35, head_seconds) == (0, True)  # its head takes 2.5 s
    listed[2] = candidate(10**9, 0.95)  # whose head takes 25 s
    assert reference(listed, 10 / 0.35, head_seconds) == (1, False)


def test_of_equal_probes_the_most_expensive_one_in_time_is_the_reference_and_an_excluded_one_is_not():
    listed = [candidate(10**6, 0.9), candidate(10**7, 0.9), candidate(10**5, 0.99, excluded="above a limit")]
    assert reference(listed, None) == (1, False)
    assert reference(listed, 2 / 0.35) == (0, False)  # of 1 and 10 s


def test_of_probes_within_a_standard_error_of_the_best_the_most_expensive_one_is_the_reference():
    """0.9 of 100 images has 0.03, all of 50 count as all but half an image: sqrt(0.01 x 50) / 50 = 0.014."""
    listed = [candidate(10**6, 0.9, n=100), candidate(10**7, 0.871, n=100), candidate(10**8, 0.869, n=100)]
    assert reference(listed, None) == (1, False)
    assert reference(listed, 9 / 0.35) == (0, False)  # of 1 and 10 s
    assert reference([candidate(10**6, 1.0, n=50), candidate(10**7, 0.987, n=50)], None) == (1, False)
    assert reference([candidate(10**6, 1.0, n=50), candidate(10**7, 0.985, n=50)], None) == (0, False)


def test_the_best_probe_is_fine_tuned_beside_a_reference_that_costs_more():
    listed = [candidate(10**6, 0.9, n=100), candidate(10**7, 0.88, n=100), candidate(2 * 10**6, 0.85, n=100)]
    assert race(listed, 1, 0.89, 8, 100, head_seconds) == [0]
    listed[0].costs.macs = 10**8  # out of reach, as is not to be fine-tuned within 5 s
    assert race(listed, 1, 0.89, 8, 10, head_seconds) == [(0, "frozen"), 2]


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
    assert race(listed, 5, 0.91, 8, None) == [4, 1, 3]  # 0.91 is 0.02 below what the reference is expected to have


@pytest.mark.parametrize(("expected", "frozen", "racing"), [
    (0.91, False, [1]),  # trained from 0.90 to 0.91: 0.03 is still what fine-tuning adds, and at most 0.07 more
    (0.95, False, [1, 0]),  # to 0.95: it may add 0.05 to the others, too
    (0.95, True, [1]),
])  # fmt: skip
def test_fine_tuning_adds_to_the_others_at_least_what_it_added_to_a_trained_reference(expected, frozen, racing):
    listed = [candidate(10, 0.79), candidate(20, 0.81), candidate(100, 0.90)]
    found = pick_race(listed, range(3), Racer(2, frozen, expected), "macs", 0.905, 8, Times(seconds, never), None)
    assert [each.index for each in found] == racing
    adds = expected - 0.90 if len(racing) == 2 else 0.03
    assert [each.expected for each in found] == pytest.approx([listed[i].probe.value + adds for i in racing])


def test_random_weights_that_were_asked_for_have_the_places_that_are_left_and_others_without_a_probe_none():
    listed = [candidate(10, 0.90), candidate(100, 0.90), *(candidate(cost, None) for cost in (20, 30, 80, 40, 200))]
    for each in (*listed[2:5], listed[6]):
        each.weights, each.pretrained = "random", False
    assert race(listed, 1, 0.9, 8, None) == [0, 2, 3, 4]
    assert sorted(race(listed, 1, 0.9, 3, None)) == [0, 2, 4]  # a cheap and an expensive one
    assert race(listed, 1, 0.9, 1, None) == [0]
    assert reference(listed[2:], None) == (4, False)  # where none has a probe, the most expensive of these
    assert reference(listed[2:], 40e-6 / 0.35) == (1, False)  # that the time allows: 30 MACs take 30e-6 s
    assert reference([listed[5]], None) is None  # pretrained, but its pass was not done


def test_what_costs_as_much_as_the_reference_does_not_race_and_without_the_best_neither_does_a_better_probe():
    listed = [candidate(10**7, 0.90), candidate(10**8, 0.90), candidate(10**8, 0.91), candidate(10**9, 0.95)]
    assert race(listed, 1, 0.92, 8, 400, head_seconds) == [(3, "frozen"), 0, 2]  # 2 is cheaper than 3
    assert race([listed[0], candidate(10**7, 0.93)], 0, 0.92, 8, 400, head_seconds) == [1]  # as expensive: fine-tuned
    times = Times(seconds, head_seconds)
    later = pick_race(listed, range(4), Racer(1, False, 0.0), "macs", 0.92, 8, times, 400, with_best=False)
    assert [(each.index, each.frozen) for each in later] == [(0, False)]


def test_as_many_as_there_are_places_race_whatever_their_costs():
    listed = [candidate(1000 + i, 0.9 + i / 1000) for i in range(3)] + [candidate(5000, 0.91)]
    assert len(race(listed, 3, 0.91, 3, None)) == 3
    assert pick_finalists({0: 0.9, 1: 0.88}, {0: 100, 1: 10}, 0.88, 2, reference=0) == [1]  # just good enough


def test_of_many_neighbors_one_of_each_step_of_cost_races():
    listed = [candidate(round(1000 * 2 ** (i / 10)), 0.85 + i / 10000) for i in range(100)]
    chosen = race(listed, 99, 0.88, 4, None)
    assert len(chosen) == 4
    steps = [listed[i].costs.macs for i in sorted(chosen)]
    assert all(b / a > 3 for a, b in itertools.pairwise(steps))


def test_the_race_starts_what_fits_into_half_of_the_time():
    listed = [candidate(10**7, 0.9), candidate(2 * 10**7, 0.9), candidate(10**8, 0.9)]
    assert race(listed, 2, 0.91, 8, 1000) == [0, 1]
    assert race(listed, 2, 0.91, 8, 20) == [0]  # 5 s of the first and 10 s of the second are too much
    assert race(listed, 2, 0.91, 8, 1) == []


def test_what_cannot_be_fine_tuned_in_time_races_frozen_if_its_probe_is_about_good_enough():
    listed = [candidate(10**7, 0.90), candidate(2 * 10**7, 0.90), candidate(3 * 10**7, 0.87), candidate(10**8, 0.93)]
    # 5 s for the first; 10 s and 15 s for the next two do not fit into 10 s, heads of 0.5 s and 0.75 s do
    assert race(listed, 3, 0.91, 8, 20, head_seconds) == [(1, "frozen"), 0]  # 0.87 is more than 0.03 below 0.91
    assert race(listed, 3, 0.90, 8, 20, head_seconds) == [(1, "frozen"), (2, "frozen"), 0]
    assert race(listed, 3, 0.90, 8, None, head_seconds) == [0, 1, 2]


def test_the_best_probe_races_frozen_beside_a_cheaper_reference_and_what_lies_between_them_too():
    listed = [candidate(10**7, 0.90), candidate(10**8, 0.93), candidate(10**9, 0.95), candidate(2 * 10**9, 0.94)]
    # fine-tuned, 1 is expected to have 0.96; the head of 2 takes 25 s, that of 3, which costs more, is not asked
    assert race(listed, 1, 0.94, 8, 60, head_seconds) == [(2, "frozen"), 0]
    listed.append(candidate(2 * 10**8, 0.935))
    assert race(listed, 1, 0.94, 8, 100, head_seconds) == [(2, "frozen"), (4, "frozen"), 0]
    assert race(listed, 1, 0.94, 8, None, head_seconds) == [0]  # all the time: the best probe is the reference then
    random = listed[2]
    random.pretrained = False
    assert (2, "frozen") not in race(listed, 1, 0.94, 8, 100, head_seconds)


def test_cheaper_networks_leave_the_best_probe_the_time_to_train_its_head():
    """Half of 24 s, in which the heads of all but the reference take 5, 5, 5 and 6 s, and none can be fine-tuned."""
    costs = ((2 * 10**8, 0.90), (2 * 10**8 + 1, 0.90), (2 * 10**8 + 2, 0.90), (24 * 10**7, 0.93), (3 * 10**8, 0.91))
    listed = [candidate(macs, probe) for macs, probe in costs]
    assert race(listed, 4, 0.91, 8, 24, head_seconds, frozen=True) == [(0, "frozen"), (3, "frozen")]
    listed[3].probe.value = 0.91  # no better than the reference
    assert race(listed, 4, 0.91, 8, 24, head_seconds, frozen=True) == [(0, "frozen"), (1, "frozen")]
    listed[3].probe.value = 0.93
    assert race(listed, 4, 0.99, 8, 24, head_seconds, frozen=True) == [(3, "frozen")]  # a high target
    assert race(listed, 4, 0.91, 8, 1000, head_seconds, frozen=True) == [0, 1, 2, 3]
    assert race(listed, 4, 1.1, 8, 24, head_seconds, frozen=True) == [(3, "frozen")]  # 0.17 below what is needed


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


def test_of_equal_costs_fewer_macs_are_smaller():
    """The same cut at 32, 64 and 96 px has equal parameters, but not equal MACs."""
    listed = [candidate(macs, probe) for macs, probe in ((1000, 0.80), (4000, 0.90), (9000, 0.90))]
    for each in listed:
        each.costs.parameters = 50
    best = pick_reference(listed, range(3), "parameters", Times(seconds, never), None)
    assert best.index == 2
    raced = pick_race(listed, range(3), best, "parameters", 0.88, 8, Times(seconds, never), None)
    assert [each.index for each in raced] == [1, 0]  # 0 lacks most
    listed[0].costs.parameters = 60
    assert [cost_of(listed[0], key) for key in ("parameters", "macs", "latency_ms")] == [60, 1000, 1000]  # not measured
    listed[0].costs.parameters = 50
    ranks = {i: rank_of(each, "parameters") for i, each in enumerate(listed)}
    assert pick_finalists({0: 0.8, 1: 0.9, 2: 0.91}, ranks, 0.89, 2, reference=2) == [1]
