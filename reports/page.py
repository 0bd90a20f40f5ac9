"""One self-contained HTML page of many runs: no network, no server, readable without its script."""

import base64
import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup, escape

from common.errors import UserError
from common.html import jinja_environment
from common.text import SPLIT_NAMES, capped, clean, compact_count, join_words, plural
from reports import svg
from reports.columns import EXPORT_NOTE, export_table, failed_exports, grid_table, note, result_table, setting_table
from reports.cost_figures import LONGEST_LABEL, MOST_NAMED, Levels, Point, accuracy_figure, cost_figure, pareto_front
from reports.learning_curve import curve_figure, curves_of, describe_curves
from reports.per_setting import best_note, grid_note
from reports.provenance import provenance
from reports.report_data import ReportData, ResultGroup, ResultRow
from reports.run_links import link, row_links, use
from reports.search_section import search_section
from reports.significance import answer, describe_accuracy, describe_selection_bias
from reports.top_losses import confusion, with_thumbnails
from reports.training_curves import training_curves

MOST_DRAWN = svg.MOST_LINES
MOST_GROUPS = 4  # that are drawn
MOST_BRIEF = 20  # the same if each is a study with its own page, so only its costs are drawn
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
    ("latency_p50_ms", "Accuracy and latency", "ms for one image, median", "latency"),
)
HERE = Path(__file__).parent


def make_page(data: ReportData, title: str, folder: Path, search: Path | None = None) -> str:
    """Make the page for a folder; it also shows the problems of single runs.

    Args:
        folder: where the page will be written; links are relative to it.
        search: folder of the search that the runs belong to, if any.
    """
    environment, script = environment_and_script()
    has_studies = len(data.groups) > 1 and any(group.study for group in data.groups)
    most = MOST_BRIEF if has_studies else MOST_GROUPS
    groups = [_group(group, folder, drawn=i < most, detailed=not has_studies) for i, group in enumerate(data.groups)]
    return environment.get_template("page.html").render(
        title=title,
        subtitle=_subtitle(data),
        groups=groups,
        search=search and search_section(search, folder),
        has_studies=has_studies,
        n_drawn=most,
        unfinished=[{"name": r.runs[0].name, "status": r.status, "reason": r.reason} for r in data.unfinished],
        excluded=[why for _, why in data.excluded],
        **script,
        **provenance(data, folder),
    )


def environment_and_script() -> tuple[Environment, dict]:
    """Return the Jinja2 environment of the pages, and the script that sorts their tables, with its hash for the CSP."""
    environment = jinja_environment(HERE, longest=LONGEST)
    environment.filters["together"] = lambda text: re.sub(" ([=<]) ", "\u00a0\\1\u00a0", text)
    # A long name breaks behind such a mark before it breaks within a word; numbers do not break
    environment.filters["breakable"] = lambda text: Markup(
        re.sub(r"([_.-])(?=[^\W\d])", r"\1<wbr>", str(escape(clean(text, LONGEST))))
    )
    # A long path breaks between its folders before it breaks within a name
    environment.filters["path"] = lambda text: Markup("/<wbr>").join(clean(text, LONGEST).split("/"))
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment, {"script": Markup(script), "script_hash": script_hash}


def _subtitle(data: ReportData) -> str:
    finished = len(data.runs) - len(data.unfinished)
    parts = [f"{finished:,} of {plural(len(data.runs), 'run')} finished"]
    states = Counter(row.status for row in data.unfinished)
    parts += [f"{n:,} {'not finished' if state == 'running' else state}" for state, n in states.items()]
    parts += [f"{plural(len(data.excluded), 'record')} excluded"] if data.excluded else []
    return ", ".join(parts) + "."


