"""The tables as text, Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from common.text import clean, numeral
from reports.aggregate import VAL_TEST, ReportData, ResultGroup, ResultRow
from reports.columns import Column, columns, columns_of_best, columns_of_grid, note
from reports.per_setting import best_note, best_per_setting, edges, grid, grid_note
from reports.significance import answer, describe_selection_bias

TAKEN_FOR_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "…": r"\ldots{}",
}  # fmt: skip
MARKDOWN = {**{c: f"\\{c}" for c in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


def as_text(summary: ReportData) -> str:
    """For the screen: a line a row, then what failed."""
    parts = []
    for section in summary.sections:
        shown = columns(section, summary.columns)
        lines = [[c.title for c in shown], *([str(c.fill(row)) for c in shown] for row in section.rows)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(shown))]
        aligned = [
            "  ".join(
                text.ljust(w) if c.is_text else text.rjust(w) for text, w, c in zip(line, widths, shown, strict=True)
            ).rstrip()
            for line in lines
        ]
        parts.append("\n".join([section.heading, *aligned] if len(summary.sections) > 1 else aligned))
    unfinished = [f"{row.runs[0].record['status']}: {row.runs[0].name}: {reason(row)}" for row in summary.unfinished]
    unfinished += [f"left out: {why}" for _, why in summary.excluded]
    return "\n\n".join([*parts, *(["\n".join(map(clean, unfinished))] if unfinished else [])]) or "no finished runs"


def as_markdown(summary: ReportData, title: str) -> str:
    """Title, answer, tables and what failed."""
    lines = [f"# {_escaped(title, MARKDOWN)}", ""]
    for section in summary.sections:
        shown = columns(section, summary.columns)
        lines += [f"## {_escaped(section.heading, MARKDOWN)}", "", _escaped(" ".join(answer(section)), MARKDOWN), ""]
        lines += _markdown_table(shown, section.rows)
        best_of = describe_selection_bias(section)
        lines += ["", note(section), *([f"\nThe choice of the best: {best_of}."] if best_of else []), ""]
        lines += _markdown_of_settings(section, summary)
    if summary.unfinished or summary.excluded:
        lines += ["## Not in the table", ""]
        for row in summary.unfinished:
            text = f"{row.runs[0].name} ({row.runs[0].record['status']}): {reason(row)}"
            lines.append(f"- {_escaped(text, MARKDOWN)}")
        lines += [f"- {_escaped(why, MARKDOWN)}" for _, why in summary.excluded]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_of_settings(section: ResultGroup, summary: ReportData) -> list[str]:
    """The best of each value of each setting, and the grid of two settings."""
    lines = []
    for comparison in best_per_setting(section):
        lines += [f"### {_escaped(comparison.title, MARKDOWN)}", ""]
        lines += [_escaped(" ".join(comparison.sentences), MARKDOWN), ""]
        lines += [*_markdown_table(columns_of_best(comparison), comparison.bests), ""]
    if lines:
        lines += [best_note(section), ""]
    if found := grid(section):
        lines += [f"### {_escaped(found.title, MARKDOWN)}", ""]
        lines += [*_markdown_table(columns_of_grid(found), found.lines), "", _escaped(grid_note(found), MARKDOWN), ""]
    ends = edges(section, summary.unfinished)
    return [*lines, _escaped(" ".join(ends), MARKDOWN), ""] if ends else lines


def _markdown_table(shown: Sequence[Column], lines: Sequence) -> list[str]:
    made = ["| " + " | ".join(_escaped(column.title, MARKDOWN) for column in shown) + " |"]
    made.append("|" + "|".join("---" if column.is_text else "---:" for column in shown) + "|")
    for line in lines:
        cells = [column.fill(line) for column in shown]
        texts = [(_escaped(str(cell), MARKDOWN), "**" if cell.best else "") for cell in cells]
        made.append("| " + " | ".join(f"{mark}{text}{mark}" for text, mark in texts) + " |")
    return made


def as_latex(summary: ReportData) -> str:
    r"""Tabulars in the style of booktabs; the document needs \usepackage{booktabs}."""
    parts = []
    for section in summary.sections:
        shown = columns(section, summary.columns)
        lines = [f"% {clean(section.heading)}", rf"\begin{{tabular}}{{{''.join('rl'[c.is_text] for c in shown)}}}"]
        lines += [r"\toprule", " & ".join(_escaped(c.title, LATEX) for c in shown) + r" \\", r"\midrule"]
        lines += [" & ".join(_escaped(str(c.fill(row)), LATEX) for c in shown) + r" \\" for row in section.rows]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def as_csv(summary: ReportData) -> str:
    """Full digits, a line a row; failed runs and unfinished ones last, without a rank."""
    lines = [_csv_line(row) for section in summary.sections for row in section.rows]
    for row in summary.unfinished:
        lines.append({**_csv_line(row), "rank": None, "reason": reason(row)})
    names = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writerow({name: _harmless(name) for name in names})
    writer.writerows({key: _harmless(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def reason(row: ResultRow) -> str:
    """Why a run is not in the table."""
    record = row.runs[0].record
    if record["status"] != "running":
        return clean(record.get("reason") or "no reason is recorded")
    return f"began {clean(record['run'].get('started_at'), 40)} and is not at its end: still running, or ended from outside"


def _csv_line(row: ResultRow) -> dict:
    line = {"rank": row.rank, "status": row.runs[0].record["status"], "data": row.data.get("fingerprint")}
    line |= {"data_val_test": row.data.get(VAL_TEST), "n_train": row.n_train}
    line |= {f"setting {name}": value for name, value in row.changed.items()}
    for split, accuracy in row.accuracies.items():
        for key in ("value", "low", "high", "standard_deviation", "n"):
            name = f"{split}_accuracy" if key == "value" else f"{split}_accuracy_{key}"
            line[name] = getattr(accuracy, key) if accuracy else None
    verdict = row.verdict
    line |= {f"difference{k}": getattr(verdict, v, None) for k, v in (("", "difference"), ("_low", "low"))}
    line |= {"difference_high": getattr(verdict, "high", None), "p_holm": getattr(verdict, "p_value", None)}
    line |= {"verdict": str(verdict) if verdict else None}
    line |= {key: getattr(row, key) for key in ("macs", "parameters", "latency_p50_ms", "wall_time_s")}
    line |= {"seeds": " ".join(map(str, row.seeds)), "n_seeds": len(row.seeds), "n_folds": len(row.folds)}
    return {**line, "reason": None, "runs": " ".join(run.name for run in row.runs)}


def _escaped(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(letter, letter) for letter in clean(text))


def _harmless(value):
    """A spreadsheet runs a text that looks like a formula; a quote before it stops that."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, str):
        return value
    text = clean(value)
    is_formula = text.lstrip().startswith(TAKEN_FOR_FORMULAS) and numeral(text) is None
    return f"'{text}" if is_formula and text != "-" else text
