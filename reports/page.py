"""One self-contained HTML page of many runs: no network, no server, readable without its script."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.text import clean, join_words, plural
from reports import svg as figures
from reports.aggregate import ReportData, ResultGroup, ResultRow, single_latencies
from reports.columns import Column, columns, columns_of_best, columns_of_grid, note
from reports.per_setting import best_note, best_per_setting, edges, grid, grid_note
from reports.provenance import provenance
from reports.renderers import reason
from reports.significance import SPLITS, answer, describe_selection_bias
from reports.top_losses import MOST_CLASSES, Confusion, confusion, top_losses
from reports.training_curves import over_epochs

MOST_DRAWN = figures.MOST_LINES
MOST_SECTIONS = 4  # that are drawn
MOST_MATRICES = 12
MOST_NOTES = 5
LONGEST = 2000  # characters of one text
PANELS = (
    ("val/accuracy", "Validation accuracy", "accuracy"),
    ("train/accuracy", "Training accuracy", "accuracy"),
    ("val/loss", "Validation loss", "loss"),
    ("train/loss", "Training loss", "loss"),
    ("lr", "Learning rate", "learning rate"),
)
COSTS = (
    ("macs", "Accuracy and MACs", "MACs of one image", "MACs"),
    ("parameters", "Accuracy and parameters", "parameters", "parameters"),
    ("latency_p50_ms", "Accuracy and latency", "latency of one image, median, ms", "latency"),
)
HERE = Path(__file__).parent


def make_page(summary: ReportData, title: str) -> str:
    """The page; what is wrong with single runs is said on it."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value, LONGEST),
    )  # fmt: skip
    environment.filters["together"] = lambda text: text.replace("n = ", "n\u00a0=\u00a0")
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    return environment.get_template("page.html").render(
        title=title,
        subtitle=_subtitle(summary),
        sections=[_section(s, summary, drawn=i < MOST_SECTIONS) for i, s in enumerate(summary.sections)],
        unfinished=[
            {"name": row.runs[0].name, "status": row.runs[0].record["status"], "reason": reason(row)}
            for row in summary.unfinished
        ],
        excluded=[why for _, why in summary.excluded],
        script=Markup(script),  # ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **provenance(summary),
    )


def _subtitle(summary: ReportData) -> str:
    finished = sum(len(row.runs) for section in summary.sections for row in section.rows)
    parts = [f"{finished:,} of {plural(len(summary.runs), 'run')} finished"]
    states = Counter(row.runs[0].record["status"] for row in summary.unfinished)
    parts += [f"{n:,} {'not at the end' if state == 'running' else state}" for state, n in states.items()]
    parts += [f"{plural(len(summary.excluded), 'record')} left out"] if summary.excluded else []
    return ", ".join(parts) + "."


def _section(section: ResultGroup, summary: ReportData, drawn: bool) -> dict:
    part = {
        "heading": section.heading,
        "selected_on_test": section.rows[0].selected_on_test,
        "has_best": section.rows[0].ranked_by is not None,
        "answer": answer(section),
        **_table(columns(section, summary.columns), section.rows),
        "note": note(section),
        "optimism": describe_selection_bias(section),
        "drawn": drawn,
        **_settings(section, summary),
    }
    if drawn:
        rows = section.rows[:MOST_DRAWN]
        part |= {"capped": len(rows) < len(section.rows), **_curves(rows), **_pareto(rows), **_images(rows[0])}
        matrices = [made for row in rows[:MOST_MATRICES] if (made := confusion(row))]
        part["others"] = "The other row" if len(matrices) == 2 else f"The {len(matrices) - 1:,} rows that follow"
        part["confusions"] = [_matrix(made, len(rows) > 1) for made in matrices]
    return part


def _settings(section: ResultGroup, summary: ReportData) -> dict:
    """The best of each value of each setting, and the grid of two settings."""
    each = [
        {"title": found.title, "words": found.sentences, **_table(columns_of_best(found), found.bests)}
        for found in best_per_setting(section)
    ]
    part = {"each": each, "each_note": best_note(section), "grid": None, "edges": edges(section, summary.unfinished)}
    if found := grid(section):
        lines = _table(columns_of_grid(found), found.lines)
        part["grid"] = {"title": found.title, "note": grid_note(found), **lines}
    return part


