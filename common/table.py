"""One table in every format: text, Markdown, LaTeX and CSV; on a page, the macro of reports/page.html shows it."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from common.text import clean, numeral

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "…": r"\ldots{}",
}  # fmt: skip
MARKDOWN = {**{c: f"\\{c}" for c in "\\`*_[]|#$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


class Cell(NamedTuple):
    """A text, a detail in parentheses after it, and the value to sort by: a number, a word, or None, which comes last."""

    text: str
    value: float | str | None
    detail: str = ""
    best: bool = False  # whether it is the best of its line

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})" if self.detail else self.text


class Column(NamedTuple):
    """A title and a function that makes the cell of a row; texts are aligned left, numbers right."""

    title: str
    fill: Callable[..., Cell] | None = None
    is_text: bool = False


class Table(NamedTuple):
    """Columns, and lines of cells; a cell may be a plain value."""

    columns: list[Column]
    lines: list[list]

    @classmethod
    def of(cls, titles: Iterable[str], lines: Sequence[Sequence], texts: int = 1) -> "Table":
        """Make a table of plain values in which the first `texts` columns are texts."""
        return cls([Column(title, is_text=i < texts) for i, title in enumerate(titles)], list(map(list, lines)))

    @classmethod
    def filled(cls, columns: list[Column], rows: Sequence) -> "Table":
        """Fill the columns, one line per row; drop columns of numbers that have none."""
        cells = [(column, [column.fill(row) for row in rows]) for column in columns]
        kept = [(column, made) for column, made in cells if column.is_text or any(c.value is not None for c in made)]
        return cls([column for column, _ in kept], list(map(list, zip(*(made for _, made in kept), strict=True))))

    @property
    def titles(self) -> list[str]:
        return [column.title for column in self.columns]

    def as_text(self) -> list[str]:
        """Return lines for the screen: the titles, then each line."""
        lines = [[str(cell) for cell in line] for line in (self.titles, *self.lines)]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        pads = [str.ljust if column.is_text else str.rjust for column in self.columns]
        return [
            "  ".join(pad(text, width) for pad, text, width in zip(pads, line, widths, strict=True)).rstrip()
            for line in lines
        ]

    def as_markdown(self) -> list[str]:
        """Return the lines of a table in Markdown, every cell escaped."""
        rules = "|".join("---" if column.is_text else "---:" for column in self.columns)
        head, *lines = (f"| {' | '.join(map(_markdown_cell, line))} |" for line in (self.titles, *self.lines))
        return [head, f"|{rules}|", *lines]

    def as_latex(self) -> list[str]:
        r"""Return the lines of a tabular in the style of booktabs; the document needs \usepackage{booktabs}."""
        alignment = "".join("l" if column.is_text else "r" for column in self.columns)
        head, *lines = (
            " & ".join(_escape(cell, LATEX) for cell in line) + r" \\" for line in (self.titles, *self.lines)
        )
        begin = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule"]
        return [*begin, *lines, r"\bottomrule", r"\end{tabular}"]

    def as_csv(self) -> str:
        """Return plain values with full digits; None is empty, and a spreadsheet runs no text as a formula."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(map(_harmless, line) for line in (self.titles, *self.lines))
        return text.getvalue()


def escape_markdown(text: object) -> str:
    """Return text escaped for Markdown, in one line."""
    return _escape(text, MARKDOWN)


def _markdown_cell(cell: object) -> str:
    mark = "**" if isinstance(cell, Cell) and cell.best else ""
    return f"{mark}{escape_markdown(cell)}{mark}"


def _escape(text: object, replacements: dict[str, str]) -> str:
    return "".join(replacements.get(letter, letter) for letter in clean(text))


def _harmless(value):
    """Put a quote before a text that a spreadsheet would run as a formula."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, str):
        return value
    text = clean(value)
    is_formula = text.lstrip().startswith(FORMULA_STARTS) and numeral(text) is None
    return f"'{text}" if is_formula and text != "-" else text
