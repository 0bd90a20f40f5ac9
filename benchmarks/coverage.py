"""How often the project's intervals hold the truth, by simulation of worlds in which it is known, as tables in Markdown.

    python -m benchmarks.coverage [--part scores] [--replicates 2000] [--seed 0]

A part is a list of cases. A case draws one data set and returns, by the name of the metric, the interval found on it and the
true value. A table has a row a case and two columns a metric: the share of the replicates whose interval holds the true
value (nominal 0.95, its standard error 0.005 for 2,000 replicates), and the mean width. Every case has random numbers of its
own, so that a part gives the same table whatever else runs. Uses every core.
"""

import argparse
import functools
from collections.abc import Callable
from multiprocessing import Pool
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from evaluation.intervals import Interval
from evaluation.scores import bootstrap_intervals

Simulate = Callable[[np.random.Generator], dict[str, tuple[Interval, float]]]


class Case(NamedTuple):
    """A world, and what is found on one data set drawn from it; `simulate` can be pickled."""

    name: str
    simulate: Simulate


class Row(NamedTuple):
    """What the replicates of a case gave, by the name of the metric."""

    name: str
    coverage: dict[str, float]
    width: dict[str, float]


def measure(case: Case, replicates: int, seed: int) -> Row:
    """Simulate a case; `seed` and the case's name determine the random numbers."""
    generator = np.random.default_rng([seed, *case.name.encode()])
    found = [case.simulate(generator) for _ in range(replicates)]
    coverage, width = {}, {}
    for name in found[0]:
        intervals = [each[name] for each in found if name in each]
        coverage[name] = float(np.mean([interval.low <= truth <= interval.high for interval, truth in intervals]))
        width[name] = float(np.mean([interval.high - interval.low for interval, _ in intervals]))
    return Row(case.name, coverage, width)


def table(title: str, rows: list[Row]) -> str:
    """Return a table in Markdown, with the least coverage of each metric as its last line."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.coverage))
    lines = [f"### {title}", "", "| | " + " | ".join(f"{name} | width" for name in metrics) + " |"]
    lines.append("|---|" + "---|" * 2 * len(metrics))
    for row in rows:
        cells = [
            f"{row.coverage[name]:.3f} | {row.width[name]:.3f}" if name in row.coverage else "- | -" for name in metrics
        ]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    least = [min(row.coverage[name] for row in rows if name in row.coverage) for name in metrics]
    lines.append("| least | " + " | ".join(f"{value:.3f} | " for value in least) + " |")
    return "\n".join(lines)


def scores() -> list[Case]:
    """Return the worlds of balanced accuracy, macro F1, AUROC and average precision of one run."""
    return [
        Case(f"{' + '.join(map(str, counts))}, {accuracy}", functools.partial(two_classes, counts, accuracy))
        for counts in ((25, 25), (45, 5))
        for accuracy in (0.8, 0.97)
    ]


def two_classes(counts, accuracy, generator):
    """Draw one run of two classes whose scores are normal, the threshold in the middle between their means."""
    shift = 2 * ndtri(accuracy)
    labels = np.repeat([0, 1], counts)
    scores = generator.normal(size=len(labels)) + shift * (labels - 0.5)
    probability = 1 / (1 + np.exp(-scores))
    found = bootstrap_intervals(labels, np.stack([1 - probability, probability], axis=1))
    return {"balanced accuracy": (found["balanced_accuracy"], accuracy)}


PARTS: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "scores": ("Metrics of one run: images of each class, true balanced accuracy", scores),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--replicates", type=int, default=2000, help="of each case; 2000 by default")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--part", choices=PARTS, help="all of them by default")
    args = options.parse_args()
    with Pool() as pool:
        for title, cases in [PARTS[args.part]] if args.part else PARTS.values():
            rows = pool.map(
                functools.partial(measure, replicates=args.replicates, seed=args.seed), cases(), chunksize=1
            )
            print(table(title, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
