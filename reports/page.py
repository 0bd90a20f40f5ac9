"""One self-contained HTML page of many runs: no network, no server, readable without its script."""

import base64
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from common.html import jinja_environment
from common.table import Table
from common.text import SPLIT_NAMES, clean, join_words, plural
from reports import svg
from reports.columns import EXPORT_NOTE, export_table, grid_table, note, result_table, setting_table
from reports.per_setting import best_note, grid_note
from reports.provenance import provenance
from reports.report_data import ReportData, ResultGroup, ResultRow
from reports.significance import answer, describe_selection_bias
from reports.top_losses import MOST_CLASSES, confusion, with_thumbnails
from reports.training_curves import training_curves

MOST_DRAWN = svg.MOST_LINES
MOST_GROUPS = 4  # that are drawn
MOST_MATRICES = 12
MOST_NOTES = 5
LONGEST = 2000  # characters of one text
LONGEST_REASON = 120  # characters
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


def make_page(data: ReportData, title: str) -> str:
    """Make the page; problems of single runs are shown on it."""
    environment, script = environment_and_script()
    return environment.get_template("page.html").render(
        title=title,
        subtitle=_subtitle(data),
        groups=[_group(group, data.changed, drawn=i < MOST_GROUPS) for i, group in enumerate(data.groups)],
        unfinished=[{"name": r.runs[0].name, "status": r.status, "reason": r.reason} for r in data.unfinished],
        excluded=[why for _, why in data.excluded],
        **script,
        **provenance(data),
    )


def environment_and_script() -> tuple[Environment, dict]:
    """Return Jinja2 for the pages of this folder, and the script that sorts their tables with its hash for the policy."""
    environment = jinja_environment(HERE, longest=LONGEST)
    environment.filters["together"] = lambda text: text.replace("n = ", "n\u00a0=\u00a0")
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment, {"script": Markup(script), "script_hash": script_hash}


def _subtitle(data: ReportData) -> str:
    finished = sum(len(row.runs) for group in data.groups for row in group.rows)
    parts = [f"{finished:,} of {plural(len(data.runs), 'run')} finished"]
    states = Counter(row.status for row in data.unfinished)
    parts += [f"{n:,} {'not finished' if state == 'running' else state}" for state, n in states.items()]
    parts += [f"{plural(len(data.excluded), 'record')} excluded"] if data.excluded else []
    return ", ".join(parts) + "."


def _group(group: ResultGroup, changed: list[str], drawn: bool) -> dict:
    part = {
        "heading": group.heading,
        "selected_on_test": group.selected_on_test,
        "has_best": group.rows[0].comparison.is_best,
        "answer": answer(group),
        "table": result_table(group, changed),
        "note": note(group),
        "exports": export_table(group),
        "exports_note": EXPORT_NOTE,
        "selection_bias": describe_selection_bias(group),
        "settings": [(found.title, found.sentences, setting_table(found)) for found in group.settings],
        "settings_note": best_note(group),
        "grid": _grid(group),
        "edges": group.edges,
        "drawn": drawn,
    }
    if drawn:
        rows = group.rows[:MOST_DRAWN]
        part |= {"capped": len(rows) < len(group.rows), **_curves(rows), **_pareto(rows), **_top_losses(rows[0])}
        matrices = [made for row in rows if (made := _confusion(row, named=len(rows) > 1))][:MOST_MATRICES]
        others = len(matrices) - 1
        part |= {"confusions": matrices, "others": "The other row" if others == 1 else f"The next {others:,} rows"}
    return part


def _grid(group: ResultGroup) -> tuple[str, Table, str] | None:
    return group.grid and (group.grid.title, grid_table(group.grid), grid_note(group.grid))


