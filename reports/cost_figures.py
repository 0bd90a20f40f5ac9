"""The figures of accuracy against cost, and of costs where no accuracy was measured."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from common.text import compact_count
from reports.svg import COLORS, GRID, INK, PAPER, STYLE, cost_ticks, panel, to_svg

LONGEST_LABEL = 26  # characters; instead of a longer name the rank is drawn
MOST_NAMED = 8  # points up to which they are labeled by name
GAP = 8  # pixels between labels side by side, whose letters are wider in some browsers
DEEPEST = 1.5  # times the height of all intervals: a baseline further below is drawn as an arrow at the edge
OFFSETS = [  # of a label from its point, in points, the best place first
    (7, 0), (-7, 0), (7, 8), (7, -8), (-7, 8), (-7, -8), (0, 9), (0, -9), (7, 17), (7, -17), (-7, 17), (-7, -17),
    (0, 19), (0, -19), (16, 26), (-16, 26), (16, -26), (-16, -26),
]  # fmt: skip


class Point(NamedTuple):
    """The accuracy of a row with its interval, and its cost."""

    rank: int
    accuracy: float
    low: float | None
    high: float | None
    cost: float
    name: str = ""
    words: str = ""  # shown when the point is hovered over or tapped


class Levels(NamedTuple):
    """Accuracies that the figure marks for comparison; None: unknown or not asked for."""

    best: float | None = None
    margin: float = 0.0  # how far below the best is still good enough
    baseline: float | None = None  # of always predicting the most frequent class
    target: float | None = None


def pareto_front(points: Sequence[Point]) -> set[int]:
    """Return the ranks of the points that no other beats: at most the cost, at least the accuracy, and better in one.

    Of equal points it is the one with the best rank.
    """
    front, best = set(), -np.inf
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy, p.rank)):
        if point.accuracy > best:
            front.add(point.rank)
            best = point.accuracy
    return front


def accuracy_figure(
    title: str, points: Sequence[Point], front: set[int], x_label: str, levels: Levels, y_label: str = "accuracy"
) -> str:
    """Draw accuracy against a cost on a logarithmic axis; points of the front (ranks) are filled and joined."""
    with mpl.rc_context(STYLE):
        figure, axes = panel((4.4, 3.2))
        on_front = sorted((p for p in points if p.rank in front), key=lambda p: p.cost)
        if len(on_front) > 1:
            x, y = [p.cost for p in on_front], [p.accuracy for p in on_front]
            axes.step(x, y, where="post", color=COLORS[0], linewidth=1.2, zorder=1)
        for point in sorted(points, key=lambda p: -p.rank):  # better ones are drawn above
            color = COLORS[0] if point.rank in front else INK
            if point.low is not None:
                ends = [point.low, point.high]
                axes.plot([point.cost] * 2, ends, color=color, linewidth=0.9, alpha=0.6, zorder=2)
                axes.plot([point.cost] * 2, ends, "_", color=color, markersize=4, alpha=0.6, zorder=2)
            face = color if point.rank in front else PAPER
            (dot,) = axes.plot(
                point.cost, point.accuracy, "o", markersize=7, color=face, markeredgecolor=color, markeredgewidth=1.1, zorder=3
            )  # fmt: skip
            dot.set_gid(f"tip{point.rank}")
        axes.set_xscale("log")
        cost_ticks(axes, [point.cost for point in points])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_title(title)
        _draw_levels(axes, points, levels)
        _label(figure, axes, points, front, levels)
        tips = {f"tip{point.rank}": point.words for point in points}
        return to_svg(figure, f"{title}: {len(points)} points, which the table lists by rank", tips)


def cost_figure(title: str, points: Sequence[Point], label: str) -> str:
    """Draw one cost of each row as a point on a logarithmic axis, row below row, with the value beside it."""
    with mpl.rc_context(STYLE):
        figure, axes = panel((4.4, 0.9 + 0.26 * len(points)))
        places = range(len(points), 0, -1)
        for place, point in zip(places, points, strict=True):
            axes.axhline(place, color=GRID, linewidth=0.5, alpha=0.35, zorder=1)
            (dot,) = axes.plot(point.cost, place, "o", markersize=7, color=COLORS[0], zorder=3)
            dot.set_gid(f"tip{point.rank}")
            axes.annotate(
                compact_count(point.cost), (point.cost, place), (7, 0), textcoords="offset points", va="center", fontsize=8
            )  # fmt: skip
        axes.set_yticks(list(places), [_text(point) for point in points])
        axes.set_ylim(0.4, len(points) + 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xscale("log")
        cost_ticks(axes, [point.cost for point in points], room_right=0.2)
        axes.set(xlabel=label)
        axes.set_title(title)
        return to_svg(figure, f"{title} of each row", {f"tip{point.rank}": point.words for point in points})


def _draw_levels(axes: Axes, points: Sequence[Point], levels: Levels) -> None:
    """Draw the margin below the best as a band, baseline and target as lines, and set the limits of the vertical axis."""
    ends = [end for point in points for end in (point.accuracy, point.low, point.high) if end is not None]
    low, high = min(ends), max(ends)
    span = max(high - low, 0.02)
    if levels.best is not None:
        axes.axhspan(levels.best - levels.margin, levels.best, color=COLORS[0], alpha=0.14, linewidth=0, zorder=0.5)
        low = min(low, levels.best - levels.margin)
    if levels.target is not None and abs(levels.target - (low + high) / 2) < 2 * span:
        axes.axhline(levels.target, color=COLORS[0], linewidth=1.1, linestyle=(0, (5, 2)), zorder=0.6)
        low, high = min(low, levels.target), max(high, levels.target)
    if levels.baseline is not None and low - levels.baseline <= DEEPEST * span:
        axes.axhline(levels.baseline, color=INK, linewidth=1, linestyle=(0, (1, 1.5)), alpha=0.8, zorder=0.6)
        low, high = min(low, levels.baseline), max(high, levels.baseline)
    axes.set_ylim(low - 0.07 * (high - low), high + 0.05 * (high - low))


def _label(figure: Figure, axes: Axes, points: Sequence[Point], front: set[int], levels: Levels) -> None:
    """Write names beside points where they cover neither another label nor a point; skip those without such a place."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # places the axes
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    taken = []
    for point in points:
        x, y = axes.transData.transform((point.cost, point.accuracy))
        taken.append(Bbox.from_extents(x - 4.5 * scale, y - 4.5 * scale, x + 4.5 * scale, y + 4.5 * scale))
        if point.low is not None:
            (_, bottom), (_, top) = axes.transData.transform([(point.cost, point.low), (point.cost, point.high)])
            taken.append(Bbox.from_extents(x - scale, bottom, x + scale, top))
    steps = sorted((point for point in points if point.rank in front), key=lambda point: point.cost)
    for left, right in pairwise(steps):  # what joins the front
        (x, y), (end, top) = (axes.transData.transform((each.cost, each.accuracy)) for each in (left, right))
        taken += [Bbox.from_extents(x, y - 1, end, y + 1), Bbox.from_extents(end - 1, y, end + 1, top)]
    if levels.baseline is not None:
        _label_baseline(axes, levels.baseline, taken, renderer)
    named = len(points) <= MOST_NAMED
    for point in sorted(points, key=lambda p: (p.rank not in front, p.rank)):
        for text in dict.fromkeys((_text(point) if named else str(point.rank), str(point.rank))):
            note = axes.annotate(
                text, (point.cost, point.accuracy), (0, 0), textcoords="offset points", fontsize=8, zorder=5,
                va="center_baseline", in_layout=False,
            )  # fmt: skip
            if _place(note, frame, taken, renderer):
                break
            note.remove()


