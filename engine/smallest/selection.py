"""Choose which candidates are trained, and how: reference, race, finalists. Pure functions of costs and times."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from common.smallest_record import Candidate
from engine.smallest.plan import TrainingTimes

SLACK = 0.03  # in probed value, about its noise: how far below the front of cost and value a candidate may be
TUNING = 0.03  # what fine-tuning adds to a probed value on average
GAIN = 0.07  # upper bound, as a rule, on how much more fine-tuning adds to a candidate's probe than to the reference's
REFERENCE_SHARE = 0.35  # share of the remaining time that one training of the reference may take
RACE_SHARE = 0.5  # share of the remaining time that the race may take
PRUNED_SHARE = 0.5  # share of a whole training that a candidate of the race takes on average


class Racer(NamedTuple):
    """A candidate that is trained in the race."""

    index: int
    frozen: bool
    """Whether only its head is trained, which takes seconds, because the remaining time is too short to fine-tune it."""
    expected: float
    """Its metric after training, predicted from its probe; -inf without a probe."""


def cost_of(candidate: Candidate, key: str) -> float:
    """Return a cost; in place of an unmeasured latency, the MACs, which order candidates in about the same way."""
    value = candidate.costs.of(key)
    return float(candidate.costs.macs if value is None else value)


def rank_of(candidate: Candidate, key: str) -> tuple[float, int]:
    """Return the sort key for a cost; MACs break ties, such as equal parameters of one cut at several image sizes."""
    return cost_of(candidate, key), candidate.costs.macs


def is_raced_unprobed(candidate: Candidate) -> bool:
    """Return whether a candidate has random weights on request, so that it races without a probe, which would be useless."""
    return candidate.weights == "random" and not candidate.pretrained


def pick_reference(
    candidates: Sequence[Candidate], pool: Sequence[int], cost: str, times: TrainingTimes, left_s: float | None
) -> Racer | None:
    """Return the candidate that is likely to be the most accurate after training in the remaining time, or None.

    The images cannot tell apart candidates within a standard error of the best. The most expensive of them becomes the
    reference: the cheaper ones race against it, whereas a reference that training does not improve would leave nothing to
    compare with (docs/experiments.md). Without any probe, the most expensive candidate with random weights is the reference.

    Args:
        pool: the candidates to choose among.
        left_s: remaining seconds; None: no limit.
    """
    within_s = math.inf if left_s is None else REFERENCE_SHARE * left_s
    tuned = [i for i in pool if not candidates[i].excluded and times.of(candidates[i]) <= within_s]
    racers = [Racer(i, False, _probed(candidates[i]) + TUNING) for i in tuned if candidates[i].probe is not None]
    racers += [Racer(i, True, _probed(candidates[i])) for i in _can_freeze(candidates, pool, times, within_s)]
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
    pool: Sequence[int],
    reference: Racer,
    cost: str,
    need: float,
    most: int,
    times: TrainingTimes,
    left_s: float | None,
    *,
    with_best: bool = True,
) -> list[Racer]:
    """Return the candidates that race against the reference: frozen ones first, since they take seconds, then by promise.

    A candidate with a better probe than the reference and a higher cost, too slow to be fine-tuned in time, always races
    frozen. All others have to be cheaper than the reference or than that candidate, near the front of cost and probed value
    (SLACK), and good enough for fine-tuning to lift them to `need` (GAIN). Fine-tuning is assumed to add at least what it added
    to a trained reference. The best probe races, too: the time to train its head is reserved.

    Where more than `most` qualify, the range of costs is divided into `most` equal steps on a logarithmic scale, and each step
    gives its best probe, since neighbors such as two cuts of one stage are much alike. As many race as fit into the budget;
    others race frozen where their probe is about good enough as it is. Candidates with random weights on request have no
    probe; they fill the places that are left.

    Args:
        pool: the candidates to choose among, besides the reference.
        need: the value that is good enough.
        left_s: remaining seconds after the training of the reference; None: no limit.
        with_best: whether a better probe with a higher cost may race.
    """
    lead, adds = candidates[reference.index], TUNING
    if lead.probe is not None and not reference.frozen:
        adds = max(TUNING, reference.expected - lead.probe.value)
    race_s = math.inf if left_s is None else RACE_SHARE * left_s
    frozen = set() if left_s is None else set(_can_freeze(candidates, pool, times, race_s))
    best = min(frozen, key=lambda i: (-_probed(candidates[i]), rank_of(candidates[i], cost)), default=reference.index)
    is_better = with_best and _probed(candidates[best]) > _probed(lead)
    leads = is_better and rank_of(candidates[best], cost) > rank_of(lead, cost)
    top = rank_of(candidates[best] if leads else lead, cost)
    cheaper = [
        i for i in pool if not candidates[i].excluded and rank_of(candidates[i], cost) < top and i != reference.index
    ]
    hopeful = [i for i in _near_front(candidates, cheaper, cost) if _probed(candidates[i]) >= need - adds - GAIN]
    chosen = _spread(candidates, hopeful, cost, most)
    unprobed = [i for i in cheaper if candidates[i].probe is None and is_raced_unprobed(candidates[i])]
    chosen += _spread(candidates, unprobed, cost, most - len(chosen))
    if is_better and not leads and best not in chosen:
        chosen.append(best)  # far below a target, and yet the most accurate one
    # The cheapest of those expected to be good enough come first, then those that lack least
    chosen.sort(key=lambda i: (max(0.0, need - adds - _probed(candidates[i])), rank_of(candidates[i], cost)))
    racers = [Racer(best, True, _probed(candidates[best]))] if leads else []
    # Cheaper ones must not take the last seconds from the best probe, next to which they have to be good enough
    free_s = race_s - (times.of_head(candidates[best]) if is_better else 0.0)
    for i in chosen:
        value, heads_s = _probed(candidates[i]), times.of_head(candidates[i])
        tuning_s = PRUNED_SHARE * times.of(candidates[i])
        is_best = is_better and i == best
        free_s += heads_s if is_best else 0.0
        if tuning_s <= free_s:
            racers.append(Racer(i, False, value + adds))
            free_s -= tuning_s
        elif i in frozen and (is_best or value >= need - SLACK) and heads_s <= free_s:
            racers.append(Racer(i, True, value))
            free_s -= heads_s
    return sorted(racers, key=lambda each: not each.frozen)


def _can_freeze(
    candidates: Sequence[Candidate], pool: Sequence[int], times: TrainingTimes, within_s: float
) -> list[int]:
    """Return the probed candidates of a pool whose heads can be trained in that time."""
    probed = (i for i in pool if candidates[i].pretrained and candidates[i].probe is not None)
    return [i for i in probed if not candidates[i].excluded and times.of_head(candidates[i]) <= within_s]


def _near_front(candidates: Sequence[Candidate], indices: list[int], cost: str) -> list[int]:
    """Return the probed candidates that none with a lower cost beats by more than SLACK, by cost."""
    found, front = [], -math.inf
    for i in sorted(indices, key=lambda i: (rank_of(candidates[i], cost), -_probed(candidates[i]))):
        value = _probed(candidates[i])
        if candidates[i].probe is not None and value >= front - SLACK:
            found.append(i)
        front = max(front, value)
    return found


def _probed(candidate: Candidate) -> float:
    return -math.inf if candidate.probe is None else candidate.probe.value


def _standard_error(candidate: Candidate) -> float:
    """Return the standard error of a probe, as for a proportion; a perfect probe counts as having half an error."""
    value, n = candidate.probe.value, candidate.probe.n
    return math.sqrt(max(value * (1 - value), 0.5 / n) / n) if n else 0.0


def _spread(candidates: Sequence[Candidate], indices: list[int], cost: str, most: int) -> list[int]:
    """Return at most `most` candidates: the best probe in each of equal steps of the logarithm of the cost."""
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
    """Return what the race ranks by: any shortfall from good enough plus half the margin, then the cost.

    Args:
        value: the metric after an epoch.
        best: the best value of any run after that epoch.
        margin: how far below `best` is good enough.
        target: the value that is good enough; None: `best` minus the margin.
        cost_ratio: cost divided by the reference's cost.
    """
    need = best - margin / 2 if target is None else target + margin / 2
    return min(0.0, value - need) + 0.002 * -math.log2(max(cost_ratio, 1e-9))


def pick_finalists(
    values: dict[int, float], costs: dict[int, tuple[float, int]], need: float, most: int, reference: int
) -> list[int]:
    """Return the candidates to train with all seeds beside the reference: the cheapest good one, then the most accurate.

    Args:
        values: validation metric, with one seed, of the candidates that finished the race.
        costs: their sort keys (`rank_of`).
        need: the value that is good enough.
    """
    cheaper = [i for i in values if i != reference and costs[i] < costs[reference]]
    hopeful = sorted((i for i in cheaper if values[i] >= need), key=lambda i: (costs[i], -values[i]))
    if not hopeful:
        return sorted(cheaper, key=lambda i: (-values[i], costs[i]))[:1]
    first, others = hopeful[0], sorted(hopeful[1:], key=lambda i: (-values[i], costs[i]))
    return [first, *others[: most - 1]]
