"""The report of many runs: page, Markdown, CSV and LaTeX, each written whole or not at all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from common.atomic_io import write_text
from common.checks import check_good_enough, check_target_accuracy
from common.errors import UserError
from common.progress import Progress
from common.run_folder import RunFolder, missing_folders, remove_empty
from common.text import clean
from reports.aggregate import aggregate
from reports.load_runs import EXAMPLE, common_folder, find_records, given_folders, load_runs
from reports.provenance import title_of
from reports.renderers import as_csv, as_latex, as_markdown, as_text
from reports.run_links import chosen_run
from reports.studies import search_of

log = logging.getLogger(__name__)

LONGEST_TITLE = 200  # characters


class Written(NamedTuple):
    """The page that was written, and what the screen shows."""

    page: Path
    text: str  # tables with their answers, and why records are excluded
    excluded: list[str]  # the reasons by themselves, for callers that do not show the text


def run(config: DictConfig) -> None:
    """Write the report that conf/report.yaml describes; print its table and answer.

    Raises:
        UserError: as write_report; or `runs` or `out` is not a path.
    """
    if OmegaConf.is_dict(config.runs):
        raise UserError(f"runs={config.runs}: is not a folder; {EXAMPLE}, or several, runs=[DIR,DIR]")
    if OmegaConf.is_config(config.out):
        raise UserError(f"out={config.out}: is not one path; use out=DIR or out=NAME.html")
    runs = OmegaConf.to_container(config.runs) if OmegaConf.is_list(config.runs) else config.runs
    runs, out = (str(each) if isinstance(each, (int, float)) else each for each in (runs, config.out))
    written = write_report(runs, out, config.title, config.good_enough, config.target_accuracy)
    print(f"{written.text}\n\nPage: {written.page}")


def write_report(
    where: str | Sequence[str],
    out: str | None = None,
    title: str | None = None,
    good_enough: float = 0.02,
    target_accuracy: float | None = None,
    *,
    draws_overview: bool = False,
) -> Written:
    """Write report.html, report.md, table.csv and table.tex.

    Args:
        where: folder of the runs, several, or a pattern with *; searched to any depth.
        out: folder of what is written, or the page's own name ending in .html, whose name the other three then share;
            None: the folder that holds the runs.
        title: of the page; None: the experiment's name, or what differs.
        good_enough: accuracy that a smaller network may lack against the best and still be good enough.
        target_accuracy: accuracy that is enough whatever the best has; the answer then names the smallest network above it.
        draws_overview: write overview.png into the folder of the chosen run where it has none; the page shows it.

    Raises:
        UserError: no runs, none that can be read, no such margin or target, or no permission to write.
    """
    check_good_enough(good_enough)
    check_target_accuracy(target_accuracy)
    with Progress("reading the runs and writing the report", log):
        paths = find_records(where)
        data = aggregate(load_runs(paths, given_folders(where)), good_enough, target_accuracy)
        if draws_overview:
            for run in filter(None, map(chosen_run, data.groups)):
                _draw_overview(run.folder)
        title = clean(title, LONGEST_TITLE) if title else title_of(data)
        from reports.page import make_page  # late: errors come without matplotlib

        page, markdown, table, latex = _names(Path(out) if out else common_folder(paths))
        contents = {
            page: make_page(data, title, page.parent, search_of(common_folder(paths))),
            markdown: as_markdown(data, title),
            table: as_csv(data),
            latex: as_latex(data),
        }
        made = missing_folders(page.parent)
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            for path, text in contents.items():
                write_text(path, text)
        except OSError as error:
            remove_empty(made)
            given, instead = (f"out={out}: ", "use") if out else ("", "python report.py takes")
            raise UserError(f"{given}{page.parent} cannot be written: {error.strerror}; {instead} out=DIR") from error
        return Written(page, as_text(data).strip(), [why for _, why in data.excluded])


def _draw_overview(folder: RunFolder) -> None:
    """Draw overview.png, which the jobs of a sweep skip; if that fails, log a warning and do without."""
    if folder.figure("overview").is_file():
        return
    from reports.overview import write_overview  # late, as above

    try:
        write_overview(folder)
    except (UserError, OSError, ValueError) as error:
        log.warning("overview.png was not drawn: %s", error)


def _names(out: Path) -> tuple[Path, Path, Path, Path]:
    if out.suffix.lower() in (".html", ".htm"):
        return out, out.with_suffix(".md"), out.with_suffix(".csv"), out.with_suffix(".tex")
    return out / "report.html", out / "report.md", out / "table.csv", out / "table.tex"