def _place(note: mpl.text.Annotation, frame: Bbox, taken: list[Bbox], renderer) -> bool:
    """Move a label to the first free place and mark it as taken; return whether there is one."""
    for x, y in OFFSETS:
        note.set_position((x, y))
        note.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
        box = note.get_window_extent(renderer)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box.padded(GAP, 0))
            return True
    return False


def _label_baseline(axes: Axes, share: float, taken: list[Bbox], renderer) -> None:
    """Label the baseline at the end that is freer; if the baseline lies below the figure, at the lower edge with an arrow."""
    is_shown = axes.get_ylim()[0] < share
    text = (
        f"always the most frequent class: {share:.3f}" if is_shown else f"↓ always the most frequent class: {share:.3f}"
    )
    frame = axes.get_window_extent(renderer)
    height = axes.transData.transform((axes.get_xlim()[0], share))[1] if is_shown else frame.y0
    y = axes.transAxes.inverted().transform((0, height))[1]
    best = None
    for x, side in ((0.01, "left"), (0.99, "right")):
        for above, vertical in ((3, "bottom"), *(((-3, "top"),) if is_shown else ())):
            note = axes.annotate(
                text, (x, y), (0, above), xycoords="axes fraction", textcoords="offset points", fontsize=7.5, ha=side,
                va=vertical, zorder=5, in_layout=False,
            )  # fmt: skip
            box = note.get_window_extent(renderer)
            covered = sum(box.overlaps(other) for other in taken)
            outside = box.y0 < frame.y0
            if best is None or (outside, covered) < best[0]:
                if best:
                    best[1].remove()
                best = (outside, covered), note, box
            else:
                note.remove()
    taken.append(best[2].padded(GAP, 0))
    taken.append(Bbox.from_extents(frame.x0, height - 1, frame.x1, height + 1))


def _text(point: Point) -> str:
    """Return the name if the figure can show it in one line, else the rank."""
    return point.name if point.name.isascii() and 0 < len(point.name) <= LONGEST_LABEL else str(point.rank)
