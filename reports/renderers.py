"""The tables as text, Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from common.text import clean, numeral
from reports.columns import Table, grid_table, note, result_table, setting_table
from reports.per_setting import best_note, grid_note
from reports.report_data import Comparison, ReportData, ResultGroup, ResultRow
from reports.significance import answer, describe_selection_bias

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "…": r"\ldots{}",
}  # fmt: skip
MARKDOWN = {**{c: f"\\{c}" for c in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


def as_text(data: ReportData) -> str:
    """Format the tables for the screen, a line a row, then what is not in them."""
    parts = []
    for group in data.groups:
        table = result_table(group, data.changed)
        lines = [table.titles, *([str(cell) for cell in line] for line in table.lines)]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        aligned = [
            "  ".join(
                text.ljust(width) if column.is_text else text.rjust(width)
                for text, width, column in zip(line, widths, table.columns, strict=True)
            ).rstrip()
            for line in lines
        ]
        parts.append("\n".join([group.heading, *aligned] if len(data.groups) > 1 else aligned))
    rest = [f"{row.status}: {row.runs[0].name}: {row.reason}" for row in data.unfinished]
    rest += [f"excluded: {why}" for _, why in data.excluded]
    return "\n\n".join([*parts, *(["\n".join(map(clean, rest))] if rest else [])]) or "no finished runs"


def as_markdown(data: ReportData, title: str) -> str:
    """Format title, answer, tables and what is not in them."""
    lines = [f"# {escape_markdown(title)}", ""]
    for group in data.groups:
        lines += [f"## {escape_markdown(group.heading)}", "", escape_markdown(" ".join(answer(group))), ""]
        lines += [*_markdown_table(result_table(group, data.changed)), "", note(group), ""]
        if bias := describe_selection_bias(group):
            lines += [f"Selection bias: {bias}.", ""]
        lines += _markdown_of_settings(group)
    if data.unfinished or data.excluded:
        lines += ["## Not in the table", ""]
        lines += [f"- {escape_markdown(f'{r.runs[0].name} ({r.status}): {r.reason}')}" for r in data.unfinished]
        lines += [f"- {escape_markdown(why)}" for _, why in data.excluded]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_of_settings(group: ResultGroup) -> list[str]:
    """Format the best of each value of each setting, the grid of two settings, and optima at an edge."""
    lines = []
    for comparison in group.settings:
        lines += [f"### {escape_markdown(comparison.title)}", ""]
        lines += [escape_markdown(" ".join(comparison.sentences)), ""]
        lines += [*_markdown_table(setting_table(comparison)), ""]
    if lines:
        lines += [best_note(group), ""]
    if group.grid:
        lines += [f"### {escape_markdown(group.grid.title)}", ""]
        lines += [*_markdown_table(grid_table(group.grid)), "", escape_markdown(grid_note(group.grid)), ""]
    return [*lines, escape_markdown(" ".join(group.edges)), ""] if group.edges else lines


def _markdown_table(table: Table) -> list[str]:
    made = [markdown_row(map(escape_markdown, table.titles))]
    made.append("|" + "|".join("---" if column.is_text else "---:" for column in table.columns) + "|")
    for line in table.lines:
        texts = [(escape_markdown(cell), "**" if cell.best else "") for cell in line]
        made.append(markdown_row(f"{mark}{text}{mark}" for text, mark in texts))
    return made


def markdown_row(cells) -> str:
    """Return `| a | b |`; the cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def as_latex(data: ReportData) -> str:
    r"""Format tabulars in the style of booktabs; the document needs \usepackage{booktabs}."""
    parts = []
    for group in data.groups:
        table = result_table(group, data.changed)
        alignment = "".join("l" if column.is_text else "r" for column in table.columns)
        lines = [f"% {clean(group.heading)}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
        lines += [
            _latex_row(table.titles),
            r"\midrule",
            *map(_latex_row, table.lines),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_row(cells: Sequence) -> str:
    return " & ".join(_escape(cell, LATEX) for cell in cells) + r" \\"


def as_csv(data: ReportData) -> str:
    """Format all rows with full digits; unfinished runs come last, without a rank."""
    lines = [_csv_line(row) for group in data.groups for row in group.rows]
    lines += [{**_csv_line(row), "rank": None, "reason": row.reason} for row in data.unfinished]
    names = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writerow({name: _harmless(name) for name in names})
    writer.writerows({key: _harmless(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _csv_line(row: ResultRow) -> dict:
    line = {"rank": row.rank, "status": row.status, "data": row.data.fingerprint}
    line |= {"data_val_test": row.data.fingerprint_val_test, "n_train": row.data.n_train}
    line |= {f"setting {name}": value for name, value in row.changed.items()}
    for split, accuracy in row.accuracies.items():
        for key in ("value", "low", "high", "standard_deviation", "n"):
            name = f"{split}_accuracy" if key == "value" else f"{split}_accuracy_{key}"
            line[name] = getattr(accuracy, key) if accuracy else None
    found = row.comparison or Comparison()
    line |= {"difference": found.difference, "difference_low": found.low, "difference_high": found.high}
    line |= {"p_holm": found.p_value, "verdict": str(found) if row.comparison else None}
    line |= {key: getattr(row, key) for key in ("macs", "parameters", "latency_p50_ms", "wall_time_s")}
    line |= {"seeds": " ".join(map(str, row.seeds)), "n_seeds": len(row.seeds), "n_folds": len(row.folds)}
    return {**line, "reason": None, "runs": " ".join(run.name for run in row.runs)}


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return _escape(text, MARKDOWN)


def _escape(text: object, table: dict[str, str]) -> str:
    return "".join(table.get(letter, letter) for letter in clean(text))


def _harmless(value):
    """Put a quote before a text that a spreadsheet would run as a formula."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, str):
        return value
    text = clean(value)
    is_formula = text.lstrip().startswith(FORMULA_STARTS) and numeral(text) is None
    return f"'{text}" if is_formula and text != "-" else text
