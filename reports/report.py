"""The report of many runs: page, Markdown, CSV and LaTeX, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.atomic_io import write_text
from common.text import clean
from reports.aggregate import aggregate
from reports.load_runs import common_folder, find_records, load_runs
from reports.provenance import title_of
from reports.renderers import as_csv, as_latex, as_markdown, as_text
from reports.significance import answer, compare_to_best

LONGEST_TITLE = 200  # characters


class Written(NamedTuple):
    """What was written, and what the screen shows of it."""

    page: Path
    text: str  # table, then the answer
    warnings: list[str]  # records left out


def write_report(where: str | Sequence[str], out: str | None = None, title: str | None = None) -> Written:
    """Writes report.html, report.md, table.csv and table.tex.

    Args:
        where: folder of the runs, several, or a pattern with *; searched to any depth.
        out: folder of what is written, or the page's own name ending in .html, whose name the other three then share;
            None: the folder that holds the runs.
        title: of the page; None: the experiment's name, or what differs.

    Raises:
        ValueError: no runs, none that can be read, or no permission to write.
    """
    paths = find_records(where)
    gathered = load_runs(paths)
    summary = aggregate(gathered)
    compare_to_best(summary)
    title = clean(title, LONGEST_TITLE) if title else title_of(summary)
    from reports.page import make_page  # late: errors come without matplotlib

    page, markdown, table, latex = _names(Path(out) if out else common_folder(paths))
    contents = {
        page: make_page(summary, title),
        markdown: as_markdown(summary, title),
        table: as_csv(summary),
        latex: as_latex(summary),
    }
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            write_text(path, text)
    except OSError as error:
        raise ValueError(f"out={out}: {page.parent} cannot be written: {error.strerror}; use out=DIR") from error
    answers = "\n\n".join(" ".join(answer(section)) for section in summary.sections)
    return Written(page, f"{as_text(summary)}\n\n{answers}".strip(), [why for _, why in summary.excluded])


def _names(out: Path) -> tuple[Path, Path, Path, Path]:
    if out.suffix.lower() in (".html", ".htm"):
        return out, out.with_suffix(".md"), out.with_suffix(".csv"), out.with_suffix(".tex")
    return out / "report.html", out / "report.md", out / "table.csv", out / "table.tex"
