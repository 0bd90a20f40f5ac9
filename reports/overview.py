"""overview.png: how a run learned, how good it is and what it gets wrong, on one slide."""

import argparse
import base64
import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from common.atomic_io import write_bytes
from common.errors import UserError
from common.image_grid import encode_png, thumbnail
from common.predictions_csv import Predictions, read_predictions
from common.run_folder import RunFolder
from common.run_record import ModelInfo, RunRecord, SplitMetrics, describe_test_evaluations
from common.text import SPLIT_NAMES, clean, compact_count, milliseconds, short_name
from evaluation.describe import compare_to_guessing, name_accuracy
from evaluation.figures import axis_name, draw_confusion, figure_pixels, short_names
from evaluation.intervals import format_accuracy
from evaluation.scores import count_confusion, most_confused
from reports.load_runs import Run
from reports.top_losses import MOST_LOSSES, TopLosses, with_thumbnails, worst_images

WIDTH, HEIGHT, DPI = 16, 9, 100  # inches of a slide, pixels an inch
THUMBNAIL = 118  # pixels, the longer side
LONGEST_NAME, SHORT_NAME = 13, 8  # letters of a class
MOST_NAMED = 20  # classes up to which the matrix has counts and names, and every recall is drawn, not only the worst
MOST_WITH_SHARES = 10  # classes up to which the matrix has shares, too
FEW_EPOCHS = 30  # up to this number each epoch has a marker
GRAY, BLUE, ORANGE, RED = "0.45", "tab:blue", "tab:orange", "tab:red"


def overview(record: RunRecord, predictions: Predictions | None = None) -> bytes:
    """Return `draw_overview` as a PNG of 1600 x 900 pixels."""
    return encode_png(figure_pixels(draw_overview(record, predictions), DPI))


def write_overview(folder: RunFolder) -> Path:
    """Draw overview.png from the files of a finished run; return its path.

    Raises:
        UserError: see `draw_overview`; or the record cannot be read.
        OSError: no permission to write, or a full disk.
    """
    if not folder.record.is_file():
        raise UserError(
            f"{folder.path}: no {folder.record.name} in it; give the folder of a run, e.g. outputs/MODEL/DATE"
        )
    path = folder.figure("overview")
    write_bytes(path, overview(RunRecord.read(folder)))
    return path


def draw_overview(record: RunRecord, predictions: Predictions | None = None) -> Figure:
    """Draw curves, confusion matrix, recalls and the worst errors of a run.

    Args:
        record: of a run that was evaluated, with its folder.
        predictions: on test, or on val if there is no test; None: those of the run's table.

    Raises:
        UserError: nothing was evaluated, or the table cannot be read.
    """
    split = next((name for name in ("test", "val") if getattr(record, name) and getattr(record, name).accuracy), None)
    if split is None:
        raise UserError(f"{record.folder.path}: it was not evaluated on any images; run the stage test")
    metrics = getattr(record, split)
    predictions = predictions or read_predictions(record.folder, split, metrics)
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    _write_title(figure, record, metrics, split)
    _draw_curves(figure.add_axes((0.05, 0.655, 0.235, 0.165)), figure.add_axes((0.05, 0.4, 0.235, 0.205)), record)
    _draw_confusion(figure, predictions, split)
    _draw_recalls(figure.add_axes((0.765, 0.4, 0.215, 0.42)), metrics, split)
    run = Run(record.folder, record)
    losses = with_thumbnails(TopLosses(worst_images([predictions]), split, None), run)
    _draw_losses(figure, losses, short_names(predictions.classes, LONGEST_NAME - 2))
    return figure


def _write_title(figure: Figure, record: RunRecord, metrics: SplitMetrics, split: str) -> None:
    """Write the verdict, and below it the network, its cost and what limits the result."""
    title = f"{name_accuracy(metrics, SPLIT_NAMES[split])} {format_accuracy(metrics.accuracy, digits=3)}"
    figure.text(0.02, 0.95, title, fontsize=19, fontweight="bold", va="center")
    against = compare_to_guessing(metrics)
    about = [f"{clean(record.model.name, 40)} on {clean(record.data.name, 40)}", *_cost(record.model)]
    if record.run.settings.get("model.freeze") is True:
        about.append("only the head was trained")
    line = " · ".join([*([against] if against else []), *about])
    size = 12 * min(1, 140 / len(line))  # else it leaves the sheet
    figure.text(0.02, 0.903, line, fontsize=size, color="0.25", va="center", parse_math=False)
    limits = []
    if record.run.debug:
        limits.append(f"a debug run ({clean(record.run.debug, 60)}): its results mean nothing")
    selected_on_test = record.data.select_on == "test"
    if (metrics.test_evaluations or 0) > 1:
        limits.append(describe_test_evaluations(metrics.test_evaluations, selected_on_test))
    elif selected_on_test:
        limits.append("the test images chose the epoch, so this is too good")
    elif split == "val":
        limits.append("no test images were evaluated, and the validation images chose the epoch, so this is too good")
    line = clean("; ".join([*limits, *record.data.caveats]))
    size = 11 * min(1, 150 / max(len(line), 1))
    figure.text(0.02, 0.871, line, fontsize=size, color=RED, va="center", parse_math=False)


