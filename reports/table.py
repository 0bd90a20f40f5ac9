"""The main table as text, Markdown, CSV and LaTeX; its cells also make the page's."""

import csv
import io
import re
from collections.abc import Callable
from typing import NamedTuple

from .rows import Accuracy, Row, Section, Summary
from .verdicts import SPLITS, answer, optimism_in_words
from .words import clean, count, duration, milliseconds

TAKEN_FOR_FORMULAS = ("=", "+", "-", "@")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "…": r"\ldots{}",
}  # fmt: skip
MARKDOWN = {**{c: f"\\{c}" for c in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
NOTE = (
    "With each figure its 95% interval, after ± the standard deviation over seeds, where there are several. The difference is "
    "that of the {split} accuracy to the best row's, on the same pictures and seeds; p-values are Holm-corrected for "
    "{m}, intervals are not. Cost is for one picture; MACs are multiply-accumulates."
)


class Cell(NamedTuple):
    """A text with what stands in brackets after it, and what it is sorted by: a number, a word, or None, which is last."""

    text: str
    value: float | str | None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})" if self.detail else self.text


class Column(NamedTuple):
    """A title, and how a row fills it."""

    title: str
    fill: Callable[[Row], Cell]
    is_text: bool = False


def columns(section: Section, changed: list[str]) -> list[Column]:
    """Those of a section's table of which any row has something."""
    rows = section.rows
    made = [Column("#", lambda row: Cell(str(row.rank), row.rank))]
    made += [Column(name, lambda row, name=name: _setting(row.changed[name]), is_text=True) for name in changed]
    if not changed:
        made.append(Column("network", lambda row: Cell(row.name, row.name), is_text=True))
    for split, word in (("val", "validation accuracy"), ("test", "test accuracy")):
        sizes = {row.accuracies[split].n for row in rows if row.accuracies[split]}
        same = f" (n = {sizes.pop():,})" if len(sizes) == 1 and None not in sizes else ""
        made.append(Column(word + same, lambda row, s=split, n=not same: accuracy_cell(row.accuracies[s], n)))
    if len(rows) > 1:
        made += [Column("difference", _difference), Column("from the best", _verdict, is_text=True)]
    made += [
        Column("MACs", lambda row: Cell(count(row.macs), row.macs)),
        Column("parameters", lambda row: Cell(count(row.parameters), row.parameters)),
        Column("latency p50", lambda row: Cell(milliseconds(row.latency_p50_ms), row.latency_p50_ms)),
        Column("time a run", lambda row: Cell(duration(row.wall_time_s), row.wall_time_s)),
        Column("seeds", lambda row: Cell(str(len(row.seeds)), len(row.seeds))),
        Column("folds", _folds),
    ]
    return [column for column in made if column.is_text or any(column.fill(row).value is not None for row in rows)]


def accuracy_cell(accuracy: Accuracy | None, with_n: bool = False) -> Cell:
    """`0.651 ± 0.013 (0.617 to 0.684)`."""
    if accuracy is None:
        return Cell("-", None)
    spread = "" if accuracy.standard_deviation is None else f" ± {accuracy.standard_deviation:.3f}"
    details = [] if accuracy.low is None else [f"{accuracy.low:.3f} to {accuracy.high:.3f}"]
    details += [f"n = {accuracy.n:,}"] if with_n and accuracy.n else []
    return Cell(f"{accuracy.value:.3f}{spread}", accuracy.value, ", ".join(details))


def note(section: Section) -> str:
    """What the figures of a section's table are."""
    tests = sum(row.verdict.p_value is not None for row in section.rows)
    text = NOTE.format(split=SPLITS[section.split], m=f"{tests:,} comparison{'s' if tests != 1 else ''}")
    if section.split == "val" and tests:
        text += " The best row was chosen on these validation pictures, which flatters it."
    if section.rows[0].test_selected:
        text += " Here the test pictures chose the epoch: these accuracies are too good."
    return text


def as_text(summary: Summary) -> str:
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
    unfinished += [f"left out: {why}" for _, why in summary.left_out]
    return "\n\n".join([*parts, *(["\n".join(map(clean, unfinished))] if unfinished else [])]) or "no finished runs"


