"""Which candidates are trained: the reference, those that race, the finalists; pure functions of costs, values and times."""

import math
from collections.abc import Callable, Sequence

from common.smallest_record import Candidate

SLACK = 0.02  # of the probed value, up to which a candidate counts as on the front of cost against accuracy
GAIN = 0.1  # the most that fine-tuning has added to a probed accuracy, where features are half made
REFERENCE_SHARE = 0.35  # of the time that is left, which one training of the reference may take
RACE_SHARE = 0.5  # likewise, the race
PRUNED_SHARE = 0.5  # of a whole training that a candidate of the race takes on average

Time = Callable[[Candidate], float]  # seconds of one whole training


def cost_of(candidate: Candidate, key: str) -> float:
    """Return a cost; where a latency was not measured, MACs, which order candidates about as it does."""
    value = candidate.costs.of(key)
    return float(candidate.costs.macs if value is None else value)


def pick_reference(candidates: Sequence[Candidate], cost: str, time_s: Time, left_s: float | None) -> int | None:
    """Return the index of the candidate with the best probe of which a training fits into the budget; of equals the cheapest.

    None: none was screened, or none fits.
    """
    screened = [i for i, each in enumerate(candidates) if each.probe is not None and not each.excluded]
    fit = [i for i in screened if left_s is None or time_s(candidates[i]) <= REFERENCE_SHARE * left_s]
    return min(fit, key=lambda i: (-candidates[i].probe.value, cost_of(candidates[i], cost)), default=None)


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
    such as two cuts of the same stage, say much the same. Then as many as fit into the budget.

    Args:
        need: the value that is good enough, by probes.
    """
    top = cost_of(candidates[reference], cost)
    others = [
        i
        for i, each in enumerate(candidates)
        if i != reference and each.probe is not None and not each.excluded and cost_of(each, cost) < top
    ]
    hopeful, best = [], -math.inf
    for i in sorted(others, key=lambda i: (cost_of(candidates[i], cost), -candidates[i].probe.value)):
        value = candidates[i].probe.value
        if value >= best - SLACK and value >= need - GAIN:
            hopeful.append(i)
        best = max(best, value)
    chosen = _spread(candidates, hopeful, cost, most)
    # Cheap ones that are good enough as they are come first, then those that lack least
    chosen.sort(key=lambda i: (max(0.0, need - candidates[i].probe.value), cost_of(candidates[i], cost)))
    if left_s is not None:
        spent, within = 0.0, []
        for i in chosen:
            spent += PRUNED_SHARE * time_s(candidates[i])
            if spent <= RACE_SHARE * left_s:
                within.append(i)
        chosen = within
    return chosen


def _spread(candidates: Sequence[Candidate], indices: list[int], cost: str, most: int) -> list[int]:
    """Return at most so many, the best probed one of each step of the logarithm of the cost."""
    if len(indices) <= most:
        return list(indices)
    costs = [math.log(max(cost_of(candidates[i], cost), 1e-9)) for i in indices]
    low, step = min(costs), (max(costs) - min(costs)) / most or 1.0
    best: dict[int, int] = {}
    for i, value in zip(indices, costs, strict=True):
        place = min(int((value - low) / step), most - 1)
        if place not in best or candidates[i].probe.value > candidates[best[place]].probe.value:
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