def _cost(model: ModelInfo) -> list[str]:
    """Return parameters, multiply-accumulates and latency, as far as they were measured."""
    macs = model.counted_macs
    latency = next((each for each in model.single_latencies if each.is_reliable), None)
    return [
        *([f"{model.parameters:,} parameters"] if model.parameters else []),
        *([f"{compact_count(macs)} MACs"] if macs else []),
        *([f"{milliseconds(latency.latency_p50_ms)} per image"] if latency else []),
    ]


def _draw_curves(loss: Axes, accuracy: Axes, record: RunRecord) -> None:
    """Draw loss and accuracy over epochs, the chosen epoch, and the baseline of the images that chose it."""
    try:
        rows = record.folder.read_metrics() if record.folder.metrics.is_file() else {}
    except UserError:
        rows = {}  # damaged, or of somebody else
    chosen_on = (record.best.monitor or "").split("/")[0] if record.best else record.data.select_on
    names = {"train": "train", "val": {"train": "same images"}.get(chosen_on, chosen_on or "val")}
    epochs = sorted(rows)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        values = {kind: np.array([rows[epoch][f"{kind}/{metric}"] for epoch in epochs]) for kind in names}
        for (kind, known), color in zip(values.items(), (BLUE, ORANGE), strict=True):
            if np.isfinite(known).any():
                style = "o-" if len(epochs) <= FEW_EPOCHS else "-"
                axes.plot(epochs, known, style, color=color, markersize=3.5, linewidth=1.5, label=names[kind])
        axes.set_ylabel(metric, labelpad=2)
        axes.tick_params(labelsize=8)  # else the label leaves the sheet beside numbers like 0.00025 and 1000000
        axes.grid(alpha=0.25)
        if epochs:
            axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        if record.best and record.best.epoch in rows:
            axes.axvline(record.best.epoch, color="black", linewidth=1, linestyle=":")
            value = rows[record.best.epoch][f"val/{metric}"]
            mark = {"color": "black", "markersize": 8, "markerfacecolor": "none", "label": "chosen epoch", "zorder": 5}
            axes.plot([record.best.epoch], [value], "D", **mark)
    both = np.array([[rows[epoch][f"{kind}/loss"] for kind in names] for epoch in epochs])
    known = both[np.isfinite(both)]
    if known.size and 0 < known.min() < known.max() / 20:
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if known.max() < 1000 * known.min() else (1,)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_formatter(NullFormatter())  # its labels would overlap
    measured = record.test if record.data.select_on == "test" else record.val
    if epochs and measured and measured.guessing and chosen_on != "train":
        label = f"always '{axis_name(measured.guessing.name, LONGEST_NAME)}' ({names['val']})"
        accuracy.axhline(measured.guessing.share, color=GRAY, linewidth=1.2, linestyle="--", label=label)
    loss.tick_params(labelbottom=False)
    accuracy.set_xlabel("epoch")
    if epochs:
        best = f", chosen: epoch {record.best.epoch}" if record.best else ""
        loss.set_title(f"Training{best}", loc="left", fontsize=12)
        accuracy.legend(
            fontsize=8, loc="upper left", bbox_to_anchor=(-0.03, -0.27), ncols=4, columnspacing=1.2, frameon=False
        )
    else:
        loss.set_title("Training: not in this folder", loc="left", fontsize=12)
        for axes in (loss, accuracy):
            axes.set(xticks=[], yticks=[])


def _draw_confusion(figure: Figure, predictions: Predictions, split: str) -> None:
    """Draw the confusion matrix; with many classes also a color bar and the most frequent confusions in words."""
    k = len(predictions.classes)
    counts = np.asarray(count_confusion(predictions.labels, predictions.predicted, k))
    written = k <= MOST_NAMED
    axes = figure.add_axes((0.375, 0.41, 0.29, 0.41) if written else (0.35, 0.485, 0.3, 0.335))
    short = short_names(predictions.classes, LONGEST_NAME)
    names = list(short.values())
    # Up to three names are side by side; slanted ones end above the heading of the images
    is_short = max(map(len, names)) <= SHORT_NAME
    size = 10 if k <= 2 or (k <= 5 and is_short) else 8 if k <= 3 or (k <= 8 and is_short) else 7
    image = draw_confusion(
        axes, counts, names, with_shares=k <= MOST_WITH_SHARES, most_written=MOST_NAMED, most_named=MOST_NAMED,
        size=size,
    )  # fmt: skip
    shares = ", with shares of the true class" if k <= MOST_WITH_SHARES else ""
    title = f"Confusion, {len(predictions.labels):,} {SPLIT_NAMES[split]} images{shares}"
    axes.set_title(title, loc="left", fontsize=12)
    if k > MOST_WITH_SHARES:
        figure.colorbar(image, ax=axes, shrink=0.9).set_label("share of the true class", fontsize=8)
    if not written:
        image.set_norm(PowerNorm(0.5, vmin=0, vmax=1))  # else small shares are too pale to be seen
        found = most_confused(counts, predictions.classes)[:4]
        pairs = [f"{short[each.label]} as {short[each.predicted]} ({each.n:,})" for each in found]
        text = "most frequent: " + ",\n".join(pairs) if pairs else "no confusions"
        figure.text(0.345, 0.4, text, fontsize=9, va="center")


