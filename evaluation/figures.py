"""Figures drawn without a screen and without matplotlib's global state."""

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from common.run_record import Decision
from common.text import clean, digits_of_share, format_confidence, short_name
from evaluation.calibration import reliability, risk_coverage, selective_accuracy, with_temperature
from evaluation.fonts import fonts_of
from evaluation.intervals import design_effect, wilson

MOST_NAMED = 60  # classes on an axis
MOST_WITH_SHARES = 6  # classes; with more, cells have no room for shares
PLACES: dict[tuple[str, ...], list] = {}  # class names -> positions of the axes of their confusion matrix


def confusion_matrix(counts: list[list[int]], classes: list[str], images: str = "") -> Figure:
    """Draw (K, K) counts, true classes down and predicted ones across, colored by the share of the true class.

    With up to MOST_WITH_SHARES classes, the share is written below each count; with more there is a color bar. The title names
    the `images`.
    """
    counts = np.asarray(counts)
    k = len(classes)
    side = min(3.2 + 0.7 * k, 16)
    with_shares = k <= MOST_WITH_SHARES
    figure = Figure(figsize=(side + 0.8 * (not with_shares), side), layout="constrained")
    axes = figure.add_subplot()
    short = short_names(classes)
    names = [short[name] for name in classes]
    image = draw_confusion(axes, counts, names, with_shares=with_shares, most_written=20, most_named=MOST_NAMED)
    title = f"{counts.trace():,} of {counts.sum():,} right" + f" ({images})" * bool(images)
    axes.set_title(title + "\nshares of the true class" * with_shares, fontsize=10)
    if not with_shares:
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _place_as_before(figure, tuple(names))
    return figure


def draw_confusion(
    axes: Axes,
    counts: np.ndarray,
    names: list[str],
    *,
    with_shares: bool,
    most_written: int,
    most_named: int,
    size: float | None = None,
) -> AxesImage:
    """Draw (K, K) counts into axes; return the image, for a color bar.

    Args:
        with_shares: whether to write the share of the true class below each count.
        most_written: number of classes up to which counts are written.
        most_named: number of classes up to which axes show their names; with more they show numbers.
        size: of the letters in points.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(names)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if k <= most_named:
        axes.set_xticks(
            range(k), names, rotation=0 if k <= 3 else 45, ha="center" if k <= 3 else "right", fontsize=size
        )
        axes.set_yticks(range(k), names, fontsize=size)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    which = "" if k <= most_named else " (number of the class, from 0)"
    axes.set_xlabel(f"predicted{which}", fontsize=size)
    axes.set_ylabel(f"true{which}", fontsize=size)
    for row, column in np.ndindex(counts.shape) if k <= most_written else ():
        color = "white" if shares[row, column] > 0.55 else "black"
        text = f"{counts[row, column]:,}" + f"\n{shares[row, column]:.0%}" * with_shares
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    return image


def _place_as_before(figure: Figure, names: tuple[str, ...]) -> None:
    """Lay out a confusion matrix once for its class names, which determine the room; val, test and a sweep's jobs share it."""
    if names not in PLACES:
        with fonts_of(figure):
            figure.draw_without_rendering()
        PLACES.clear()
        PLACES[names] = [axes.get_position(original=True).frozen() for axes in figure.axes]
    figure.set_layout_engine("none")
    for axes, place in zip(figure.axes, PLACES[names], strict=True):
        axes._set_position(place, which="original")


