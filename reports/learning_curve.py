"""Accuracy against the number of training images: would more images help, or a larger network?"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common.checks import FEWEST_SEEDS
from common.errors import UserError
from common.text import SPLIT_NAMES, format_interval, join_words, short_name
from evaluation.intervals import Interval, accuracy_interval
from evaluation.paired_tests import PairedComparison, compare_pair, format_p, holm
from reports.accuracy import groups_of, read_common
from reports.config_diff import differences
from reports.load_runs import Run, load_below
from reports.svg import COLORS, STYLE, to_svg
from reports.wording import LEVEL

MARGIN = 0.02  # of the comparison; nothing here depends on it
WIDEST = 0.05  # of the number of images: how far apart networks of one number are drawn
UNEQUAL = 1.25  # ratio of training steps from which on a gain may be that of more steps
MOST_WITHIN = 5  # networks in a legend within the axes; that of more is below them
LONGEST_NAME = 24  # characters of a network in the legend
SHORT_LABEL = 36  # characters: two fit beside each other
LINE = 0.22  # inches of a legend's line


class Point(NamedTuple):
    """One network trained on one number of images, or one share of them: then `n_train` is a mean over the seeds."""

    model: str
    parameters: int
    n_train: int
    seeds: list[int | None]
    right: np.ndarray  # (seeds, images) bool
    interval: Interval  # of the accuracy, 95%, over seeds and images
    groups: np.ndarray | None  # (images,) numbers
    epochs: float | None = None  # of the training; None: its length is not given in epochs

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


class Curves(NamedTuple):
    """Points by the name of the network, the smallest first, each by the number of training images."""

    split: str
    points: dict[str, list[Point]]
    excluded: list[str]  # records, with the reason
    chose_epoch: bool = False  # these images: validation ones, or test ones with datamodule.select_on=test


def read_curves(folder: Path) -> Curves:
    """Read the finished runs below a folder; accuracy is on test images, or on those of val if a run has no test.

    Raises:
        UserError: no record, none finished, or runs that were measured on different images.
    """
    loaded = load_below(folder)
    trained = [run for run in loaded.finished if run.record.best]
    if not any(map(_has_sizes, trained)):
        raise UserError(f"{folder}: no finished run to draw a learning curve from; see the errors of its runs")
    return curves_of(trained, loaded.why_excluded)


def curves_of(trained: Sequence[Run], excluded: list[str]) -> Curves:
    """Return the curves of finished runs; `excluded` are other records, with the reason.

    Raises:
        UserError: none whose sizes are known, or runs that were measured on different images.
    """
    runs = [run for run in trained if _has_sizes(run)]
    if not runs:
        raise UserError("no record has both the parameters and the number of training images")
    excluded = excluded + [
        f"{run.name}: its record lacks parameters or training images" for run in trained if not _has_sizes(run)
    ]
    if len({run.fold for run in runs}) > 1:
        raise UserError(
            "it needs the same images for all runs, but each fold has its own; use one fold, or datamodule.folds=null"
        )
    split, tables, correct = read_common(runs)
    groups = groups_of(runs, tables)
    places: dict[tuple, list[int]] = defaultdict(list)
    for index in sorted(range(len(runs)), key=lambda index: runs[index].seed or 0):
        run = runs[index]
        places[run.model.parameters, str(run.model.name), _share(run)].append(index)
    points: dict[str, list[Point]] = defaultdict(list)
    networks = Counter(name for _, name in {place[:2] for place in places})  # cuts of one backbone share its name
    sizes = {place: round(mean(runs[row].data.n_train for row in rows)) for place, rows in places.items()}
    for place, rows in sorted(places.items(), key=lambda item: (*item[0][:2], sizes[item[0]])):
        (parameters, name, _), n_train, seeds = place, sizes[place], [runs[row].seed for row in rows]
        _check_only_seeds_differ(name, n_train, [runs[row] for row in rows])
        interval = accuracy_interval(correct[rows], groups)
        curve = name if networks[name] == 1 else f"{name} with {parameters:,} parameters"
        points[curve].append(
            Point(name, parameters, n_train, seeds, correct[rows], interval, groups, _epochs(runs[rows[0]]))
        )
    chose_epoch = split == "val" or any(run.selected_on_test for run in runs)
    return Curves(split, dict(points), excluded, chose_epoch)


def _share(run: Run) -> tuple:
    """Return a key shared by the seeds that train on the same number of images, or nearly if groups are kept together."""
    data, fraction = run.data, run.record.run.settings.get("datamodule.train_fraction")
    known = data.fingerprint_full is not None and isinstance(fraction, (int, float))
    return (fraction, data.fingerprint_full) if known else (data.n_train,)


def _epochs(run: Run) -> float | None:
    settings = run.record.run.settings
    epochs = settings.get("trainer.max_epochs")
    limits = (settings.get(f"trainer.{name}") for name in ("max_steps", "max_time"))
    return epochs if isinstance(epochs, (int, float)) and all(limit is None for limit in limits) else None


def _check_only_seeds_differ(model: str, n_train: int, runs: Sequence[Run]) -> None:
    """Check that the runs of one point differ only in their seed: other runs would be counted as seeds, some twice.

    Raises:
        UserError: two of them have other settings, or the same seed.
    """
    others = differences(runs)
    if others or len({run.seed for run in runs}) < len(runs):
        which = f"differ in {join_words(others)}" if others else "have the same seed"
        raise UserError(
            f"{model}: runs on {n_train:,} training images {which}; the runs of a learning curve may differ only in the "
            "network, the number of training images and the seed"
        )


def _has_sizes(run: Run) -> bool:
    return run.model.parameters is not None and run.data.n_train is not None


def describe_curves(curves: Curves) -> list[str]:
    """Return a sentence on more images for each network with two points, one per larger network, and what is excluded.

    Their p-values are Holm-corrected together.
    """
    found: list[tuple[str, str, PairedComparison]] = []  # what changed, what that may help, how much
    for name, points in curves.points.items():
        if len(points) > 1:
            half, full = points[-2], points[-1]
            change = f"{name}: from {half.n_train:,} to {full.n_train:,} training images accuracy changes by"
            found.append((change, "more images", _difference(full, half)))
    (small, (*_, smallest)), *larger = curves.points.items()
    for name, (*_, other) in larger:
        if other.n_train == smallest.n_train:
            change = f"{name} instead of {small} at {other.n_train:,}:"
            found.append((change, "a larger network", _difference(other, smallest)))
    p_values = holm([gain.p_value for _, _, gain in found])
    sentences = [
        f"{change} {_format_gain(gain, p)}: {_verdict(what, gain, p)}"
        for (change, what, gain), p in zip(found, p_values, strict=True)
    ]
    ends = [points[-2:] for points in curves.points.values() if len(points) > 1]
    if any(half.epochs and full.epochs and full.epochs * full.n_train > UNEQUAL * half.epochs * half.n_train
           for half, full in ends):  # fmt: skip
        sentences.append(
            "More images were also trained for more steps, which may be the reason for a gain; "
            "experiment=learning_curve without trainer.max_epochs trains each part for equally many steps"
        )
    if any(gain.n_seeds < FEWEST_SEEDS for _, _, gain in found):
        sentences.append(
            f"With fewer than {FEWEST_SEEDS} seeds, this is about these trained networks and these training images"
        )
    if curves.chose_epoch:
        sentences.append(f"The {SPLIT_NAMES[curves.split]} images also chose the epoch, so accuracies are too good")
    return [*sentences, *(f"excluded: {why}" for why in curves.excluded)]


def draw(curves: Curves, size: tuple[float, float] = (7.2, 4.6)) -> Figure:
    """Draw accuracy with its interval over seeds and images against training images on a logarithmic axis."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    step = min(0.01, WIDEST / len(curves.points))
    for index, points in enumerate(curves.points.values()):
        means = np.array([point.accuracy for point in points])
        reach = np.abs(np.array([point.interval for point in points]).T - means)
        label = f"{short_name(points[0].model, LONGEST_NAME)} ({points[0].parameters:,} parameters)"
        color, marker = COLORS[index % len(COLORS)], "os^Dv"[index % 5]
        places = [point.n_train * (1 + step * index) for point in points]
        axes.errorbar(places, means, reach, fmt=f"{marker}-", color=color, capsize=3, markersize=5, label=label)
    ticks = sorted({point.n_train for points in curves.points.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    seeds = max(len(point.seeds) for points in curves.points.values() for point in points)
    n = next(iter(curves.points.values()))[0].right.shape[1]
    axes.set(xlabel="training images", ylabel=f"{SPLIT_NAMES[curves.split]} accuracy, 95% interval")
    axes.set_title(f"Learning curve, {n:,} {SPLIT_NAMES[curves.split]} images, {seeds} seed{'s' * (seeds > 1)}")
    axes.grid(axis="y", color="0.5", alpha=0.2)
    if len(curves.points) <= MOST_WITHIN:
        axes.legend(loc="best", facecolor="none")
    else:
        columns = 2 if max(map(len, axes.get_legend_handles_labels()[1])) <= SHORT_LABEL else 1
        figure.set_figheight(size[1] + LINE * -(-len(curves.points) // columns))
        figure.legend(loc="outside lower center", facecolor="none", ncols=columns)
    return figure


def curve_figure(curves: Curves) -> str:
    """Draw the learning curve as SVG for a page, which sets the colors of text and lines."""
    with mpl.rc_context(STYLE):
        figure = draw(curves, (5.2, 3.7))
        figure.set_facecolor("none")
        for axes in figure.axes:
            axes.set_facecolor("none")
        return to_svg(
            figure, "Learning curve: accuracy against the number of training images, one line for each network"
        )


def _difference(a: Point, b: Point) -> PairedComparison:
    """Return A minus B over the seeds that both have."""
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    if not seeds:
        raise UserError(f"{a.model}: no seed was run with {a.n_train} and with {b.n_train} training images")
    right_a, right_b = (side.right[[side.seeds.index(seed) for seed in seeds]] for side in (a, b))
    return compare_pair(right_a, right_b, MARGIN, a.groups)


def _verdict(what: str, gain: PairedComparison, p_value: float) -> str:
    if p_value >= LEVEL:
        return f"{what} showed no clear gain"
    return f"{what} helped here" if gain.difference > 0 else f"{what} made it worse here"


def _format_gain(gain: PairedComparison, p_value: float) -> str:
    return f"{gain.difference:+z.3f} (95% interval {format_interval(gain.low, gain.high)}, {format_p(p_value)})"