def _draw_recalls(axes: Axes, metrics: SplitMetrics, split: str) -> None:
    """Draw the recall of each class with its 95% interval; with many classes only the worst."""
    known = [each for each in metrics.per_class or [] if each.recall]
    shown, title = known, "Recall of each class, 95% intervals"
    if len(known) > MOST_NAMED:
        shown = sorted(known, key=lambda each: each.recall.value)[:MOST_NAMED]
        title = f"Recall, {MOST_NAMED} worst of {len(known):,} classes (95%)"
    for place, each in enumerate(shown):
        found = each.recall
        reach = [[max(found.value - found.low, 0)], [max(found.high - found.value, 0)]]
        axes.errorbar([found.value], [place], xerr=reach, fmt="o", color=BLUE, capsize=3, markersize=6, linewidth=1.5)
    joint = "\n" if len(shown) <= 6 else " "
    short = short_names([each.name for each in metrics.per_class or []], LONGEST_NAME)
    labels = [f"{short[each.name]}{joint}(n = {each.n:,})" for each in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=10 if len(shown) <= 6 else 8)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel(f"share of its {SPLIT_NAMES[split]} images that are right")
    axes.set_title(title, loc="left", fontsize=12)
    if metrics.balanced_accuracy is not None:
        label = f"mean of all classes (balanced accuracy) {metrics.balanced_accuracy:.3f}"
        axes.axvline(metrics.balanced_accuracy, color=GRAY, linewidth=1.2, linestyle="--", label=label)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.13), frameon=False)


def _draw_losses(figure: Figure, found: TopLosses, short: dict[str, str]) -> None:
    """Show images with their label, the predicted class if it is another one, and its probability; names by `short`."""
    n, n_wrong = len(found.losses), sum(loss.wrong for loss in found.losses)
    on = f"on {SPLIT_NAMES[found.split]}"
    if n_wrong:
        which = f"The {n} worst errors {on}, highest loss first" if n > 1 else f"The only error {on}"
        title = f"{which}: label, predicted class and its probability (p)"
    else:
        which = f"the {n} least confident images" if n > 1 else "the only image"
        title = f"No error {on}; {which}: label and its probability (p)"
    hidden = {loss.reason for loss in found.losses if loss.reason}
    note = f" ({clean('; '.join(sorted(hidden)), 120)})" if hidden else ""
    figure.text(0.02, 0.285, title + note, fontsize=12, parse_math=False)
    step = (WIDTH * DPI - 0.02 * 2 * WIDTH * DPI) / MOST_LOSSES  # pixels
    renderer = FigureCanvasAgg(figure).get_renderer()
    for place, loss in enumerate(found.losses):
        left = round(0.02 * WIDTH * DPI + place * step)
        pixels = _thumbnail(loss.image)
        height, width = pixels.shape[:2]
        figure.figimage(pixels, left + (THUMBNAIL - width) // 2, 124 + (THUMBNAIL - height) // 2)
        name = Path(clean(loss.path)).name
        lines = (
            (short[loss.label], "black", "normal", 9.5),
            *([(f"→ {short[loss.predicted]}", RED, "bold", 9.5)] if loss.wrong else []),
            (f"p = {loss.probability:.2f}", RED if loss.wrong else GRAY, "normal", 9.5),
            (axis_name(short_name(name, 20), 20), GRAY, "normal", 7),
        )
        for line, (text, color, weight, size) in enumerate(lines):
            at = ((left + THUMBNAIL / 2) / (WIDTH * DPI), (110 - 20 * line) / (HEIGHT * DPI))
            text = figure.text(*at, text, fontsize=size, color=color, fontweight=weight, ha="center", va="center")
            text.set_fontsize(size * min(1, (step - 6) / text.get_window_extent(renderer).width))  # capitals are wide


def _thumbnail(jpeg: str | None) -> np.ndarray:
    """Return a thumbnail's pixels, (H, W, 3) uint8; a gray square if there is none."""
    if jpeg is None:
        return np.full((THUMBNAIL, THUMBNAIL, 3), 225, np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(jpeg))) as image:
        return np.asarray(thumbnail(image.convert("RGB"), THUMBNAIL))


def main(arguments: list[str] | None = None) -> int:
    """Draw overview.png again from a run's files, or print an error of one line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reports.overview", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run that was evaluated")
    folder = RunFolder(parser.parse_args(arguments).run)
    try:
        path = write_overview(folder)
    except (UserError, OSError) as error:
        print(f"ERROR: {clean(error)}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
