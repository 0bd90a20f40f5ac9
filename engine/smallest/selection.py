"""Which candidates are trained, and how: the reference, those that race, the finalists; pure functions of costs and times."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.smallest_record import Candidate

SLACK = 0.03  # of the probed value, about its noise, up to which a candidate counts as on the front of cost against it
TUNING = 0.03  # that fine-tuning adds to a probed value, on average
GAIN = 0.07  # more than fine-tuning adds, as a rule, to a probed value beyond what it adds to that of the reference
REFERENCE_SHARE = 0.35  # of the time that is left, which one training of the reference may take
RACE_SHARE = 0.5  # likewise, the race
PRUNED_SHARE = 0.5  # of a whole training that a candidate of the race takes on average

Time = Callable[[Candidate], float]  # seconds of one whole training


class Racer(NamedTuple):
    """A candidate that is trained in the race."""

    index: int
    frozen: bool
    """Whether only its head is trained, in seconds: the time that is left does not allow to fine-tune it."""
    expected: float
    """Its value after training, by its probe; -inf where it has none."""


def cost_of(candidate: Candidate, key: str) -> float:
    """Return a cost; where a latency was not measured, MACs, which order candidates about as it does."""
    value = candidate.costs.of(key)
    return float(candidate.costs.macs if value is None else value)


def rank_of(candidate: Candidate, key: str) -> tuple[float, int]:
    """Return what orders candidates by a cost; of equals, as one cut at several image sizes has equal parameters, by MACs."""
    return cost_of(candidate, key), candidate.costs.macs


def is_raced_unprobed(candidate: Candidate) -> bool:
    """Return whether a candidate has random weights because that was asked for: a probe would say nothing of it."""
    return candidate.weights == "random" and not candidate.pretrained


def pick_reference(
    candidates: Sequence[Candidate], cost: str, time_s: Time, head_s: Time, left_s: float | None
) -> Racer | None:
    """Return the candidate that is likely to be the most accurate one within the time that is left.

    Of those within a standard error of the best, which the images cannot tell apart, the most expensive: what is cheaper races
    against it, and a reference that training does not lift would leave nothing to compare with (docs/experiments.md).
    Where none has a probe, the most expensive one of those with random weights. None: there is none, or none fits.

    Args:
        head_s: seconds to train the head of a frozen backbone.
    """
    possible = [i for i, each in enumerate(candidates) if not each.excluded]
    within_s = math.inf if left_s is None else REFERENCE_SHARE * left_s
    tuned = [i for i in possible if time_s(candidates[i]) <= within_s]
    racers = [Racer(i, False, _probed(candidates[i]) + TUNING) for i in tuned if candidates[i].probe is not None]
    racers += [Racer(i, True, _probed(candidates[i])) for i in _can_freeze(candidates, head_s, within_s)]
    if racers:
        best = max(racers, key=lambda each: each.expected)
        within = best.expected - _standard_error(candidates[best.index])
        near = [each for each in racers if each.expected >= within]
        return max(near, key=lambda each: (rank_of(candidates[each.index], cost), each.expected, not each.frozen))
    unprobed = [i for i in tuned if is_raced_unprobed(candidates[i])]
    largest = max(unprobed, key=lambda i: rank_of(candidates[i], cost), default=None)
    return None if largest is None else Racer(largest, False, -math.inf)


def pick_race(
    candidates: Sequence[Candidate],
    reference: Racer,
    cost: str,
    need: float,
    most: int,
    time_s: Time,
    head_s: Time,
    left_s: float | None,
    *,
    with_best: bool = True,
) -> list[Racer]:
    """Return what races against the reference: the frozen ones, which take seconds, then the most promising ones first.

    A better probe that costs more than the reference, which the time is too short to fine-tune, races in any case, frozen.
    The others are cheaper than one of the two, near the front of cost against probed value (SLACK), and so good that
    fine-tuning can lift them to `need` (GAIN), which adds to them at least what it has added to a reference that is trained.
    Of more than `most` one is taken of each of so many equal steps of the logarithm of the cost: neighbors, such as two cuts
    of the same stage, say much the same. Then as many as fit into the budget; of the others those race frozen whose probe is
    about good enough as it is. Those with random weights that were asked for have no probe, and take part as far as there are
    places.

    Args:
        need: the value that is good enough.
        head_s: seconds to train the head of a frozen backbone.
        left_s: besides the training of the reference.
        with_best: whether a better probe that costs more does.
    """
    lead, adds = candidates[reference.index], TUNING
    if lead.probe is not None and not reference.frozen:
        adds = max(TUNING, reference.expected - lead.probe.value)
    frozen = set() if left_s is None else set(_can_freeze(candidates, head_s, RACE_SHARE * left_s))
    best = min(frozen, key=lambda i: (-_probed(candidates[i]), rank_of(candidates[i], cost)), default=reference.index)
    leads = (
        with_best
        and _probed(candidates[best]) > _probed(lead)
        and rank_of(candidates[best], cost) > rank_of(lead, cost)
    )
    top = max(rank_of(candidates[i], cost) for i in (reference.index, *([best] if leads else [])))
    cheaper = [
        i for i, each in enumerate(candidates)
        if not each.excluded and rank_of(each, cost) < top and i not in (reference.index, best if leads else None)
    ]  # fmt: skip
    hopeful, front = [], -math.inf
    for i in sorted(cheaper, key=lambda i: (rank_of(candidates[i], cost), -_probed(candidates[i]))):
        value = _probed(candidates[i])
        if candidates[i].probe is not None and value >= front - SLACK and value >= need - adds - GAIN:
            hopeful.append(i)
        front = max(front, value)
    chosen = _spread(candidates, hopeful, cost, most)
    unprobed = [i for i in cheaper if candidates[i].probe is None and is_raced_unprobed(candidates[i])]
    chosen += _spread(candidates, unprobed, cost, most - len(chosen))
    # Cheap ones that are good enough as they are come first, then those that lack least
    chosen.sort(key=lambda i: (max(0.0, need - adds - _probed(candidates[i])), rank_of(candidates[i], cost)))
    racers = [Racer(best, True, _probed(candidates[best]))] if leads else []
    free_s = (
        math.inf if left_s is None else RACE_SHARE * left_s - sum(head_s(candidates[each.index]) for each in racers)
    )
    for i in chosen:
        value, tuning_s, heads_s = _probed(candidates[i]), PRUNED_SHARE * time_s(candidates[i]), head_s(candidates[i])
        if tuning_s <= free_s:
            racers.append(Racer(i, False, value + adds))
            free_s -= tuning_s
        elif i in frozen and value >= need - SLACK and heads_s <= free_s:
            racers.append(Racer(i, True, value))
            free_s -= heads_s
    return sorted(racers, key=lambda each: not each.frozen)


def _can_freeze(candidates: Sequence[Candidate], head_s: Time, within_s: float) -> list[int]:
    """Return the candidates of which a head can be trained in that time, on features that a probe has tried."""
    return [
        i for i, each in enumerate(candidates)
        if not each.excluded and each.pretrained and each.probe is not None and head_s(each) <= within_s
    ]  # fmt: skip


def _probed(candidate: Candidate) -> float:
    return -math.inf if candidate.probe is None else candidate.probe.value


def _standard_error(candidate: Candidate) -> float:
    """Return that of its probe, as of a share of its images; one that has all right counts as with half an error."""
    value, n = candidate.probe.value, candidate.probe.n
    return math.sqrt(max(value * (1 - value), 0.5 / n) / n) if n else 0.0


def _spread(candidates: Sequence[Candidate], indices: list[int], cost: str, most: int) -> list[int]:
    """Return at most so many, the best probed one of each step of the logarithm of the cost."""
    if len(indices) <= most:
        return list(indices)
    if most < 1:
        return []
    costs = [math.log(max(cost_of(candidates[i], cost), 1e-9)) for i in indices]
    low, step = min(costs), (max(costs) - min(costs)) / most or 1.0
    best: dict[int, int] = {}
    for i, value in zip(indices, costs, strict=True):
        place = min(int((value - low) / step), most - 1)
        if place not in best or _probed(candidates[i]) > _probed(candidates[best[place]]):
            best[place] = i
    return sorted(best.values(), key=lambda i: rank_of(candidates[i], cost))


def utility(value: float, best: float, margin: float, target: float | None, cost_ratio: float) -> float:
    """Return what the race ranks by: no loss for what is good enough with half of the margin to spare, then the cheaper one.

    Args:
        value: of the metric after an epoch.
        best: the best value of any run after that epoch.
        target: the value that is enough; None: `best` less the margin.
        cost_ratio: cost over that of the reference.
    """
    need = best - margin / 2 if target is None else target + margin / 2
    return min(0.0, value - need) + 0.002 * -math.log2(max(cost_ratio, 1e-9))


def pick_finalists(
    values: dict[int, float], costs: dict[int, tuple[float, int]], need: float, most: int, reference: int
) -> list[int]:
    """Return who is trained with all seeds beside the reference: the cheapest that may be good enough, then the safest.

    Args:
        values: of those that finished the race, on validation, with one seed.
        costs: what orders them, as of `rank_of`.
        need: the value that is good enough.
    """
    cheaper = [i for i in values if i != reference and costs[i] < costs[reference]]
    hopeful = sorted((i for i in cheaper if values[i] >= need), key=lambda i: (costs[i], -values[i]))
    if not hopeful:
        return sorted(cheaper, key=lambda i: (-values[i], costs[i]))[:1]
    first, others = hopeful[0], sorted(hopeful[1:], key=lambda i: (-values[i], costs[i]))
    return [first, *others[: most - 1]]
