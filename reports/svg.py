"""Figures of many runs as SVG that takes its colors from the page, so that one drawing serves light, dark and paper.

No user's text is drawn: names are in the page's legends. PAGE_COLORS are those that the page chooses, as they differ
between light and dark.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from common.text import compact_count
from reports.training_curves import Curve

# Okabe & Ito 2008, Color Universal Design; its yellow is too pale on white, its black is the page's ink.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#010203")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))
SVG_DASHES = ("none", "7 3", "2 2")  # the same in a legend's line of width 2
INK, GRID, PAPER = "#010203", "#a1a2a3", "#f1f2f3"
PAGE_COLORS = {COLORS[0]: "var(--blue)", INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"}
MOST_LINES = len(COLORS) * len(DASHES) - 1  # 20
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


class Point(NamedTuple):
    """The accuracy of a row with its interval, and its cost."""

    rank: int
    accuracy: float
    low: float | None
    high: float | None
    cost: float


def line_style(index: int) -> tuple[str, int]:
    """Return color and index of the dash of the line with this index, below MOST_LINES."""
    return COLORS[index % len(COLORS)], index // len(COLORS)


def curves(title: str, lines: Sequence[Curve], y_label: str, logarithmic: bool = False) -> str:
    """Draw the mean over the runs of each row, with the band from the smallest to the largest.

    Line i has the style of `line_style(i)`.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _panel()
        for index, (epochs, values) in enumerate(lines):
            seen = ~np.isnan(values).all(axis=0)
            if not seen.any():
                continue
            x, y = epochs[seen], values[:, seen]
            color, dash = line_style(index)
            marker = "o" if len(x) == 1 else None
            axes.plot(x, np.nanmean(y, axis=0), color=color, linestyle=DASHES[dash], linewidth=1.6, marker=marker)
            if len(y) > 1:
                low, high = np.nanmin(y, axis=0), np.nanmax(y, axis=0)
                axes.fill_between(x, low, high, color=color, alpha=0.14, linewidth=0)
        axes.set(xlabel="epoch", ylabel=y_label)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if _decades(axes) > 1.5 else (1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
            axes.yaxis.set_minor_locator(NullLocator())
        return _svg(figure, f"{title} over epochs, one line a setting")


def pareto(title: str, points: Sequence[Point], front: set[int], x_label: str) -> str:
    """Draw accuracy against a cost on a logarithmic axis; points hold their ranks, those of the front filled and joined."""
    with mpl.rc_context(STYLE):
        figure, axes = _panel()
        on_front = sorted((p for p in points if p.rank in front), key=lambda p: p.cost)
        if len(on_front) > 1:
            x, y = [p.cost for p in on_front], [p.accuracy for p in on_front]
            axes.step(x, y, where="post", color=COLORS[0], linewidth=1.2, zorder=1)
        for point in sorted(points, key=lambda p: -p.rank):  # better ones are drawn above
            color = COLORS[0] if point.rank in front else INK
            if point.low is not None:
                reach = [[point.accuracy - point.low], [point.high - point.accuracy]]
                axes.errorbar(
                    point.cost, point.accuracy, np.maximum(reach, 0), fmt="none", color=color, ecolor=color, elinewidth=0.9,
                    capsize=2, alpha=0.6, zorder=2,
                )  # fmt: skip
            filled = point.rank in front
            axes.plot(
                point.cost, point.accuracy, "o", markersize=10.5, color=color if filled else PAPER, zorder=3,
                markeredgecolor=color, markeredgewidth=0.9,
            )  # fmt: skip
            axes.text(
                point.cost, point.accuracy, str(point.rank), ha="center", va="center_baseline", zorder=4,
                fontsize=6.5, color="white" if filled else INK,
            )  # fmt: skip
        axes.set_xscale("log")
        _cost_ticks(axes, [point.cost for point in points])
        axes.set(xlabel=x_label, ylabel="accuracy")
        axes.set_title(title)
        return _svg(figure, f"{title}; numbers are the ranks of the table")


def pareto_front(points: Sequence[Point]) -> set[int]:
    """Return the ranks of the points that no other beats: at most the cost, at least the accuracy, and better in one."""
    front, best = set(), -np.inf
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy, p.rank)):
        if point.accuracy > best:
            front.add(point.rank)
            best = point.accuracy
    return front


def _panel() -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=(4.0, 2.9), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(length=2.5)
    return figure, axes


def _decades(axes: mpl.axes.Axes) -> float:
    low, high = axes.get_ylim()
    return float(np.log10(high / low)) if low > 0 else 9.0


def _cost_ticks(axes: mpl.axes.Axes, costs: list[float]) -> None:
    """Leave a little room on both sides, and choose about four round numbers."""
    low, high = min(costs), max(costs)
    room = (high / low) ** 0.08 if high > low else 1.2
    axes.set_xlim(low / room / 1.05, high * room * 1.05)
    wide = high / low > 30
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0) if high / low > 2.5 else range(1, 10))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact_count(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _svg(figure: Figure, label: str) -> str:
    """Return the drawing for a page: sized by the page, without names that would clash with those of other drawings."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": label}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<!--.*?-->\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    box = re.search(r'viewBox="[^"]*"', drawing).group()
    drawing = re.sub(r"<svg[^>]*>", f'<svg {box} role="img" aria-label="{label}">', drawing, count=1)
    drawing = re.sub(r"font-family: [^;]*; ", "", drawing)  # the page's
    own = hashlib.blake2b(drawing.encode(), digest_size=4).hexdigest()
    drawing = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\g<1>f{own}\2", drawing)
    for color, page_color in PAGE_COLORS.items():
        drawing = drawing.replace(color, page_color)
    return re.sub(r"\n\s*", "\n", drawing)