def _curves(rows: list[ResultRow]) -> dict:
    """Draw the metrics over epochs, a line a row, with their legend and what could not be read."""
    read = [training_curves(row.runs) for row in rows]
    drawings = []
    for column, title, label in PANELS:
        lines = [curves[column] for curves, _ in read]
        if any(len(line.values) for line in lines):
            if column.startswith("val") and rows[0].selected_on_test:
                title = title.replace("Validation", "Test")
            rates = [value for line in lines for value in line.values[line.values > 0]] if column == "lr" else []
            logarithmic = bool(rates) and max(rates) / min(rates) > 20
            drawings.append(Markup(svg.curves(title, lines, label, logarithmic)))
    legend = []
    for index, row in enumerate(rows):
        color, dash = svg.line_style(index)
        color = svg.PAGE_COLORS.get(color, color)
        legend.append({"rank": row.rank, "name": row.name, "color": color, "dash": svg.SVG_DASHES[dash]})
    notes = [text for _, found in read for text in found]
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"and {len(notes) - MOST_NOTES:,} more such tables"]
    return {"curves": drawings, "legend": legend, "curve_notes": notes}


def _pareto(rows: list[ResultRow]) -> dict:
    """Draw accuracy against each cost that differs, and list which rows are on which front."""
    measured = [row for row in rows if row.ranked_by]
    drawings, fronts, notes = [], defaultdict(list), []
    differ = any(len({getattr(row, key) for row in measured}) > 1 for key in ("macs", "parameters"))
    for key, title, label, word in COSTS if differ else ():
        points = [
            svg.Point(row.rank, row.ranked_by.value, row.ranked_by.low, row.ranked_by.high, getattr(row, key))
            for row in measured
            if (getattr(row, key) or 0) > 0
        ]
        if len({point.cost for point in points}) > 1:
            front = svg.pareto_front(points)
            drawings.append(Markup(svg.pareto(title, points, front, label)))
            for rank in front:
                fronts[rank].append(word)
    if not differ and measured:
        notes.append("All rows have the same network cost, so that accuracy is not drawn against it.")
    latencies = [latency for row in rows for run in row.runs for latency in run.model.single_latencies]
    where = {clean(f"{each.device} with {each.threads} threads", 60) for each in latencies}
    if len(where) > 1:
        notes.append(
            f"Latencies were measured on {join_words(sorted(where))}: they cannot be compared with one another."
        )
    if flags := [each.flag for each in latencies if each.flag]:
        notes.append(
            f"Of {plural(len(latencies), 'latency measurement')} {len(flags):,} cannot be relied on, and neither the figure "
            f"nor the front has them ({'the first: ' if len(flags) > 1 else ''}{clean(flags[0], LONGEST_REASON)})."
        )
    points = [{"rank": row.rank, "name": row.name, "front": join_words(fronts.get(row.rank, [""]))} for row in measured]
    return {"pareto": drawings, "points": points, "cost_notes": notes}


def _top_losses(best: ResultRow) -> dict:
    """Return the top losses of the best row with their thumbnails, and an explanation."""
    found = with_thumbnails(best.top_losses, best.runs[0])
    if not found.losses:
        return {"top_losses": {"losses": [], "words": f"None: {found.reason}.", "boxes": False}}
    boxes = any(loss.image for loss in found.losses)
    folds = f" ({plural(len(best.folds), 'fold')})" if best.folds else ""
    words = (
        f"{SPLIT_NAMES[found.split].capitalize()} images that the runs of {best.name}{folds} get wrong most often, those with "
        "the least probability of the true class first; in brackets the mean probability of the predicted class."
    )
    if not boxes:
        words += f" They cannot be shown: {join_words(sorted({loss.reason for loss in found.losses}))}."
    return {"top_losses": {"losses": found.losses, "words": words, "boxes": boxes}}


def _confusion(row: ResultRow, named: bool) -> dict | None:
    made = confusion(row.runs)
    if made is None:
        return None
    summed = f", summed over {plural(len(row.runs), 'run')}" if len(row.runs) > 1 else ""
    name = f"{row.rank} {row.name}: " if named else ""
    cells = []
    if len(made.classes) <= MOST_CLASSES:
        for counts, shares in zip(made.counts.tolist(), made.shares.tolist(), strict=True):
            cells.append([{"count": n, "share": share} for n, share in zip(counts, shares, strict=True)])
    return {
        "title": f"{name}{made.right:,} of {made.total:,} {SPLIT_NAMES[made.split]} images correct{summed}",
        "classes": made.classes,
        "most_frequent": made.most_frequent,
        "lines": cells,
    }
