"""Simulate how often the project's intervals contain the true value, in worlds where it is known; Markdown tables.

    python -m benchmarks.coverage [--part scores] [--replicates 2000] [--seed 0]

A part is a list of cases. A case draws one data set and returns, for each metric, the interval found on it and the true value.
A table has one row per case and two columns per metric: the share of replicates whose interval contains the true value
(nominally 0.95; its standard error is 0.005 with 2,000 replicates), and the mean width. Every case has its own random numbers,
so a part gives the same table whatever else runs. Uses every core.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from multiprocessing import Pool
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr, softmax
from scipy.stats import mannwhitneyu

from benchmarks.worlds import POINTS, WEIGHTS, draw_groups, draw_rows, seed_world
from evaluation.estimates import estimate_metrics
from evaluation.intervals import Interval, accuracy_interval
from evaluation.paired_tests import compare_pair

Simulate = Callable[[np.random.Generator], dict[str, tuple[Interval, float]]]


class Case(NamedTuple):
    """A world, and the function that draws and evaluates one data set from it; `simulate` can be pickled."""

    name: str
    simulate: Simulate


class Row(NamedTuple):
    """The results of a case's replicates, by metric."""

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
    """Return a Markdown table whose last line is the least coverage of each metric."""
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


COUNTS = (
    (25, 25), (50, 50), (100, 100), (45, 5), (90, 10), (190, 10), (48, 2), (302, 143), (60, 30, 10), (10,) * 10, (5,) * 20,
)  # fmt: skip
RECALLS = (0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
METRICS = {"balanced_accuracy": "BA", "f1": "macro F1", "auroc": "AUROC", "average_precision": "AP"}


def scores() -> list[Case]:
    """Return the worlds of balanced accuracy, macro F1, AUROC and average precision of one run."""
    return [
        Case(f"{_name(counts)}, {recall}", functools.partial(one_run, counts, recall))
        for counts in COUNTS
        for recall in RECALLS
    ]


def _name(counts: Sequence[int]) -> str:
    return f"{len(counts)} x {counts[0]}" if len(counts) > 3 else " + ".join(map(str, counts))


def one_run(
    counts: tuple[int, ...], recall: float, generator: np.random.Generator
) -> dict[str, tuple[Interval, float]]:
    """Draw one run's logits, normal with SD 1 and the true class shifted, and estimate its metrics.

    Args:
        counts: images of each class.
        recall: true recall of each class; with two classes the threshold lies in the middle.
        generator: draws the logits.
    """
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = generator.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += shift(recall, len(counts))
    found = estimate_metrics(labels, softmax(logits, axis=1), logits, resamples=1000)
    truth = true_metrics(counts, recall)
    return {METRICS[name]: (each.interval, truth[name]) for name, each in found.items()}


GROUPED = ((20, 5, 0.4), (40, 5, 0.7), (10, 20, 0.3), (44, 10, 0.1))  # groups, images in each, correlation of log odds
# Single images of one class, groups of the other
HALF_GROUPED = ((400, 10, 10, 0.6), (200, 20, 10, 0.6), (200, 40, 5, 0.5))


def grouped_scores() -> list[Case]:
    """Return the worlds of one run's metrics on images in groups, with two classes; a group has one class or both.

    In the last worlds only the images of the second class are in groups.
    """
    worlds = []
    for number, size, alike in GROUPED:
        of = np.repeat(np.arange(number), size)
        name = f"{number} groups of {size}, correlation {alike}"
        worlds.append((f"{name}, one class", of % 2, of, alike))
        worlds.append((f"{name}, both classes", np.arange(len(of)) % 2, of, alike))
    for single, number, size, alike in HALF_GROUPED:
        of = np.append(np.arange(single), single + np.repeat(np.arange(number), size))
        name = f"{single} images and {number} groups of {size}, correlation {alike}"
        worlds.append((name, (of >= single).astype(int), of, alike))
    return [
        Case(f"{name}, {recall}", functools.partial(one_grouped_run, *world, recall))
        for name, *world in worlds
        for recall in (0.8, 0.9, 0.95)
    ]


def one_grouped_run(
    labels: np.ndarray, of: np.ndarray, alike: float, recall: float, generator: np.random.Generator
) -> dict[str, tuple[Interval, float]]:
    """Draw one run with two classes; the images of a group are about equally hard."""
    hard = generator.normal(size=of.max() + 1)[of]
    noise = np.sqrt(alike) * hard + np.sqrt(1 - alike) * generator.normal(size=len(of))
    margin = (shift(recall, 2) + noise * np.sqrt(2)) * (2 * labels - 1)
    logits = np.stack([-margin / 2, margin / 2], axis=1)
    found = estimate_metrics(labels, softmax(logits, axis=1), logits, of, resamples=1000)
    truth = true_metrics(tuple(np.bincount(labels).tolist()), recall)
    return {METRICS[name]: (each.interval, truth[name]) for name, each in found.items()}


@functools.cache
def shift(recall: float, classes: int) -> float:
    """Return the shift of the true class's normal logit that makes it the largest with probability `recall`."""
    return brentq(lambda d: WEIGHTS @ ndtr(POINTS + d) ** (classes - 1) - recall, 0, 20)


@functools.cache
def true_metrics(counts: tuple[int, ...], recall: float) -> dict[str, float]:
    """Return the metrics of infinitely many images with the class shares of `counts`.

    With more than two classes, AUROC is estimated from 200,000 positives and as many negatives.
    """
    n, classes, d = np.array(counts, dtype=np.float64), len(counts), shift(recall, len(counts))
    wrong = (1 - recall) / (classes - 1)
    predicted = recall * n + wrong * (n.sum() - n)
    truth = {"balanced_accuracy": recall, "f1": float(np.mean(2 * recall * n / (n + predicted)))}
    if classes == 2:
        at = np.sqrt(2) * POINTS + d  # log odds of the positives
        above = n[1] * ndtr((d - at) / np.sqrt(2))
        precision = above / (above + n[0] * ndtr((-d - at) / np.sqrt(2)))
        return truth | {"auroc": float(ndtr(d)), "average_precision": float(WEIGHTS @ precision)}
    logits = np.random.default_rng(0).normal(size=(400_000, classes))
    logits[::2, 0] += d
    logits[1::2, 1] += d
    odds = logits[:, 0] - logsumexp(logits[:, 1:], axis=1)
    return truth | {"auroc": float(mannwhitneyu(odds[::2], odds[1::2]).statistic) / 200_000**2}


SEEDS, IMAGES, ACCURACIES = (1, 2, 3, 5), (25, 50, 100, 250, 1000), (0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
SPREADS = (0.0, 0.01, 0.02)  # standard deviations of the accuracies of seeds
GROUPS = ((20, 5, 1.2), (20, 10, 1.2), (40, 5, 3.0), (10, 20, 1.2), (44, 10, 0.5))  # groups, images in each, how alike
UNEQUAL = {
    "one of 200, 200 single images": (200, *[1] * 200),
    "one of 200, 20 of 10": (200, *[10] * 20),
    "1, 2, 4 to 256": tuple(2**k for k in range(9)),
}


def accuracy() -> list[Case]:
    """Return the worlds of an accuracy over seeds and images; with one seed, of that trained network."""
    return [Case(name, functools.partial(one_accuracy, *world)) for name, world in _seed_worlds()]


def difference() -> list[Case]:
    """Return the worlds of the difference of two settings, the second 0.02 worse."""
    return [Case(name, functools.partial(one_difference, *world)) for name, world in _seed_worlds()]


def groups() -> list[Case]:
    """Return the worlds of images in groups of equal and of very unequal sizes."""
    worlds = [(f"{number} groups of {size}", (size,) * number, alike, 1) for number, size, alike in GROUPS]
    worlds += [
        (name, sizes, alike, seeds) for name, sizes in UNEQUAL.items() for alike in (0.5, 1.5) for seeds in (1, 3, 5)
    ]
    return [
        Case(
            f"{name}, alike {alike:g}{f', {seeds} seeds' * (seeds > 1)}",
            functools.partial(one_grouped, sizes, alike, seeds),
        )
        for name, sizes, alike, seeds in worlds
    ]


def _seed_worlds() -> list[tuple[str, tuple[int, int, float]]]:
    worlds = [(seeds, n, sd) for seeds in SEEDS for n in IMAGES for sd in (SPREADS if seeds > 1 else (0.0,))]
    return [(f"{seeds} seed{'s' * (seeds > 1)} (SD {sd:g}), {n:,} images", (seeds, n, sd)) for seeds, n, sd in worlds]


def _accuracies(spread: float) -> list[float]:
    """Return the accuracies that seeds of this spread can have: the spread may not exceed the error rate."""
    return [value for value in ACCURACIES if spread <= (1 - value) + 1e-9]


def one_accuracy(
    seeds: int, n: int, spread: float, generator: np.random.Generator
) -> dict[str, tuple[Interval, float]]:
    """Draw which images the seeds of a setting get right, for each accuracy."""
    found = {}
    for value in _accuracies(spread):
        (right,) = draw_rows(generator, [seed_world(value, spread)], seeds, n)
        found[f"{value:g}"] = accuracy_interval(right), value
    return found


def one_difference(
    seeds: int, n: int, spread: float, generator: np.random.Generator
) -> dict[str, tuple[Interval, float]]:
    """Draw two settings on the same images, for each accuracy of the better one."""
    found = {}
    for value in _accuracies(spread):
        worlds = [seed_world(value - 0.02, spread), seed_world(value, spread)]
        pair = compare_pair(*draw_rows(generator, worlds, seeds, n), 0.02)
        found[f"{value:g}"] = Interval(pair.low, pair.high), -0.02
    return found


def one_grouped(
    sizes: tuple[int, ...], alike: float, seeds: int, generator: np.random.Generator
) -> dict[str, tuple[Interval, float]]:
    """Draw which images, in groups of these sizes, one network or several seeds get right, for each accuracy."""
    found = {}
    for value in ACCURACIES:
        right, of = draw_groups(generator, value, sizes, alike, seeds)
        found[f"{value:g}"] = accuracy_interval(right, of), value
    return found


PARTS: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "accuracy": ("Accuracy: columns are true accuracies", accuracy),
    "difference": (
        "Difference of two settings, the second 0.02 worse: columns are accuracies of the first",
        difference,
    ),
    "groups": ("Accuracy on images in groups: columns are true accuracies", groups),
    "grouped_scores": ("One run on images in groups, the last number the true recall of each class", grouped_scores),
    "scores": ("One run: images of each class, true recall of each class", scores),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--replicates", type=int, default=2000, help="replicates of each case; 2000 by default")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--part", choices=PARTS, help="all parts by default")
    args = options.parse_args()
    with Pool() as pool:
        for title, cases in [PARTS[args.part]] if args.part else PARTS.values():
            rows = pool.map(
                functools.partial(measure, replicates=args.replicates, seed=args.seed), cases(), chunksize=1
            )
            print(table(title, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