def calibration(
    labels: np.ndarray,
    probabilities: np.ndarray,
    split: str,
    decision: Decision | None,
    groups: np.ndarray | None = None,
) -> Figure:
    """Draw accuracy against confidence in ten bins, and accuracy against coverage.

    Labels (n,), probabilities (n, K); group numbers (n,) widen the intervals. With a decision, also draw the calibration after
    its temperature, and its coverage.
    """
    effect = design_effect(probabilities.argmax(axis=1) == labels, groups)
    figure = Figure(figsize=(9.6, 4.4))
    # Its labels always have the same width; "constrained" would draw them all three times to find that out
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.115, top=0.93, wspace=0.17)
    left, right = figure.subplots(1, 2)
    kinds = [("uncalibrated", probabilities, "tab:blue", -1)]
    if decision:
        calibrated = with_temperature(probabilities, decision.temperature)
        kinds.append((f"with temperature {decision.temperature:.2f}", calibrated, "tab:orange", 1))
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for name, values, color, side in kinds:
        bins = [each for each in reliability(labels, values, bins=10) if each.n]
        shares = np.array([each.accuracy for each in bins])
        limits = np.array([wilson(round(each.accuracy * each.n) / effect, each.n / effect) for each in bins])
        reach = np.abs(limits.T - shares)
        places = [each.confidence + 0.006 * side for each in bins]
        left.errorbar(places, shares, reach, fmt="o", color=color, capsize=2, markersize=4, linewidth=1, label=name)
    left.set(xlim=(1 / probabilities.shape[1] - 0.03, 1.03), ylim=(-0.03, 1.03))
    left.set(xlabel="confidence (largest probability)", ylabel="accuracy, 95% interval")
    left.set_title(f"Calibration, {len(labels):,} {split} images")
    left.legend(loc="lower right", fontsize=9)
    coverage, accuracy = risk_coverage(labels, probabilities)
    bottom = min(0.5, accuracy.min())
    right.plot(coverage, accuracy, color="tab:blue", drawstyle="steps-post")
    if decision:
        target = decision.target_accuracy
        right.axhline(target, color="0.6", linewidth=1, linestyle=":", label=f"target accuracy {target:g}")
        at, label = 0.0, "promised for no share of the images"
        if decision.confidence is not None:
            at = selective_accuracy(labels, probabilities, decision.confidence).coverage
            label = f"promised from confidence {format_confidence(decision.confidence)} on: {at:.{digits_of_share(at) - 2}%}"
        right.axvline(at, color="tab:orange", linewidth=1, linestyle="--", label=label)
        is_low = (accuracy[coverage < 0.75] < bottom + 0.15 * (1.01 - bottom)).any()
        right.legend(loc="upper right" if is_low else "lower left", fontsize=9)  # beside the curve
    right.set(xlim=(0, 1.02), ylim=(bottom, 1.01))
    right.set(xlabel="coverage, the most confident images first", ylabel="accuracy among them")
    right.set_title("Selective prediction")
    return figure


def figure_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Draw a figure into pixels, (H, W, 3) uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with fonts_of(figure):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def axis_name(name: str, longest: int = 24) -> str:
    """Return a class's name for an axis; matplotlib would read text between two $ as a formula."""
    return clean(name, longest).replace("$", r"\$")


def short_names(names: Sequence[str], longest: int = 24) -> dict[str, str]:
    """Return each name shortened for an axis; names that would look the same start at the word in which they differ."""
    alike = defaultdict(list)
    for name in names:
        alike[axis_name(short_name(name, longest), longest)].append(name)
    short = {}
    for look, same in alike.items():
        texts = [clean(name) for name in same]
        differ = len(os.path.commonprefix(texts))  # noqa: RUF071 letters are meant
        begin = max(texts[0].rfind(mark, 0, differ) for mark in " _-.") + 1
        begin = begin if differ - begin < longest // 2 else differ
        short |= {
            name: axis_name(f"…{text[begin:]}", longest) if len(same) > 1 else look
            for name, text in zip(same, texts, strict=True)
        }
    return {name: short[name] for name in names}


def channel_order(order: list[int], groups: int) -> Figure:
    """Draw where channel shuffle moves the channels of a grouped convolution: `order[place]` is the channel moved there."""
    count = len(order)
    colors = [colormaps["tab10"](channel * groups // count) for channel in range(count)]
    figure = Figure(figsize=(max(6.0, 0.55 * count), 3.0), layout="constrained")
    axes = figure.add_subplot()
    for place, channel in enumerate(order):
        axes.plot([channel, place], [0.86, 0.14], color=colors[channel], linewidth=1.5)
        for x, y in ((channel, 1), (place, 0)):
            box = {"boxstyle": "square,pad=0.35", "facecolor": colors[channel], "edgecolor": "none"}
            axes.text(x, y, f"{channel:2d}", ha="center", va="center", color="white", fontsize=9, bbox=box)
    for group in range(1, groups):
        axes.axvline(group * count / groups - 0.5, color="0.7", linewidth=0.8, linestyle=":")
    axes.set_yticks([1, 0], ["out of the grouped\nconvolution", "into the next one"])
    axes.set_xticks(
        [count / groups * (group + 0.5) - 0.5 for group in range(groups)], [f"group {g + 1}" for g in range(groups)]
    )
    axes.set_ylim(-0.3, 1.3)
    axes.set_xlim(-0.7, count - 0.3)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"Channel shuffle: each of {groups} groups of a convolution\ngets channels of all groups (colors) of the one before",
        fontsize=10,
    )
    return figure
