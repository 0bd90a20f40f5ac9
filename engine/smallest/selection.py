"""Which candidates are trained: the reference, those that race, the finalists; pure functions of costs, values and times."""

import math
from collections.abc import Callable, Sequence

from common.smallest_record import Candidate

SLACK = 0.02  # of the probed value, up to which a candidate counts as on the front of cost against accuracy
GAIN = 0.07  # more than fine-tuning adds, as a rule, to a probed value beyond what it adds to that of the reference
REFERENCE_SHARE = 0.35  # of the time that is left, which one training of the reference may take
RACE_SHARE = 0.5  # likewise, the race
PRUNED_SHARE = 0.5  # of a whole training that a candidate of the race takes on average

Time = Callable[[Candidate], float]  # seconds of one whole training


def cost_of(candidate: Candidate, key: str) -> float:
    """Return a cost; where a latency was not measured, MACs, which order candidates about as it does."""
    value = candidate.costs.of(key)
    return float(candidate.costs.macs if value is None else value)


def is_raced_unprobed(candidate: Candidate) -> bool:
    """Return whether a candidate has random weights because that was asked for: a probe would say nothing of it."""
    return candidate.weights == "random" and not candidate.pretrained


def pick_reference(candidates: Sequence[Candidate], cost: str, time_s: Time, left_s: float | None) -> int | None:
    """Return the index of the candidate with the best probe of which a training fits into the budget; of equals the cheapest.

    Where none has a probe, the most expensive one of those with random weights. None: there is none, or none fits.
    """
    possible = [i for i, each in enumerate(candidates) if not each.excluded]
    fit = [i for i in possible if left_s is None or time_s(candidates[i]) <= REFERENCE_SHARE * left_s]
    probed = [i for i in fit if candidates[i].probe is not None]
    if probed:
        return min(probed, key=lambda i: (-candidates[i].probe.value, cost_of(candidates[i], cost)))
    unprobed = [i for i in fit if is_raced_unprobed(candidates[i])]
    return max(unprobed, key=lambda i: cost_of(candidates[i], cost), default=None)


def pick_race(
    candidates: Sequence[Candidate],
    reference: int,
    cost: str,
    need: float,
    most: int,
    time_s: Time,
    left_s: float | None,
) -> list[int]:
    """Return the candidates that race against the reference, the most promising first.

    All are cheaper than it, near the front of cost against probed value (SLACK), and so good that fine-tuning can lift them to
    `need` (GAIN). Of more than `most` one is taken of each of so many equal steps of the logarithm of the cost: neighbors,
    such as two cuts of the same stage, say much the same. Then as many as fit into the budget. Those with random weights
    that were asked for have no probe, and take part as far as there are places.

    Args:
        need: the value that is good enough, by probes.
    """
    top = cost_of(candidates[reference], cost)
    cheaper = [
        i for i, each in enumerate(candidates) if not each.excluded and cost_of(each, cost) < top and i != reference
    ]
    hopeful, best = [], -math.inf
    for i in sorted(cheaper, key=lambda i: (cost_of(candidates[i], cost), -_probed(candidates[i]))):
        value = _probed(candidates[i])
        if candidates[i].probe is not None and value >= best - SLACK and value >= need - GAIN:
            hopeful.append(i)
        best = max(best, value)
    chosen = _spread(candidates, hopeful, cost, most)
    unprobed = [i for i in cheaper if candidates[i].probe is None and is_raced_unprobed(candidates[i])]
    chosen += _spread(candidates, unprobed, cost, most - len(chosen))
    # Cheap ones that are good enough as they are come first, then those that lack least
    chosen.sort(key=lambda i: (max(0.0, need - _probed(candidates[i])), cost_of(candidates[i], cost)))
    if left_s is not None:
        spent, within = 0.0, []
        for i in chosen:
            spent += PRUNED_SHARE * time_s(candidates[i])
            if spent <= RACE_SHARE * left_s:
                within.append(i)
        chosen = within
    return chosen


def _probed(candidate: Candidate) -> float:
    return -math.inf if candidate.probe is None else candidate.probe.value


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
    return sorted(best.values(), key=lambda i: cost_of(candidates[i], cost))


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
    values: dict[int, float], costs: dict[int, float], need: float, most: int, reference: int
) -> list[int]:
    """Return who is trained with all seeds beside the reference: the cheapest that may be good enough, then the safest.

    Args:
        values: of those that finished the race, on validation, with one seed.
        need: the value that is good enough.
    """
    cheaper = [i for i in values if i != reference and costs[i] < costs[reference]]
    hopeful = sorted((i for i in cheaper if values[i] >= need), key=lambda i: (costs[i], -values[i]))
    if not hopeful:
        return sorted(cheaper, key=lambda i: (-values[i], costs[i]))[:1]
    first, others = hopeful[0], sorted(hopeful[1:], key=lambda i: (-values[i], costs[i]))
    return [first, *others[: most - 1]]
