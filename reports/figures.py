"""Figures, drawn without a screen and without matplotlib's global state."""

import math
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def confusion_matrix(counts: list[list[int]], classes: list[str]) -> Figure:
    """Counts with true classes down and predicted ones across; the colour is the share of the true class."""
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(classes)
    side = min(3.2 + 0.7 * k, 16)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in classes]
    axes.set_xticks(range(k), names, rotation=0 if k <= 3 else 45, ha="center" if k <= 3 else "right")
    axes.set_yticks(range(k), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if k <= 20:
        for row in range(k):
            for column in range(k):
                colour = "white" if shares[row, column] > 0.55 else "black"
                text = f"{counts[row, column]:,}" if k > 6 else f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
                axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_title(f"{counts.trace():,} of {counts.sum():,} right")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def picture_grid(pictures: np.ndarray, titles: list[str]) -> Figure:
    """Pictures (B, H, W, 3) of 0 to 1 in a grid about as wide as high, a title above each."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(1.8 * columns, 2.0 * rows), layout="constrained")
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(_short(title), fontsize=9)
        axes.set_axis_off()
    return figure


def figure_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure as (H, W, 3) uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _short(name: str) -> str:
    return textwrap.shorten(name, 24, placeholder="…") if " " in name else name if len(name) <= 24 else name[:23] + "…"