def _group(group: ResultGroup, folder: Path, drawn: bool, detailed: bool) -> dict:
    """Return what the page shows of a group; `drawn` adds its costs, `detailed` also curves, confusions and top losses."""
    own = group.study and group.study.page
    part = {
        "title": group.title,
        "heading": group.heading,
        "own_page": link(own, folder, "its own page") if own and own.is_file() else None,
        "selected_on_test": group.selected_on_test,
        "has_best": group.rows[0].comparison.is_best,
        "is_measured": group.rows[0].ranked_by is not None,
        "answer": answer(group),
        "best": _best(group),
        "table": result_table(group),
        "files": [(len(row.runs), row_links(row, folder)) for row in group.rows],
        "use": use(group, folder, with_overview=drawn and detailed),
        "note": note(group),
        "exports": export_table(group),
        "exports_notes": [EXPORT_NOTE, *failed_exports(group)],
        "selection_bias": describe_selection_bias(group),
        "settings": [(found.title, found.sentences, setting_table(found)) for found in group.settings],
        "settings_note": best_note(group),
        "grid": group.grid and (group.grid.title, grid_table(group.grid), grid_note(group.grid)),
        "edges": group.edges,
        "drawn": drawn,
    }
    if drawn:
        rows = group.rows[:MOST_DRAWN]
        part |= {
            "capped": len(rows) < len(group.rows),
            "n_costs": MOST_DRAWN,
            **_costs(group),
            "learning_curve": _learning_curve(group),
        }
    part["detailed"] = drawn and detailed
    if part["detailed"]:
        part |= {**_curves(rows), **_top_losses(rows[0])}
        matrices = [made for row in rows if (made := _confusion(row, named=len(rows) > 1))][:MOST_MATRICES]
        others = len(matrices) - 1
        part |= {"confusions": matrices, "others": "The other row" if others == 1 else f"The next {others:,} rows"}
    return part


def _best(group: ResultGroup) -> str:
    """Return `best: keep=4, accuracy 0.625` for the table of contents."""
    best = group.rows[0]
    if best.guesses:
        return "nothing is shown to be better than guessing"
    if best.ranked_by:
        return f"best: {best.name}, accuracy {best.ranked_by.value:.3f}"
    return "evaluated on test only" if any(row.accuracies["test"] for row in group.rows) else "costs only"


def _curves(rows: list[ResultRow]) -> dict:
    """Draw the metrics over epochs, one line per row; return the drawings, their legend and what could not be read."""
    read = [training_curves(row.runs) for row in rows]
    drawings = []
    for column, title, label in PANELS:
        lines = [curves[column] for curves, _ in read]
        if any(line.values.shape[1] > 1 for line in lines if len(line.values)):  # one epoch is no curve
            if column.startswith("val") and rows[0].selected_on_test:
                title = title.replace("Validation", "Test")
            rates = [value for line in lines for value in line.values[line.values > 0]] if column == "lr" else []
            logarithmic = bool(rates) and max(rates) / min(rates) > 20
            if len(lines) > 1 and len({line.values.tobytes() for line in lines}) == 1:
                title, lines = f"{title}, the same for all", lines[:1]  # else the last line hides the others
            drawings.append(Markup(svg.curves(title, lines, label, logarithmic)))
    legend = []
    for index, row in enumerate(rows):
        color, dash = svg.line_style(index)
        color = svg.PAGE_COLORS.get(color, color)
        legend.append({"rank": row.rank, "name": row.name, "color": color, "dash": svg.SVG_DASHES[dash]})
    notes = [text for _, found in read for text in found] if drawings else []
    bands = any(len(row.runs) > 1 for row in rows)
    return {
        "curves": drawings,
        "has_bands": bands,
        "legend": legend,
        "curve_notes": capped(notes, MOST_NOTES, "and {:,} more such tables"),
    }


def _costs(group: ResultGroup) -> dict:
    """Draw accuracy against each cost that differs, or only the costs if no accuracy was measured; say what is not drawn.

    With many rows, only the best and those on a front are drawn: a sweep for a small network is about the front's cheap end.
    """
    rows = group.rows
    measured = [row for row in rows if row.ranked_by]
    best = {row.rank for row in measured[:MOST_DRAWN]}
    differ = any(len({getattr(row, key) for row in rows}) > 1 for key in ("macs", "parameters"))
    drawings, fronts, drawn = [], defaultdict(list), set()
    levels = _levels(group)
    for key, title, label, word in COSTS if differ else ():
        shown = measured or rows[:MOST_DRAWN]
        points = [_point(row, getattr(row, key), label) for row in shown if (getattr(row, key) or 0) > 0]
        if len({point.cost for point in points}) < 2:
            continue
        drawn.add(word)
        if not measured:
            drawings.append(
                Markup(cost_figure(word[0].upper() + word[1:], sorted(points, key=lambda p: (p.cost, p.rank)), label))
            )
            continue
        front = pareto_front(points)
        points = [point for point in points if point.rank in best | front]
        drawings.append(Markup(accuracy_figure(title, points, front, label, levels, f"{group.ranked_on} accuracy")))
        for rank in front:
            fronts[rank].append(word)
    points = [
        {"rank": row.rank, "name": row.name, "front": join_words(fronts[row.rank]) if row.rank in fronts else ""}
        for row in measured
        if row.rank in best or row.rank in fronts
    ]
    return {
        "costs": drawings, "points": points,
        "cost_notes": _cost_notes(rows, bool(measured and rows[0].macs) and not differ, "latency" in drawn),
        "needs_names": len(points) > MOST_NAMED or any(len(each["name"]) > LONGEST_LABEL for each in points),
        "levels": levels, "split": group.ranked_on.capitalize(), "n_best": len(best),
    }  # fmt: skip