def as_markdown(summary: Summary, title: str) -> str:
    """Title, answer, table and what failed."""
    lines = [f"# {_escaped(title, MARKDOWN)}", ""]
    for section in summary.sections:
        shown = columns(section, summary.columns)
        lines += [f"## {_escaped(section.heading, MARKDOWN)}", "", _escaped(" ".join(answer(section)), MARKDOWN), ""]
        lines.append("| " + " | ".join(_escaped(c.title, MARKDOWN) for c in shown) + " |")
        lines.append("|" + "|".join("---" if c.is_text else "---:" for c in shown) + "|")
        for row in section.rows:
            lines.append("| " + " | ".join(_escaped(str(c.fill(row)), MARKDOWN) for c in shown) + " |")
        best_of = optimism_in_words(section)
        lines += ["", note(section), *([f"\nThe choice of the best: {best_of}."] if best_of else []), ""]
    if summary.unfinished or summary.left_out:
        lines += ["## Not in the table", ""]
        for row in summary.unfinished:
            text = f"{row.runs[0].name} ({row.runs[0].record['status']}): {reason(row)}"
            lines.append(f"- {_escaped(text, MARKDOWN)}")
        lines += [f"- {_escaped(why, MARKDOWN)}" for _, why in summary.left_out]
    return "\n".join(lines).rstrip() + "\n"


def as_latex(summary: Summary) -> str:
    r"""Tabulars in the style of booktabs; the document needs \usepackage{booktabs}."""
    parts = []
    for section in summary.sections:
        shown = columns(section, summary.columns)
        lines = [f"% {clean(section.heading)}", rf"\begin{{tabular}}{{{''.join('rl'[c.is_text] for c in shown)}}}"]
        lines += [r"\toprule", " & ".join(_escaped(c.title, LATEX) for c in shown) + r" \\", r"\midrule"]
        lines += [" & ".join(_escaped(str(c.fill(row)), LATEX) for c in shown) + r" \\" for row in section.rows]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def as_csv(summary: Summary) -> str:
    """Full digits, a line a row; failed runs and unfinished ones last, without a rank."""
    lines = [_csv_line(row, section.rows[0].data) for section in summary.sections for row in section.rows]
    for row in summary.unfinished:
        lines.append({**_csv_line(row, row.data), "rank": None, "reason": reason(row)})
    names = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writerow({name: _harmless(name) for name in names})
    writer.writerows({key: _harmless(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def reason(row: Row) -> str:
    """Why a run is not in the table."""
    record = row.runs[0].record
    if record["status"] == "failed":
        return clean(record.get("reason") or "no reason is recorded")
    return f"began {clean(record['run'].get('started_at'), 40)} and is not at its end: still running, or ended from outside"


def _csv_line(row: Row, data: dict) -> dict:
    line = {"rank": row.rank, "status": row.runs[0].record["status"], "data": data.get("fingerprint")}
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


def _setting(text: str) -> Cell:
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text)
    return Cell(text, float(text) if number else text)


def _difference(row: Row) -> Cell:
    found = row.verdict
    if found.difference is None:
        return Cell("-", 0.0 if found.reason == "the best" else None)
    return Cell(f"{found.difference:+z.3f}", found.difference, f"{found.low:z.3f} to {found.high:z.3f}")


def _verdict(row: Row) -> Cell:
    found = row.verdict
    if found.reason is not None:
        return Cell(str(found), -2.0 if found.reason == "the best" else None)
    words, _, p_value = str(found).partition(" (")
    return Cell(words, -found.p_value, p_value.rstrip(")"))


def _folds(row: Row) -> Cell:
    wanted = row.data.get("folds")
    return Cell(f"{len(row.folds)} of {wanted}", len(row.folds)) if row.folds else Cell("-", None)


def _escaped(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(letter, letter) for letter in clean(text))


def _harmless(value):
    """A spreadsheet runs a text that looks like a formula; a quote before it stops that."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, str):
        return value
    text = clean(value)
    is_formula = text.lstrip().startswith(TAKEN_FOR_FORMULAS) and not isinstance(_setting(text).value, float)
    return f"'{text}" if is_formula and text != "-" else text
