"""Figures of many runs as SVG that takes its colors from the page: one drawing for light mode, dark mode and paper.

Users' texts are drawn only if they are short and ASCII, which every font has; all others are in the page's legends.
PAGE_COLORS are the colors that the page chooses, because they differ between light and dark.
"""

import hashlib
import html
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from common.text import clean, compact_count
from evaluation.fonts import fonts_of
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


def line_style(index: int) -> tuple[str, int]:
    """Return the color and the dash's index for the line with this index, which is below MOST_LINES."""
    return COLORS[index % len(COLORS)], index // len(COLORS)


def curves(title: str, lines: Sequence[Curve], y_label: str, logarithmic: bool = False) -> str:
    """Draw the mean over each row's runs, with a band from the smallest to the largest.

    Line i has the style of `line_style(i)`.
    """
    with mpl.rc_context(STYLE):
        figure, axes = panel()
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
        low, high = axes.dataLim.intervaly
        if 0 < low == high:  # such as a constant learning rate, else ticks would be within 5% of it
            axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        if logarithmic:
            axes.set_yscale("log", nonpositive="mask")  # else a rate that ends at 0 falls within an epoch
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if _decades(axes) > 1.5 else (1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
            axes.yaxis.set_minor_locator(NullLocator())
        return to_svg(figure, f"{title} over epochs, one line a setting")


class Mark(NamedTuple):
    """A trained network: its number in the table, its cost and value with its interval."""

    number: int
    cost: float
    value: float
    low: float | None
    high: float | None
    kind: str  # raced, final, reference, chosen
    name: str = ""  # drawn above the figure; the name of a network, not a user's text


class Smallest(NamedTuple):
    """What the figure of the smallest network shows; all values are of one metric on one split."""

    # Kind, and (cost, value) of each cut, by backbone and size
    probes: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    marks: Sequence[Mark]
    band: tuple[float, float] | None  # the margin below the reference
    target: float | None
    guess: float | None
    floor: float  # values below it are not drawn
    x_label: str
    y_label: str
    words: str  # what the figure shows, for screen readers


MARKS = {
    "raced": (PAPER, INK, "o"),
    "final": (INK, INK, "o"),
    "reference": (INK, INK, "s"),
    "chosen": (COLORS[0], COLORS[0], "o"),
}


def smallest(found: Smallest, narrow: bool = False) -> str:
    """Draw the value of all networks over cost (logarithmic): probes as dots joined from cut to cut, trained ones numbered.

    Args:
        narrow: draw for a phone.
    """
    with mpl.rc_context(STYLE):
        figure, axes = panel((3.3, 3.9) if narrow else (8.4, 4.6))
        for kind, points in found.probes:
            x, y = np.array(points).T
            color, alpha = {"chosen": (COLORS[0], 0.9), "reference": (INK, 0.6)}.get(kind, (GRID, 0.4))
            axes.plot(x, y, color=color, linewidth=0.9 if kind else 0.6, alpha=alpha, zorder=1.5 if kind else 1)
            drawn = y >= found.floor
            axes.plot(x[drawn], y[drawn], "o", color=color, markersize=2.4, markeredgewidth=0, alpha=0.9, zorder=2)
        if found.band:
            axes.axhspan(*found.band, color=COLORS[0], alpha=0.16, linewidth=0, zorder=0.5)
            axes.axhline(found.band[1], color=COLORS[0], linewidth=0.8, zorder=0.6)
        if found.target is not None:
            axes.axhline(found.target, color=COLORS[0], linewidth=1.2, linestyle=(0, (5, 2)), zorder=0.6)
        if found.guess is not None:
            axes.axhline(found.guess, color=GRID, linewidth=1, linestyle=(0, (1, 1.5)), zorder=0.6)
        for z, mark in enumerate(sorted(found.marks, key=lambda each: list(MARKS).index(each.kind))):
            face, edge, shape = MARKS[mark.kind]
            if mark.kind != "raced" and mark.low is not None and mark.high is not None:
                axes.plot([mark.cost] * 2, [mark.low, mark.high], color=edge, linewidth=1.1, zorder=3 + z)
            axes.plot(
                mark.cost, mark.value, shape, markersize=9 if shape == "s" else 9.5, color=face, markeredgecolor=edge,
                markeredgewidth=0.9, zorder=3 + z,
            )  # fmt: skip
            light = "white" if mark.kind == "chosen" else PAPER
            axes.text(
                mark.cost, mark.value, str(mark.number), ha="center", va="center_baseline", zorder=3.5 + z, clip_on=True,
                fontsize=6, color=INK if mark.kind == "raced" else light,
            )  # fmt: skip
        costs = [cost for _, points in found.probes for cost, value in points if value >= found.floor]
        costs += [mark.cost for mark in found.marks]
        axes.set_xscale("log")
        cost_ticks(axes, costs)
        axes.set(xlabel=textwrap.fill(found.x_label, 40) if narrow else found.x_label, ylabel=found.y_label)
        _with_names(figure, axes, found, narrow)
        return to_svg(figure, found.words)


def _with_names(figure: Figure, axes: mpl.axes.Axes, found: Smallest, narrow: bool) -> None:
    """Make room at the top for the names of marks, one below the other, each with a dotted line down to its mark.

    The lower name avoids the line of the upper name: it is left of that line if the upper name is the right mark's, else right.
    """
    values = [v for _, points in found.probes for _, v in points if v >= found.floor]
    values += [v for mark in found.marks for v in (mark.value, mark.high) if v is not None]
    values += [v for v in (found.target, *(found.band or ())) if v is not None]
    top, bottom = max(values), found.floor
    named = sorted((mark for mark in found.marks if mark.name), key=lambda mark: -mark.cost)
    names = [textwrap.wrap(mark.name, 34 if narrow else 110) for mark in named]
    line = 0.048 if narrow else 0.045  # of the height of the axes
    room = line * (sum(map(len, names)) + 0.6 * len(names)) + 0.03
    axes.set_ylim(bottom, bottom + (top - bottom) * 1.02 / (1 - room))
    ticks = MaxNLocator(nbins=6).tick_values(bottom, top)
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= min(1, top)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    width_of_axes, to_axes = axes.get_window_extent(renderer).width, axes.transAxes.inverted()
    labels = []  # mark, its text and lines, where it is and how wide that is, as shares of the axes
    for mark, lines in zip(named, names, strict=True):
        text = axes.text(
            0, 1, "\n".join(lines), transform=axes.transAxes, va="top", ha="left", fontsize=7.5 if narrow else 8.5,
            color=MARKS[mark.kind][1], zorder=9, linespacing=1.15, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
        x = float(to_axes.transform(axes.transData.transform((mark.cost, bottom)))[0])
        labels.append((mark, text, lines, x, text.get_window_extent(renderer).width / width_of_axes))
    low, high = 0.0, 1.0
    if len(labels) == 2:
        (*_, right, right_width), (*_, left, left_width) = labels
        if left_width > right - 0.01 and right_width < 0.99 - left:
            labels.reverse()
    y = 1.0
    for number, (mark, text, lines, x, width) in enumerate(labels):
        if number:
            above = labels[0][3]
            low, high = (0.0, above - 0.01) if x <= above and labels[0][0] is named[0] else (above + 0.01, 1.0)
            low, high = (low, high) if width <= high - low else (0.0, 1.0)
        text.set_position((max(low, min(x - width / 2, high - width)), y))
        y -= line * len(lines)
        at = bottom + (axes.get_ylim()[1] - bottom) * y
        reach = [mark.high or mark.value, at]
        axes.plot([mark.cost] * 2, reach, color=MARKS[mark.kind][1], linewidth=0.9, linestyle=":", zorder=2.5)
        y -= 0.6 * line


def panel(size: tuple[float, float] = (4.0, 2.9)) -> tuple[Figure, mpl.axes.Axes]:
    """Return a figure of `size` inches without a background, and its axes."""
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(length=2.5)
    return figure, axes


def _decades(axes: mpl.axes.Axes) -> float:
    low, high = axes.get_ylim()
    return float(np.log10(high / low)) if low > 0 else 9.0


def cost_ticks(axes: mpl.axes.Axes, costs: list[float], room_right: float = 0.08) -> None:
    """Set the limits of a cost axis, with a little room on both sides, and about four round numbers as ticks."""
    low, high = min(costs), max(costs)
    room = (high / low) ** 0.08 if high > low else 1.2
    axes.set_xlim(low / room / 1.05, high * room ** (room_right / 0.08) * 1.05)
    steps = ((30, (1.0,)), (5, (1.0, 2.0, 5.0)), (2, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)), (0, range(1, 10)))
    axes.xaxis.set_major_locator(LogLocator(subs=next(subs for ratio, subs in steps if high / low > ratio)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact_count(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def to_svg(figure: Figure, label: str, tips: Mapping[str, str] | None = None) -> str:
    """Return the drawing for a page: sized by the page, with no ids that would clash with other drawings.

    Args:
        label: what it shows, for screen readers.
        tips: gid of an artist -> text to show when it is hovered over, tapped or reached by keyboard.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": label}), fonts_of(figure):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<!--.*?-->\s*", "", drawing, flags=re.DOTALL)
    for gid, text in (tips or {}).items():
        drawing = drawing.replace(f'<g id="{gid}">', _tip(text))
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    box = re.search(r'viewBox="[^"]*"', drawing).group()
    spoken = html.escape(label)
    drawing = re.sub(
        r"<svg[^>]*>",
        lambda _: f'<svg {box} role="{"group" if tips else "img"}" aria-label="{spoken}">',
        drawing,
        count=1,
    )
    drawing = re.sub(r"font-family: [^;]*; ", "", drawing)  # the page's
    own = hashlib.blake2b(drawing.encode(), digest_size=4).hexdigest()
    drawing = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\g<1>f{own}\2", drawing)
    for color, page_color in PAGE_COLORS.items():
        drawing = drawing.replace(color, page_color)
    return re.sub(r"\n\s*", "\n", drawing)


def _tip(text: str) -> str:
    """Return the tag that gives an artist its tip: the browser shows the title on hover, the page's script on focus."""
    shown = html.escape(clean(text))
    return f'<g class="tip" tabindex="0" role="img" aria-label="{shown}"><title>{shown}</title>'