def _point(row: ResultRow, cost: float | None, label: str) -> Point:
    found, costs = row.ranked_by, f"{compact_count(cost)} {label}"
    if found is None:
        return Point(row.rank, 0.0, None, None, cost, row.name, f"{row.rank}. {row.name}: {costs}")
    words = f"{row.rank}. {row.name}: accuracy {describe_accuracy(found)}, {costs}"
    return Point(row.rank, found.value, found.low, found.high, cost, row.name, words)


def _levels(group: ResultGroup) -> Levels:
    """Return the accuracies that the figures mark for comparison, on the split that they show."""
    best, split = group.rows[0], "test" if group.selected_on_test else "val"
    guess = next((row.baselines[split].share for row in group.rows if split in row.baselines), None)
    top = None if best.guesses or best.ranked_by is None else best.ranked_by.value
    return Levels(top, group.margin, guess, group.target)


def _cost_notes(rows: list[ResultRow], same: bool, with_latency: bool) -> list[str]:
    notes = ["All rows cost the same, so accuracy is not drawn against cost."] if same and len(rows) > 1 else []
    latencies = [latency for row in rows for run in row.runs for latency in run.model.single_latencies]
    where = {clean(f"{each.device} with {each.threads} threads", 60) for each in latencies}
    if len(where) > 1:
        notes.append(
            f"Latencies were measured on {join_words(sorted(where))}; they cannot be compared with each other."
        )
    if flags := [each.flag for each in latencies if each.flag]:
        first = f"{'the first: ' if len(flags) > 1 else ''}{clean(flags[0], LONGEST_REASON)}"
        which = f"{len(flags):,} of {plural(len(latencies), 'latency measurement')}"
        notes.append(
            f"{which if len(latencies) > 1 else 'The latency'} cannot be relied on and "
            f"{'is' if len(flags) == 1 else 'are'} excluded from the table{' and the figure' * with_latency} ({first})."
        )
    return notes


def _learning_curve(group: ResultGroup) -> dict | None:
    """Draw accuracy against the number of training images, if a sweep varied it, and say what more images would bring."""
    if "train_fraction" not in group.changed:
        return None
    try:
        curves = curves_of([run for row in group.rows for run in row.runs], [])
        return {"drawing": Markup(curve_figure(curves)), "sentences": describe_curves(curves)}
    except (UserError, OSError) as error:
        return {"drawing": None, "sentences": [f"There is no learning curve: {clean(error, LONGEST)}"]}


def _top_losses(best: ResultRow) -> dict:
    """Return the top losses of the best row with their thumbnails, and an explanation."""
    found = with_thumbnails(best.top_losses, best.runs[0])
    if not found.losses:
        words = f"None: {found.reason}." if best.ranked_by else ""
        return {"top_losses": {"losses": [], "words": words, "boxes": False}}
    boxes = any(loss.image for loss in found.losses)
    folds = f" ({plural(len(best.folds), 'fold')})" if best.folds else ""
    name = f"{best.name}{folds}"
    which, order, mean = f"the runs of {name} get wrong most often", "; ties are ordered by the", "mean"
    if all(loss.runs == 1 for loss in found.losses):
        which, order, mean = f"{name} gets wrong", ", ordered by the", "the"
    words = (
        f"{SPLIT_NAMES[found.split].capitalize()} images that {which}{order} probability of the true class, lowest first. "
        f"In parentheses: {mean} probability of the predicted class."
    )
    if not boxes:
        words += f" The images cannot be shown: {join_words(sorted({loss.reason for loss in found.losses}))}."
    return {"top_losses": {"losses": found.losses, "words": words, "boxes": boxes}}


def _confusion(row: ResultRow, named: bool) -> dict | None:
    made = confusion(row.runs)
    if made is None:
        return None
    summed = f", summed over {plural(len(row.runs), 'run')}" if len(row.runs) > 1 else ""
    name = f"{row.rank}. {row.name}: " if named else ""
    cells = []
    if made.counts is not None:
        for counts, shares in zip(made.counts.tolist(), made.shares.tolist(), strict=True):
            cells.append([{"count": n, "share": share} for n, share in zip(counts, shares, strict=True)])
    return {
        "title": f"{name}{made.right:,} of {made.total:,} {SPLIT_NAMES[made.split]} images correct{summed}",
        "classes": made.classes,
        "most_frequent": made.most_frequent,
        "lines": cells,
    }
