"""Drawings of a report."""

import numpy as np

from reports.svg import Point, pareto_front


def test_pareto_front_by_comparing_all_pairs():
    generator = np.random.default_rng(1)
    points = [Point(i, float(a), None, None, float(c)) for i, (a, c) in enumerate(generator.integers(0, 12, (60, 2)))]
    beaten = {
        p.rank for p in points for q in points
        if q.cost <= p.cost and q.accuracy >= p.accuracy and (q.cost < p.cost or q.accuracy > p.accuracy)
    }  # fmt: skip
    first = {(p.cost, p.accuracy): p.rank for p in reversed(points)}  # of equal ones the first
    assert pareto_front(points) == {
        p.rank for p in points if p.rank not in beaten and first[p.cost, p.accuracy] == p.rank
    }
