"""The tables as text, Markdown, CSV and LaTeX."""

from common.table import Table, escape_markdown
from common.text import clean, join_words
from reports.columns import (
    EXPORT_NOTE,
    export_table,
    exported_values,
    failed_exports,
    grid_table,
    note,
    result_table,
    setting_table,
)
from reports.per_setting import best_note, grid_note
from reports.report_data import Comparison, ReportData, ResultGroup, ResultRow
from reports.significance import answer, describe_selection_bias

EXPORTED = (
    "exported_as",
    "exported_accuracy",
    "exported_cost",
    "exported_balanced_cost",
    "exported_bytes",
    "exported_latency_p50_ms",
)


def as_text(data: ReportData) -> str:
    """Format for the screen: for each group its table, one line per row, and its answer; then what no table has."""
    parts = []
    for group in data.groups:
        lines = result_table(group).as_text()
        parts.append("\n".join([*_heading(group), *lines] if len(data.groups) > 1 else lines))
        if exports := export_table(group):
            parts.append("\n".join([*exports.as_text(), *failed_exports(group)]))
        parts.append(_answer(group))
    rest = [f"{row.status}: {row.runs[0].name}: {row.reason}" for row in data.unfinished]
    rest += [f"excluded: {why}" for _, why in data.excluded]
    return "\n\n".join([*parts, *(["\n".join(map(clean, rest))] if rest else [])]) or "no finished runs"


def _answer(group: ResultGroup) -> str:
    """Return the answer's sentences as one text; those of smallest.py begin small and have no period."""
    sentences = [each if each.endswith((".", "…")) else f"{each[0].upper()}{each[1:]}." for each in answer(group)]
    return " ".join(sentences)


def _heading(group: ResultGroup) -> list[str]:
    """Return the lines above a group's table if there are several groups."""
    return ["", group.title, group.heading] if group.study else [group.heading]


def as_markdown(data: ReportData, title: str) -> str:
    """Format title, answer, tables and what is not in them."""
    lines = [f"# {escape_markdown(title)}", ""]
    for group in data.groups:
        title, heading = escape_markdown(group.title), escape_markdown(group.heading)
        lines += [f"## {title}", "", f"{heading}.", ""] if len(data.groups) > 1 else [f"{heading}.", ""]
        lines += [escape_markdown(_answer(group)), ""]
        lines += [*result_table(group).as_markdown(), "", escape_markdown(note(group)), ""]
        if exports := export_table(group):
            lines += [*exports.as_markdown(), "", escape_markdown(EXPORT_NOTE), ""]
            lines += [text for why in failed_exports(group) for text in (escape_markdown(why), "")]
        if bias := describe_selection_bias(group):
            lines += [f"Selection bias: {bias}.", ""]
        lines += _markdown_of_settings(group)
    if data.unfinished or data.excluded:
        lines += ["## Not in the table", ""]
        lines += [f"- {escape_markdown(f'{r.runs[0].name} ({r.status}): {r.reason}')}" for r in data.unfinished]
        lines += [f"- {escape_markdown(why)}" for _, why in data.excluded]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_of_settings(group: ResultGroup) -> list[str]:
    """Format the best row of each value of each setting, the grid of two settings, and optima at an edge."""
    lines = []
    for comparison in group.settings:
        lines += [f"### {escape_markdown(comparison.title)}", ""]
        lines += [escape_markdown(" ".join(comparison.sentences)), ""]
        lines += [*setting_table(comparison).as_markdown(), ""]
    if lines:
        lines += [best_note(group), ""]
    if group.grid:
        lines += [f"### {escape_markdown(group.grid.title)}", ""]
        lines += [*grid_table(group.grid).as_markdown(), "", escape_markdown(grid_note(group.grid)), ""]
    return [*lines, escape_markdown(" ".join(group.edges)), ""] if group.edges else lines


def as_latex(data: ReportData) -> str:
    """Format the tables of results, each after comments: its sweep if there are several, its data, and what the numbers are."""
    tables = []
    for group in data.groups:
        guesses = [str(row.rank) for row in group.rows if row.guesses]
        comments = [
            *_heading(group),
            note(group, for_paper=True),
            f"No better than guessing: # {join_words(guesses)}" if guesses else "",
        ]
        tables.append(
            [*(f"% {clean(line)}" for line in comments if line), *result_table(group, for_paper=True).as_latex()]
        )
    return "\n\n".join(map("\n".join, tables)) + "\n"


def as_csv(data: ReportData) -> str:
    """Format all rows with full digits; unfinished runs come last, without a rank."""
    lines = [_csv_line(row) for group in data.groups for row in group.rows]
    lines += [{**_csv_line(row), "rank": None, "reason": row.whole_reason} for row in data.unfinished]
    names = list(dict.fromkeys(key for line in lines for key in line))
    return Table.of(names, [[line.get(name) for name in names] for line in lines]).as_csv()


def _csv_line(row: ResultRow) -> dict:
    line = {"rank": row.rank, "status": row.status}
    line |= {"study": row.study.title} if row.study else {}
    line |= {"data": row.data.fingerprint}
    line |= {"data_val_test": row.data.fingerprint_val_test, "n_train": row.data.n_train}
    line |= {"name": row.name} | {f"setting {name}": value for name, value in row.changed.items()}
    for split, accuracy in row.accuracies.items():
        for key in ("value", "low", "high", "standard_deviation", "n"):
            name = f"{split}_accuracy" if key == "value" else f"{split}_accuracy_{key}"
            line[name] = getattr(accuracy, key) if accuracy else None
        line |= {f"{split} {clean(name, 40)}": value for name, value in row.further(split).items()}
    found = row.comparison or Comparison()
    for key in ("difference", "low", "high", "at_least"):
        name = "difference" if key == "difference" else f"difference_{key}"
        line[name] = getattr(found.pair, key) if found.pair else None
    line |= {"p_holm": found.p_value, "verdict": found.verdict if row.comparison else None}
    line |= {"good_enough": found.shown if found.pair else None}
    line |= {
        f"{split}_baseline": row.baselines[split].share if split in row.baselines else None for split in row.accuracies
    }
    line |= {key: getattr(row, key) for key in ("macs", "parameters", "latency_p50_ms", "wall_time_s")}
    line |= dict(zip(EXPORTED, exported_values(row), strict=True)) if row.deployed else {}
    line |= {"seeds": " ".join(map(str, row.seeds)), "n_seeds": len(row.seeds), "n_folds": len(row.folds)}
    return {**line, "reason": None, "runs": " ".join(run.name for run in row.runs)}
