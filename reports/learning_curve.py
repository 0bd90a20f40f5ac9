"""Accuracy against the number of training images: would more images help, or a larger network?"""

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError
from common.predictions_csv import correct_matrix, has_predictions, read_predictions
from evaluation.intervals import TwoWayMean, two_way_difference, two_way_random_effects
from evaluation.paired_tests import format_p
from reports.load_runs import Run, find_records, load_runs


class Point(NamedTuple):
    """One network trained on one number of images, or one share of them: then `n_train` is a mean over the seeds."""

    model: str
    parameters: int
    n_train: int
    seeds: list[int | None]
    right: np.ndarray  # (seeds, images) bool
    accuracy: TwoWayMean


class Curves(NamedTuple):
    """Points by network, the smallest first, each by the number of training images."""

    split: str
    points: dict[str, list[Point]]
    excluded: list[str]  # records, with the reason


def read_curves(folder: Path) -> Curves:
    """Read the finished runs below a folder; accuracy is on test images, or on those of val where a run has no test.

    Raises:
        UserError: no record, none finished, or runs that were measured on different images.
    """
    loaded = load_runs(find_records(str(folder)))
    trained = [run for run in loaded.finished if run.record.best]
    runs = [run for run in trained if _has_sizes(run)]
    if not runs:
        raise UserError(f"{folder}: no finished run to draw a learning curve from; see the errors of its runs")
    excluded = [why for _, why in loaded.excluded]
    excluded += [
        f"{run.name}: its record lacks parameters or training images" for run in trained if not _has_sizes(run)
    ]
    split = "test" if all(has_predictions(run.folder, "test") for run in runs) else "val"
    correct = correct_matrix([read_predictions(run.folder, split) for run in runs])  # refuses runs on other images
    places: dict[tuple, list[int]] = defaultdict(list)
    for index in sorted(range(len(runs)), key=lambda index: runs[index].seed or 0):
        run = runs[index]
        places[run.model.parameters, str(run.model.name), _share(run)].append(index)
    points: dict[str, list[Point]] = defaultdict(list)
    sizes = {place: round(mean(runs[row].data.n_train for row in rows)) for place, rows in places.items()}
    for place, rows in sorted(places.items(), key=lambda item: (*item[0][:2], sizes[item[0]])):
        (parameters, name, _), n_train, seeds = place, sizes[place], [runs[row].seed for row in rows]
        accuracy = two_way_random_effects(correct[rows])
        points[name].append(Point(name, parameters, n_train, seeds, correct[rows], accuracy))
    return Curves(split, dict(points), excluded)


def _share(run: Run) -> tuple:
    """Return what seeds have in common that train on as many images, or nearly, where groups are not divided."""
    data, fraction = run.data, run.record.run.settings.get("datamodule.train_fraction")
    known = data.fingerprint_full is not None and isinstance(fraction, (int, float))
    return (fraction, data.fingerprint_full) if known else (data.n_train,)


def _has_sizes(run: Run) -> bool:
    return run.model.parameters is not None and run.data.n_train is not None


def describe_curves(curves: Curves) -> list[str]:
    """Return a sentence on more images for each network with two points, one on larger networks, and what is excluded."""
    sentences = []
    for name, points in curves.points.items():
        if len(points) > 1:
            half, full = points[-2], points[-1]
            gain = _difference(full, half)
            helps = "more images would probably help" if _gains(gain) else "more images show no clear gain"
            change = (
                f"from {half.n_train:,} to {full.n_train:,} training images accuracy changes by {_format_gain(gain)}"
            )
            sentences.append(f"{name}: {change}: {helps}")
    smallest, *larger = [points[-1] for points in curves.points.values()]
    for other in larger:
        if other.n_train == smallest.n_train:
            gain = _difference(other, smallest)
            helps = "a larger network helps" if _gains(gain) else "a larger network shows no clear gain"
            change = f"instead of {smallest.model} at {other.n_train:,}: {_format_gain(gain)}"
            sentences.append(f"{other.model} {change}: {helps}")
    return [*sentences, *(f"excluded: {why}" for why in curves.excluded)]


def draw(curves: Curves) -> Figure:
    """Draw accuracy with its interval over seeds and images against training images on a logarithmic axis."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe & Ito: distinct for color-blind readers
    for index, (name, points) in enumerate(curves.points.items()):
        accuracies = [point.accuracy for point in points]
        means = np.array([a.mean for a in accuracies])
        reach = np.array([[a.mean - max(a.low, 0), min(a.high, 1) - a.mean] for a in accuracies]).T
        label = f"{name} ({points[0].parameters:,} parameters)"
        color, marker = colors[index % len(colors)], "os^Dv"[index % 5]
        places = [point.n_train * 1.01**index for point in points]
        axes.errorbar(places, means, reach, fmt=f"{marker}-", color=color, capsize=3, markersize=5, label=label)
    ticks = sorted({point.n_train for points in curves.points.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    seeds = max(len(point.seeds) for points in curves.points.values() for point in points)
    n = next(iter(curves.points.values()))[0].right.shape[1]
    axes.set(xlabel="training images", ylabel=f"{curves.split} accuracy, 95% interval")
    axes.set_title(f"Learning curve, {n:,} {curves.split} images, {seeds} seed{'s' * (seeds > 1)}")
    axes.grid(axis="y", color="0.9")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def _difference(a: Point, b: Point) -> TwoWayMean:
    """Return A minus B over the seeds that both have."""
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    if not seeds:
        raise UserError(f"{a.model}: no seed was run with {a.n_train} and with {b.n_train} training images")
    right_a, right_b = (side.right[[side.seeds.index(seed) for seed in seeds]] for side in (a, b))
    return two_way_difference(right_a, right_b)


def _gains(gain: TwoWayMean) -> bool:
    return gain.p_value < 0.05 and gain.mean > 0


def _format_gain(gain: TwoWayMean) -> str:
    return f"{gain.mean:+.3f} (95% interval {gain.low:.3f} to {gain.high:.3f}, {format_p(gain.p_value)})"