def _table(shown: list[Column], lines: Sequence) -> dict:
    return {"columns": shown, "lines": [[column.fill(line) for column in shown] for line in lines]}


def _curves(rows: list[ResultRow]) -> dict:
    read = [over_epochs(row.runs) for row in rows]
    drawings = []
    for column, title, label in PANELS:
        lines = [curves[column] for curves, _ in read]
        if any(len(line.values) for line in lines):
            if column.startswith("val") and rows[0].selected_on_test:
                title = title.replace("Validation", "Test")
            rates = [line.values[line.values > 0] for line in lines] if column == "lr" else []
            wide = bool(rates) and _ratio([value for found in rates for value in found]) > 20
            drawings.append(Markup(figures.curves(title, lines, label, logarithmic=wide)))
    legend = []
    for index, row in enumerate(rows):
        color, dash = figures.line_style(index)
        color = figures.PAGE_COLORS.get(color, color)
        legend.append({"rank": row.rank, "name": row.name, "color": color, "dash": figures.SVG_DASHES[dash]})
    notes = [text for _, found in read for text in found]
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"and {len(notes) - MOST_NOTES:,} more such tables"]
    return {"curves": drawings, "legend": legend, "curve_notes": notes}


def _pareto(rows: list[ResultRow]) -> dict:
    """Drawings of accuracy against each cost that differs, and who is on which front."""
    measured = [row for row in rows if row.ranked_by]
    drawings, fronts, notes = [], {}, []
    differ = any(len({getattr(row, key) for row in measured}) > 1 for key in ("macs", "parameters"))
    for key, title, label, word in COSTS if differ else ():
        points = [
            figures.Point(row.rank, row.ranked_by.value, row.ranked_by.low, row.ranked_by.high, getattr(row, key))
            for row in measured
            if (getattr(row, key) or 0) > 0
        ]
        if len({point.cost for point in points}) > 1:
            front = figures.pareto_front(points)
            drawings.append(Markup(figures.pareto(title, points, front, label)))
            for rank in front:
                fronts.setdefault(rank, []).append(word)
    if not differ and measured:
        notes.append("All rows have the same network cost, so that accuracy is not drawn against it.")
    where = {
        clean(f"{e.get('device')} with {e.get('threads')} threads", 60)
        for row in rows
        for run in row.runs
        for e in single_latencies(run)
    }
    if len(where) > 1:
        notes.append(
            f"Latencies were measured on {join_words(sorted(where))}: they cannot be compared with one another."
        )
    points = [{"rank": r.rank, "name": r.name, "front": join_words(fronts.get(r.rank, [""]))} for r in measured]
    return {"pareto": drawings, "points": points, "cost_notes": notes}


def _images(best: ResultRow) -> dict:
    found = top_losses(best)
    boxes = any(loss.image for loss in found.losses)
    shown = [loss._replace(image=loss.image and Markup(loss.image)) for loss in found.losses]  # base64, ours
    if found.losses:
        folds = f" ({plural(len(best.folds), 'fold')})" if best.folds else ""
        common = {loss.reason for loss in found.losses}
        words = (
            f"{SPLITS[found.split].capitalize()} images that the runs of {best.name}{folds} get wrong most often, those with "
            "the least probability of the true class first; in brackets the mean probability of what they are taken for."
        )
        if not boxes:
            words += f" They cannot be shown: {join_words(sorted(common))}."
    else:
        words = f"None: {found.reason}."
    return {"top_losses": {"losses": shown, "words": words, "boxes": boxes}}


def _matrix(made: Confusion, named: bool) -> dict:
    right, total = int(made.counts.trace()), int(made.counts.sum())
    summed = f", summed over {plural(len(made.row.runs), 'run')}" if len(made.row.runs) > 1 else ""
    name = f"{made.row.rank} {made.row.name}: " if named else ""
    shares = made.shares if len(made.classes) <= MOST_CLASSES else []
    return {
        "title": f"{name}{right:,} of {total:,} {SPLITS[made.split]} images right{summed}",
        "classes": made.classes,
        "commonest": made.commonest,
        "lines": [
            [{"count": int(n), "share": float(s)} for n, s in zip(counts, line, strict=True)]
            for counts, line in zip(made.counts, shares, strict=True)
        ]
        if len(shares)
        else [],
    }


def _ratio(values: list[float]) -> float:
    return max(values) / min(values) if values else 1.0
